//! Archives into drafts: layers of base images, and local archives that ADD unpacks.
//!
//! Every name is cleaned lexically, so that neither `..` nor a leading slash leads out, and its directory is then looked
//! up in the tree of what is below and what was unpacked so far, with links followed inside the root. What is written
//! goes through [`Upper`], by descriptors that follow no links: an archive cannot reach anything but its draft.

mod decompress;
mod reader;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::rc::Rc;

use crate::content::ErrorClass;
use crate::oci::{DiffId, Hasher};
use crate::sys::fs::named;

use super::differ::{PATH_LIMIT, is_kept, normal_value};
use super::snapshot::Draft;
use super::snapshot::upper::{Upper, shown};
use super::tree::{Entry, Kind, LoopError, cleaned, join, split};
use reader::{Member, MemberKind, Reader};

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UntarError {
    /// Reading the archive or writing what is in it did not work.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no tar.
    #[error("the archive is malformed: {0} cannot be read")]
    Malformed(&'static str),
    /// Something in the archive is larger than anything honest.
    #[error("the archive is refused: {0} is too large")]
    TooLarge(&'static str),
    /// A member is of a type that no writer of layers uses.
    #[error("the archive has a member of type `{}`, which is unknown", char::from(*.0).escape_default())]
    UnknownType(u8),
    /// A hard link's target is not there.
    #[error("`{}` is a hard link to `{}`, which is not there", shown(path).display(), shown(to).display())]
    NoTarget {
        /// The link.
        path: Vec<u8>,
        /// What it should be another name of.
        to: Vec<u8>,
    },
    /// A device that overlay file systems take for "nothing is here".
    #[error("`{}` is the character device 0:0, which is no device but a mark of overlay file systems", shown(path).display())]
    WhiteoutDevice {
        /// The device.
        path: Vec<u8>,
    },
    /// Links of the image lead in circles.
    #[error(transparent)]
    Loop(#[from] LoopError),
}

impl UntarError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io(_) | Self::Malformed(_) => ErrorClass::Damaged,
            Self::TooLarge(_) | Self::UnknownType(_) | Self::NoTarget { .. } => ErrorClass::Permanent,
            Self::WhiteoutDevice { .. } | Self::Loop(_) => ErrorClass::Permanent,
        }
    }
}

/// How members of an archive are unpacked.
pub(super) struct Members {
    /// The directory that they go into.
    pub(super) into: Vec<u8>,
    /// Their owner, when it is not the archive's.
    pub(super) owner: Option<(u32, u32)>,
    /// What directories that the archive does not name are like.
    pub(super) new_directory: Entry,
}

/// Most members of one archive; the largest images have about a million files.
const MEMBERS_LIMIT: u64 = 10_000_000;
/// Most bytes that all files of one archive have together, holes included.
const BYTES_LIMIT: u64 = 1 << 40;
/// From this many bytes on, an archive that is [`RATIO_LIMIT`] times smaller than its content is refused.
const RATIO_FROM: u64 = 16 << 30;
const RATIO_LIMIT: u64 = 500;

/// Decompressing and hashing a header at a time would cost more than the header.
const READ_AHEAD: usize = 128 << 10;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Begins the names of what the AUFS file system kept for itself in layers.
const AUFS: &[u8] = b".wh..wh.";

/// Unpacks the layer `blob` of a base image, compressed or not, and returns its diff id.
pub(super) fn layer(draft: &mut Draft, blob: impl Read) -> Result<DiffId, UntarError> {
    let consumed = Rc::new(Cell::new(0));
    let counted = Counting { inner: blob, count: consumed.clone() };
    let unpacked = Rc::new(Cell::new(0));
    let plain = Counting { inner: decompress::decompress(counted)?, count: unpacked.clone() };
    let mut stream = Hashing { inner: plain, hasher: Hasher::default() };
    let mut upper = Upper::new(draft)?;
    let members = Members { into: Vec::new(), owner: None, new_directory: Entry::directory(0o755, 0, 0, 0) };
    let mut unpacking = Unpacking::new(&mut upper, &members);
    let mut reader = Reader::new(BufReader::with_capacity(READ_AHEAD, &mut stream));
    while let Some(member) = reader.next()? {
        unpacking.layer_member(member, &mut reader)?;
        if unpacked.get() > RATIO_FROM && unpacked.get() / RATIO_LIMIT > consumed.get() {
            return Err(UntarError::TooLarge("the content, for so small an archive,"));
        }
    }
    unpacking.hide()?;
    io::copy(&mut stream, &mut io::sink())?;
    upper.finish()?;
    Ok(DiffId(stream.hasher.finish()))
}

