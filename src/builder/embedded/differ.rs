//! What changed in a draft: its upper directory against the tree below it.
//!
//! Reads only the upper directory; what is below is known from the parent's tree. Afterwards the upper directory is in
//! canonical form (`snapshot`): whatever is not a change is removed from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::content::ErrorClass;
use crate::sys::fs::named;

use super::form::{DEVICE, Form, OURS, OWNER, Owners, born, parse_device, parse_owner};
use super::parallel;
use super::snapshot::draft::{Draft, Whiteouts};
use super::snapshot::upper::{make_whiteout, open_beneath, open_root, set_time, shown};
use super::tree::{Change, ChangeList, Entry, Kind, Tree, join, split, walk_order};

/// Longest path that is taken; the kernel's limit for one path.
pub(super) const PATH_LIMIT: usize = 4096;

/// Why changes could not be found out.
#[derive(Debug, thiserror::Error)]
pub enum DifferError {
    /// Something in the upper directory could not be read or put right.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A step made a path that most programs cannot open.
    #[error("the path `/{}…` is longer than {PATH_LIMIT} bytes", String::from_utf8_lossy(&.path[..64]))]
    PathTooLong {
        /// The path.
        path: Vec<u8>,
    },
    /// The overlay was mounted with features whose traces a layer cannot hold.
    #[error("`{}` has the attribute `{attribute}`, which an overlay mounted as agreed never sets", shown(path).display())]
    Foreign {
        /// Where.
        path: Vec<u8>,
        /// The attribute.
        attribute: String,
    },
}

impl DifferError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io(_) => ErrorClass::Damaged,
            Self::PathTooLong { .. } | Self::Foreign { .. } => ErrorClass::Permanent,
        }
    }
}

/// What happens to the metadata of the root directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Root {
    /// It stays what it was: layers that are built do not carry it.
    Kept,
    /// A change of it is recorded: layers of base images may.
    Recorded,
}

/// Returns what a draft, whose files stand on disk as its form says, changes in its parent, and brings its upper directory
/// into canonical form.
///
/// # Errors
/// As [`DifferError`]; the directory may then be half in order and is good only for deletion.
pub(super) fn changes(draft: &Draft, root: Root) -> Result<ChangeList, DifferError> {
    let (upper, parent) = (&draft.upper, &*draft.parent().tree);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, upper, flags, Mode::empty()).map_err(|e| named(e.into(), "open", upper))?;
    let mut walk = Walk {
        root: directory,
        parent,
        draft,
        form: &draft.form,
        owners: &draft.owners,
        groups: HashMap::new(),
        found: Vec::new(),
        hidden: draft.hidden.iter().cloned().collect(),
        touched: BTreeSet::new(),
    };
    if let Some(root) = parent.get(b"") {
        walk.hands_down(&[], root);
    }
    // A list of what is still to do instead of recursion: a step may have made two thousand directories in each other.
    let mut todo = vec![(Vec::new(), draft.opaque.contains(&b""[..]))];
    while let Some((path, fresh)) = todo.pop() {
        walk.directory(&path, fresh, &mut todo)?;
    }
    let entries = walk.entries()?;
    let mut decided = decide(parent, entries, &walk.hidden, &|path, stat| written_anew(&draft.lowers, path, stat))?;
    walk.tidy(&decided)?;
    walk.settle_root(root, &mut decided.changes)?;
    Ok(ChangeList::new(decided.changes.into_iter().collect()))
}

/// One thing in the upper directory that is neither a whiteout nor a socket.
struct Found {
    path: Vec<u8>,
    stat: Stat,
    /// Without the data's hash for files.
    entry: Entry,
}

struct Walk<'a> {
    root: OwnedFd,
    parent: &'a Tree,
    draft: &'a Draft,
    form: &'a Form,
    owners: &'a Owners,
    /// Directories that hand their group down to what is made in them.
    groups: HashMap<Vec<u8>, u32>,
    found: Vec<Found>,
    /// Paths below that are gone.
    hidden: Vec<Vec<u8>>,
    /// Directories whose time this walk changed.
    touched: BTreeSet<Vec<u8>>,
}