/// Returns whether the file is a tar, compressed or not, as BuildKit asks: whether a first member can be read.
pub(super) fn is_archive(mut file: &File) -> io::Result<bool> {
    let first = decompress::decompress(file).map_err(UntarError::from).and_then(|stream| Reader::new(stream).next());
    file.rewind()?;
    Ok(matches!(first, Ok(Some(_))))
}

/// Unpacks an archive that ADD names.
pub(super) fn archive(upper: &mut Upper<'_>, file: &File, members: &Members) -> Result<(), UntarError> {
    let mut reader = Reader::new(BufReader::with_capacity(READ_AHEAD, decompress::decompress(file)?));
    let mut unpacking = Unpacking::new(upper, members);
    while let Some(member) = reader.next()? {
        unpacking.member(member, &mut reader)?;
    }
    Ok(())
}

struct Unpacking<'u, 'd, 'm> {
    upper: &'u mut Upper<'d>,
    members: &'m Members,
    count: u64,
    bytes: u64,
    /// Paths of lower layers that the archive says are gone.
    gone: Vec<Vec<u8>>,
    /// Directories of which the archive says that what lower layers have in them is gone.
    emptied: Vec<Vec<u8>>,
}

impl<'u, 'd, 'm> Unpacking<'u, 'd, 'm> {
    fn new(upper: &'u mut Upper<'d>, members: &'m Members) -> Self {
        Self { upper, members, count: 0, bytes: 0, gone: Vec::new(), emptied: Vec::new() }
    }

    /// Unpacks a member of a layer, in which some names mean that something is gone.
    fn layer_member<R: Read>(&mut self, member: Member, reader: &mut Reader<R>) -> Result<(), UntarError> {
        let path = cleaned(&member.path);
        let (parent, name) = split(&path);
        if name == OPAQUE {
            let directory = self.upper.tree().resolve(parent)?;
            for child in self.children(&directory) {
                self.forget_lower(&child);
            }
            self.emptied.push(directory);
        } else if name.starts_with(AUFS) {
            // Nothing that a root file system has.
        } else if let Some(name) = name.strip_prefix(WHITEOUT) {
            if !matches!(name, b"" | b"." | b"..") {
                let hidden = join(&self.upper.tree().resolve(parent)?, name);
                self.forget_lower(&hidden);
                self.gone.push(hidden);
            }
        } else {
            self.member(member, reader)?;
        }
        Ok(())
    }

    /// Removes from the tree what is at and below `path` and is not of this archive, wherever in the archive it stands.
    fn forget_lower(&mut self, path: &[u8]) {
        let mut todo = vec![path.to_vec()];
        while let Some(path) = todo.pop() {
            if self.upper.is_own(&path) {
                todo.extend(self.children(&path));
            } else {
                self.upper.forget(&path);
            }
        }
    }

    fn children(&self, path: &[u8]) -> Vec<Vec<u8>> {
        self.upper.tree().children(path).map(|(name, _)| join(path, name)).collect()
    }

    /// Hides what is gone, now that it is known what the archive puts in its place.
    fn hide(&mut self) -> Result<(), UntarError> {
        let below = self.upper.draft.parent().tree.clone();
        let was_directory = |path: &[u8]| below.get(path).is_some_and(Entry::is_directory);
        for path in std::mem::take(&mut self.emptied) {
            let is_directory = self.upper.tree().get(&path).is_some_and(Entry::is_directory);
            if was_directory(&path) && is_directory && !path.is_empty() {
                self.upper.ensure_directory(&path, &self.members.new_directory)?;
                self.upper.make_opaque(&path);
            } else if path.is_empty() {
                self.gone.extend(below.children(b"").map(|(name, _)| name.to_vec()));
            }
        }
        for path in std::mem::take(&mut self.gone) {
            let replaced = self.upper.tree().get(&path);
            if replaced.is_some_and(Entry::is_directory) && was_directory(&path) {
                self.upper.make_opaque(&path);
            } else if replaced.is_none() && below.get(&path).is_some() {
                let parent = split(&path).0;
                // Hidden with its directory otherwise.
                if self.upper.tree().get(parent).is_some_and(Entry::is_directory) {
                    self.upper.ensure_directory(parent, &self.members.new_directory)?;
                    self.upper.whiteout(&path)?;
                }
            }
        }
        Ok(())
    }

    fn member<R: Read>(&mut self, member: Member, reader: &mut Reader<R>) -> Result<(), UntarError> {
        self.count += 1;
        if self.count > MEMBERS_LIMIT {
            return Err(UntarError::TooLarge("the number of members"));
        }
        let name = cleaned(&member.path);
        if name.len() >= PATH_LIMIT {
            return Err(UntarError::TooLarge("a path"));
        }
        let path = self.upper.tree().resolve_parent(&join(&self.members.into, &name))?;
        if name.is_empty() {
            return self.root(&member, &path);
        }
        self.upper.ensure_directory(split(&path).0, &self.members.new_directory)?;
        self.put(member, &path, reader)
    }

    /// Takes over the metadata of a layer's root. That of the directory that ADD unpacks into is left alone.
    fn root(&mut self, member: &Member, path: &[u8]) -> Result<(), UntarError> {
        if path.is_empty()
            && self.members.into.is_empty()
            && self.members.owner.is_none()
            && matches!(member.kind, MemberKind::Directory)
        {
            self.upper.directory(path, &self.entry(member, Kind::Directory))?;
        }
        Ok(())
    }

    fn put<R: Read>(&mut self, member: Member, path: &[u8], reader: &mut Reader<R>) -> Result<(), UntarError> {
        let kind = match &member.kind {
            MemberKind::Directory => {
                self.upper.directory(path, &self.entry(&member, Kind::Directory))?;
                return Ok(());
            }
            MemberKind::File { size, pieces } => {
                self.bytes = self.bytes.saturating_add(*size);
                if self.bytes > BYTES_LIMIT {
                    return Err(UntarError::TooLarge("the content"));
                }
                let entry = self.entry(&member, Kind::File { size: *size, hash: blake3::Hash::from_bytes([0; 32]) });
                let fill =
                    |file: &File| reader.copy_data(*size, pieces.as_deref(), file).map_err(|e| named(e, "unpack", &shown(path)));
                return Ok(self.upper.file(path, &entry, fill)?);
            }
            MemberKind::HardLink(to) => return self.hard_link(to, path),
            MemberKind::Symlink(target) => Kind::Symlink { target: target.clone() },
            MemberKind::Fifo => Kind::Fifo,
            MemberKind::CharDevice(0, 0) => return Err(UntarError::WhiteoutDevice { path: path.to_vec() }),
            MemberKind::CharDevice(major, minor) => Kind::CharDevice { major: *major, minor: *minor },
            MemberKind::BlockDevice(major, minor) => Kind::BlockDevice { major: *major, minor: *minor },
        };
        let mut entry = self.entry(&member, kind);
        entry.xattrs.clear();
        if matches!(entry.kind, Kind::Symlink { .. }) {
            entry.mode = 0o777;
        }
        Ok(self.upper.special(path, &entry)?)
    }

    fn hard_link(&mut self, to: &[u8], path: &[u8]) -> Result<(), UntarError> {
        let target = self.upper.tree().resolve_parent(&join(&self.members.into, &cleaned(to)))?;
        let missing = || UntarError::NoTarget { path: path.to_vec(), to: target.clone() };
        let entry = self.upper.tree().get(&target).ok_or_else(missing)?.clone();
        if target == path {
            return Ok(());
        }
        match entry.kind {
            Kind::Directory => Err(missing()),
            Kind::File { .. } => {
                if !self.upper.is_own(&target) {
                    // The name it is linked to is a file of a lower layer: both names become one new file.
                    let mut lower = self.upper.open_lower(&target)?;
                    self.upper.ensure_directory(split(&target).0, &self.members.new_directory)?;
                    self.upper.file(&target, &entry, |mut file| io::copy(&mut lower, &mut file).map(drop))?;
                }
                Ok(self.upper.hard_link(&target, path)?)
            }
            _ => Ok(self.upper.special(path, &entry)?),
        }
    }

    fn entry(&self, member: &Member, kind: Kind) -> Entry {
        let (uid, gid) = self.members.owner.unwrap_or((member.uid, member.gid));
        let kept = member.xattrs.iter().filter(|(name, _)| is_kept(name));
        let xattrs = kept.map(|(name, value)| (name.clone(), normal_value(name, value.clone()))).collect();
        Entry { kind, mode: member.mode, uid, gid, mtime: member.mtime, xattrs }
    }
}

/// Counts what is read.
struct Counting<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// Hashes what is read.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