impl Walk<'_> {
    /// Notes everything in the directory; directories in it are added to `todo`. `fresh` when nothing of the layers
    /// below shows in it.
    fn directory(&mut self, path: &[u8], fresh: bool, todo: &mut Vec<(Vec<u8>, bool)>) -> Result<(), DifferError> {
        let directory = open_beneath(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names: Vec<CString> = rustix::fs::Dir::read_from(&directory)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name().to_owned())).collect())
            .map_err(|error| named(error.into(), "list", &shown(path)))?;
        names.retain(|name| !matches!(name.to_bytes(), b"." | b".."));
        names.sort_unstable();
        for name in &names {
            let child = join(path, name.to_bytes());
            if let Some(inner_fresh) = self.child(child.clone(), &directory, OsStr::from_bytes(name.to_bytes()))? {
                todo.push((child, fresh || inner_fresh));
            }
        }
        if fresh {
            for (name, _) in self.parent.children(path) {
                if names.binary_search_by(|other| other.to_bytes().cmp(name)).is_err() {
                    self.hide(join(path, name), &directory, OsStr::from_bytes(name))?;
                }
            }
        }
        Ok(())
    }

    fn hide(&mut self, path: Vec<u8>, directory: &OwnedFd, name: &OsStr) -> Result<(), DifferError> {
        if self.draft.whiteouts == Whiteouts::OnDisk {
            make_whiteout(directory.as_fd(), name).map_err(|e| named(e, "hide", &shown(&path)))?;
            self.touched.insert(split(&path).0.to_vec());
        }
        self.hidden.push(path);
        Ok(())
    }

    fn discard(&mut self, path: &[u8], directory: &OwnedFd, name: &OsStr) -> Result<(), DifferError> {
        rustix::fs::unlinkat(directory, name, AtFlags::empty()).map_err(|e| named(e.into(), "remove", &shown(path)))?;
        self.touched.insert(split(path).0.to_vec());
        Ok(())
    }

    /// Notes one thing. For a directory returns whether it hides what is below it.
    fn child(&mut self, path: Vec<u8>, directory: &OwnedFd, name: &OsStr) -> Result<Option<bool>, DifferError> {
        if path.len() >= PATH_LIMIT {
            return Err(DifferError::PathTooLong { path });
        }
        let fail = |action: &'static str| {
            let path = shown(&path);
            move |error: Errno| named(error.into(), action, &path)
        };
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail("read"))?;
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let mut attributes = Attributes::default();
        let mut opaque = None;
        let has_attributes = matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::RegularFile);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = open_beneath(directory.as_fd(), name.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY)?;
                attributes = read_xattrs(inner.as_fd(), self.form, &path)?;
                if attributes.opaque {
                    rustix::fs::fremovexattr(&inner, self.form.opaque()).map_err(fail("unmark"))?;
                }
                opaque = Some(attributes.opaque || self.draft.opaque.contains(&path));
                Kind::Directory
            }
            FileType::RegularFile => {
                let file = open_beneath(directory.as_fd(), name.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK)?;
                attributes = read_xattrs(file.as_fd(), self.form, &path)?;
                match attributes.device.take() {
                    Some(device) => {
                        attributes.kept.clear();
                        device
                    }
                    None => Kind::File { size: stat.st_size as u64, hash: blake3::Hash::from_bytes([0; 32]) },
                }
            }
            FileType::CharacterDevice if (major, minor) == (0, 0) => {
                // A whiteout of what was never there is left when a step removes what it made.
                if self.parent.get(&path).is_none() {
                    self.discard(&path, directory, name)?;
                } else {
                    self.hidden.push(path);
                }
                return Ok(None);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).map_err(fail("read"))?;
                Kind::Symlink { target: target.into_bytes() }
            }
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            // Sockets: a layer cannot hold them, and nothing can connect to one that nobody listens on.
            _ => {
                self.discard(&path, directory, name)?;
                if self.parent.get(&path).is_some() {
                    self.hide(path, directory, name)?;
                }
                return Ok(None);
            }
        };
        let owner = match attributes.owner {
            None if !has_attributes => self.link_owner(directory, name, &stat),
            recorded => recorded,
        };
        let unwritten = owner.is_none() && has_attributes && self.form.is_single();
        let owner = self.owner(&path, &stat, &kind, owner);
        if unwritten {
            // The steps after this one run as others.
            let file = open_beneath(directory.as_fd(), name.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW)?;
            self.form.own(file.as_fd(), owner.0, owner.1)?;
        }
        let entry = entry(&stat, kind, owner, attributes.kept);
        self.hands_down(&path, &entry);
        self.found.push(Found { entry, path, stat });
        Ok(opaque)
    }

    /// Returns the true owner of something: what was written down about it; else, where nothing on disk tells, that of the
    /// lower layers' link or pipe that it was copied from; else that of whatever the step makes.
    fn owner(&self, path: &[u8], stat: &Stat, kind: &Kind, recorded: Option<(u32, u32)>) -> (u32, u32) {
        let is_link = !matches!(kind, Kind::Directory | Kind::File { .. });
        if let Some(owner) = recorded {
            return owner;
        }
        if !self.form.is_single() {
            return (stat.st_uid, stat.st_gid);
        }
        match self.parent.get(path) {
            Some(below) if is_link && below.kind == *kind => (below.uid, below.gid),
            _ => (self.owners.new.0, self.groups.get(split(path).0).copied().unwrap_or(self.owners.new.1)),
        }
    }

    fn link_owner(&self, directory: &OwnedFd, name: &OsStr, stat: &Stat) -> Option<(u32, u32)> {
        let known = self.owners.links.get(&stat.st_ino)?;
        if known.born.is_some() {
            let file = open_beneath(directory.as_fd(), name.as_bytes(), OFlags::PATH | OFlags::NOFOLLOW).ok()?;
            return (born(file.as_fd()) == known.born).then_some(known.owner);
        }
        Some(known.owner)
    }

    fn hands_down(&mut self, path: &[u8], entry: &Entry) {
        if entry.is_directory() && entry.mode & libc::S_ISGID != 0 {
            self.groups.insert(path.to_vec(), entry.gid);
        }
    }

    /// Returns what was found with the data of files hashed, each file once however many names it has.
    fn entries(&mut self) -> Result<Vec<Found>, DifferError> {
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable_by(|a, b| walk_order(&a.path, &b.path));
        let mut first_names: HashMap<(u64, u64), usize> = HashMap::new();
        let mut files: Vec<usize> = Vec::new();
        for (index, item) in found.iter().enumerate() {
            if matches!(item.entry.kind, Kind::File { .. }) && *first_names.entry(inode(&item.stat)).or_insert(index) == index {
                files.push(index);
            }
        }
        let root = self.root.as_fd();
        let hashes = parallel::map(&files, |index| {
            let path = &found[*index].path;
            let file = open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK)?;
            hash_file(&File::from(file)).map_err(|e| named(e, "read", &shown(path)))
        })?;
        let hashes: HashMap<(u64, u64), (u64, blake3::Hash)> =
            files.iter().zip(hashes).map(|(index, hash)| (inode(&found[*index].stat), hash)).collect();
        for item in &mut found {
            if let Kind::File { size, hash } = &mut item.entry.kind {
                (*size, *hash) = hashes[&inode(&item.stat)];
            }
        }
        Ok(found)
    }

    /// Removes everything that is not a change, deepest first, and sets directories back to the time they had.
    fn tidy(&mut self, decided: &Decided) -> io::Result<()> {
        for (path, is_directory) in decided.unchanged.iter().rev() {
            let (parent, name) = split(path);
            let directory = open_beneath(self.root.as_fd(), parent, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let flags = if *is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            rustix::fs::unlinkat(&directory, OsStr::from_bytes(name), flags)
                .map_err(|e| named(e.into(), "remove", &shown(path)))?;
            self.touched.insert(parent.to_vec());
        }
        for path in &self.touched {
            if let Some(entry) = decided.changes.get(path).and_then(Change::entry) {
                let directory = open_beneath(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
                set_time(directory.as_fd(), entry.mtime)?;
            }
        }
        Ok(())
    }

    fn settle_root(&self, root: Root, changes: &mut BTreeMap<Vec<u8>, Change>) -> Result<(), DifferError> {
        let before = self.parent.get(b"").expect("a tree has a root");
        match root {
            Root::Kept => {
                self.form.own(self.root.as_fd(), before.uid, before.gid)?;
                rustix::fs::fchmod(&self.root, Mode::from_raw_mode(before.mode)).map_err(io::Error::from)?;
            }
            Root::Recorded => {
                let stat = rustix::fs::fstat(&self.root).map_err(io::Error::from)?;
                let recorded = read_xattrs(self.root.as_fd(), self.form, b"")?.owner;
                let owner = self.owner(b"", &stat, &Kind::Directory, recorded);
                let after = entry(&stat, Kind::Directory, owner, BTreeMap::new());
                if !after.same_but_time(before) {
                    changes.insert(Vec::new(), Change::Put(after));
                }
            }
        }
        Ok(())
    }
}

struct Decided {
    changes: BTreeMap<Vec<u8>, Change>,
    /// Paths in the upper directory that are as they were, in walk order, and whether they are directories.
    unchanged: Vec<(Vec<u8>, bool)>,
}

/// Returns whether something that looks as it did was written again, to the same end: copying up keeps its time to the
/// nanosecond. Trees know seconds only, and a second more or less must not decide what a layer has.
fn written_anew(lowers: &[std::path::PathBuf], path: &[u8], stat: &Stat) -> io::Result<bool> {
    for lower in lowers {
        match open_beneath(open_root(lower)?.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(file) => {
                let below = rustix::fs::fstat(&file).map_err(|e| named(e.into(), "read", &shown(path)))?;
                return Ok((below.st_mtime, below.st_mtime_nsec) != (stat.st_mtime, stat.st_mtime_nsec));
            }
            // In this layer something else stands on the way.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Tells changes from what was only copied up.
fn decide(
    parent: &Tree,
    found: Vec<Found>,
    hidden: &[Vec<u8>],
    written_anew: &dyn Fn(&[u8], &Stat) -> io::Result<bool>,
) -> io::Result<Decided> {
    let mut changes: BTreeMap<Vec<u8>, Change> = hidden.iter().map(|path| (path.clone(), Change::Whiteout)).collect();
    let mut busy: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut first_names: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for path in hidden {
        mark_parents(path, &mut busy);
    }
    let (mut directories, mut unchanged) = (Vec::new(), Vec::new());
    for Found { path, stat, mut entry } in found {
        let before = parent.get(&path);
        if entry.is_directory() {
            directories.push((path, entry));
            continue;
        }
        if before.is_some_and(|before| before.same_but_time(&entry) && before.mtime == entry.mtime)
            && !written_anew(&path, &stat)?
        {
            unchanged.push((path, false));
            continue;
        }
        if matches!(entry.kind, Kind::File { .. }) {
            let first = first_names.entry(inode(&stat)).or_insert_with(|| path.clone());
            if *first != path {
                entry.kind = Kind::HardLink { to: first.clone() };
            }
        }
        mark_parents(&path, &mut busy);
        changes.insert(path, Change::Put(entry));
    }
    for (path, entry) in directories.into_iter().rev() {
        let same = parent.get(&path).is_some_and(|before| before.same_but_time(&entry));
        if !same {
            mark_parents(&path, &mut busy);
            changes.insert(path, Change::Put(entry));
        } else if busy.contains(&path) {
            changes.insert(path, Change::Header(entry));
        } else {
            unchanged.push((path, true));
        }
    }
    unchanged.sort_unstable_by(|(a, _), (b, _)| walk_order(a, b));
    Ok(Decided { changes, unchanged })
}

fn mark_parents(path: &[u8], busy: &mut BTreeSet<Vec<u8>>) {
    let mut parent = split(path).0;
    while !parent.is_empty() && busy.insert(parent.to_vec()) {
        parent = split(parent).0;
    }
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn entry(stat: &Stat, kind: Kind, (uid, gid): (u32, u32), xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> Entry {
    let mode = if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { stat.st_mode & 0o7777 };
    Entry { kind, mode, uid, gid, mtime: stat.st_mtime, xattrs }
}

/// Returns size and BLAKE3 of what is left to read of `file`.
pub(super) fn hash_file(mut file: &File) -> io::Result<(u64, blake3::Hash)> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((size, hasher.finalize())),
            Ok(count) => {
                size += count as u64;
                hasher.update(&buffer[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The attributes of a file or directory of an upper directory.
#[derive(Default)]
struct Attributes {
    kept: BTreeMap<Vec<u8>, Vec<u8>>,
    opaque: bool,
    /// The true owner, where it does not stand on disk.
    owner: Option<(u32, u32)>,
    /// The device that the file stands for.
    device: Option<Kind>,
}

fn read_xattrs(file: BorrowedFd<'_>, form: &Form, path: &[u8]) -> Result<Attributes, DifferError> {
    let mut attributes = Attributes::default();
    let names = list_xattrs(file).map_err(|e| named(e, "read the attributes of", &shown(path)))?;
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let get = || get_xattr(file, name).map_err(|e| named(e, "read the attributes of", &shown(path)));
        // What a step calls like this as root of the machine is no more than a name that images do not keep.
        if name.starts_with(OURS) && form.records() {
            match name {
                name if name == OWNER.as_bytes() => attributes.owner = parse_owner(&get()?).filter(|owner| form.believes(*owner)),
                name if name == DEVICE.as_bytes() => attributes.device = parse_device(&get()?),
                _ => {}
            }
            continue;
        }
        match name.strip_prefix(form.notes()) {
            Some(b"opaque") => attributes.opaque = get()? == b"y",
            Some(b"redirect" | b"metacopy") => {
                return Err(DifferError::Foreign { path: path.to_vec(), attribute: String::from_utf8_lossy(name).into_owned() });
            }
            // Notes of overlayfs to itself about where a copy came from.
            Some(_) => rustix::fs::fremovexattr(file, OsStr::from_bytes(name)).map_err(io::Error::from)?,
            None if is_kept(name) => drop(attributes.kept.insert(name.to_vec(), normal_value(name, get()?))),
            None => {}
        }
    }
    Ok(attributes)
}

/// Returns what a directory of a draft is, whose owner may not stand on disk.
pub(super) fn directory_entry(directory: BorrowedFd<'_>, form: &Form, path: &[u8]) -> Result<Entry, DifferError> {
    let stat = rustix::fs::fstat(directory).map_err(|e| named(e.into(), "read", &shown(path)))?;
    let attributes = read_xattrs(directory, form, path)?;
    let owner = attributes.owner.unwrap_or((stat.st_uid, stat.st_gid));
    Ok(entry(&stat, Kind::Directory, owner, attributes.kept))
}

/// Returns the attributes that images keep of a file or directory anywhere.
pub(super) fn kept_xattrs(file: BorrowedFd<'_>) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let names = list_xattrs(file)?;
    names
        .split(|byte| *byte == 0)
        .filter(|name| is_kept(name))
        .map(|name| Ok((name.to_vec(), normal_value(name, get_xattr(file, name)?))))
        .collect()
}

/// Returns whether images keep the attribute. `security.selinux`, `security.ima` and `trusted.*` belong to the machine.
pub(super) fn is_kept(name: &[u8]) -> bool {
    name == b"security.capability"
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && !name.starts_with(OURS))
}

/// Returns the value that images hold: a file capability of revision 3 for the root user 0 is one of revision 2.
pub(super) fn normal_value(name: &[u8], value: Vec<u8>) -> Vec<u8> {
    const REVISION_2: u8 = 2;
    const REVISION_3: u8 = 3;
    if name == b"security.capability" && value.len() == 24 && value[3] == REVISION_3 && value[20..] == [0; 4] {
        let mut second = value[..20].to_vec();
        second[3] = REVISION_2;
        return second;
    }
    value
}

fn list_xattrs(file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    grow(|buffer| rustix::fs::flistxattr(file, buffer))
}

fn get_xattr(file: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    grow(|buffer| rustix::fs::fgetxattr(file, OsStr::from_bytes(name), buffer))
}

/// Calls `read` with larger buffers until one is large enough. File systems without attributes have none.
fn grow(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    // A first call with room enough spares the one that only asks for the length.
    let mut buffer = vec![0; 512];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
