//! How the files of layers stand on disk: what overlayfs calls its own notes, and where owners and devices are kept.
//!
//! | mode | overlay's notes | owners | devices |
//! |---|---|---|---|
//! | root | `trusted.overlay.*` | on the files | real |
//! | subordinate ids | `user.overlay.*` | on the files; ids that the process does not have in [`OWNER`] | [`DEVICE`] |
//! | single id | `user.overlay.*` | all in [`OWNER`]; those of links and pipes beside the draft | [`DEVICE`] |
//!
//! Each form, and each mapping of ids, has directories of its own in the cache, with a file `form` that names it: files of
//! one are never read as those of another. What layers change (`tree::changes`), and so their ids, is the same in all.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode as Permissions, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::sandbox::{self, Mode};
use super::tree::{Entry, Kind};

/// The attribute that holds the true owner, as `uid:gid`, of a file or directory that stands on disk as somebody else's.
pub(super) const OWNER: &str = "user.pkgbuild.owner";

/// The attribute that makes an empty file a device: `c` or `b`, major and minor number.
pub(super) const DEVICE: &str = "user.pkgbuild.device";

/// Begins the names of attributes that are ours and never part of an image.
pub(super) const OURS: &[u8] = b"user.pkgbuild.";

/// A form of layers on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Form {
    mode: Mode,
    /// Ids that exist: first and how many.
    uids: Vec<(u32, u32)>,
    gids: Vec<(u32, u32)>,
    /// Name of its directory; none for the form of root.
    name: Option<String>,
}

/// Why layers cannot be kept in a directory.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// It cannot be read or marked.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It holds layers in another form than its place says.
    #[error("`{}` holds layers of the form `{found}`, where `{expected}` is expected", path.display())]
    Other {
        /// The directory.
        path: PathBuf,
        /// The form that its mark names.
        found: String,
        /// The form of this process.
        expected: String,
    },
}

/// The owner of a link or a pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct LinkOwner {
    /// User and group.
    pub(super) owner: (u32, u32),
    /// When the inode was made, where that matters: another one with its number was made later.
    pub(super) born: Option<(i64, u32)>,
}

/// Returns when an inode was made, on file systems that know.
pub(super) fn born(file: BorrowedFd<'_>) -> Option<(i64, u32)> {
    let mask = rustix::fs::StatxFlags::BTIME;
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, mask).ok()?;
    let known = found.stx_mask & mask.bits() != 0;
    known.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec))
}

/// Owners of what is in a draft and cannot say it itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Owners {
    /// Of links and pipes, by inode in the upper directory.
    pub(super) links: HashMap<u64, LinkOwner>,
    /// Of everything that is new and says nothing: who the step runs as.
    pub(super) new: (u32, u32),
}

/// Name of the file beside an upper directory in which the sandbox leaves the owners of links.
pub(super) const OWNERS_FILE: &str = "owners";

impl Owners {
    /// Takes over what a step that ran as `new` left.
    pub(super) fn of_step(&mut self, new: (u32, u32), links: Vec<(u64, LinkOwner)>) {
        self.new = new;
        self.links.extend(links);
    }
}

impl Form {
    /// Reads what a step left about owners that do not stand on disk, beside its upper directory.
    ///
    /// # Errors
    /// When it is not there, or not what the sandbox writes.
    pub(super) fn read_owners(&self, upper: &Path) -> io::Result<Vec<(u64, LinkOwner)>> {
        if !self.is_single() {
            return Ok(Vec::new());
        }
        let beside = upper.parent().ok_or(io::ErrorKind::NotFound)?.join(OWNERS_FILE);
        Ok(serde_json::from_slice(&fs_err::read(beside)?)?)
    }

    /// Returns the form in which this process can write layers.
    ///
    /// # Errors
    /// When the kernel does not say which ids exist.
    pub(super) fn of_process() -> io::Result<Self> {
        let mode = sandbox::current_mode().unwrap_or(Mode::Root);
        if mode == Mode::Root {
            let all = vec![(0, u32::MAX)];
            return Ok(Self { mode, uids: all.clone(), gids: all, name: None });
        }
        let (uids, gids) = (fs_err::read_to_string("/proc/self/uid_map")?, fs_err::read_to_string("/proc/self/gid_map")?);
        // The same user may get other ranges, and then the same numbers on disk mean other ids.
        let words = |map: &str| map.split_whitespace().collect::<Vec<_>>().join(" ");
        let maps = format!("{}\n{}\n", words(&uids), words(&gids));
        let kind = if mode == Mode::Subids { "subids" } else { "single" };
        let name = format!("{kind}-{}", &blake3::hash(maps.as_bytes()).to_hex()[..16]);
        Ok(Self { mode, uids: extents(&uids), gids: extents(&gids), name: Some(name) })
    }

    /// Returns the directory for this form in the cache directory `cache`.
    pub(super) fn home(&self, cache: &Path) -> PathBuf {
        let home = cache.join("pkgbuild/v1");
        match &self.name {
            None => home,
            Some(name) => home.join("forms").join(name),
        }
    }

    /// Makes sure that `home` holds layers of this form, marking it when it is new.
    ///
    /// # Errors
    /// When it holds another, or cannot be read or marked.
    pub(super) fn claim(&self, home: &Path) -> Result<(), FormError> {
        let expected = self.name.as_deref().unwrap_or("root");
        let path = home.join("form");
        match fs_err::read_to_string(&path) {
            Ok(found) if found.trim() == expected => Ok(()),
            Ok(found) => {
                Err(FormError::Other { path: home.to_owned(), found: found.trim().to_owned(), expected: expected.to_owned() })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.mode != Mode::Root => {
                Ok(crate::sys::fs::write_atomic(&path, format!("{expected}\n").as_bytes(), 0o644)?)
            }
            // What is not marked is root's.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns how overlayfs begins the names of its notes.
    pub(super) fn notes(&self) -> &'static [u8] {
        if self.mode == Mode::Root { b"trusted.overlay." } else { b"user.overlay." }
    }

    /// Returns the attribute that marks a directory as hiding what is below it.
    pub(super) fn opaque(&self) -> &'static str {
        if self.mode == Mode::Root { "trusted.overlay.opaque" } else { "user.overlay.opaque" }
    }

    /// Returns whether attributes of ours say what does not stand on disk.
    pub(super) fn records(&self) -> bool {
        self.mode != Mode::Root
    }

    /// Returns whether device nodes can be made.
    pub(super) fn has_devices(&self) -> bool {
        self.mode == Mode::Root
    }

    /// Returns whether no file on disk tells its owner by itself.
    pub(super) fn is_single(&self) -> bool {
        self.mode == Mode::SingleId
    }

    /// Returns whether an owner that is written down counts. One that could stand on disk was written by a step, not by us.
    pub(super) fn believes(&self, (uid, gid): (u32, u32)) -> bool {
        self.records() && !self.holds(uid, gid)
    }

    /// Returns whether files on disk can belong to this owner.
    pub(super) fn holds(&self, uid: u32, gid: u32) -> bool {
        let has = |extents: &[(u32, u32)], id: u32| extents.iter().any(|(first, count)| id >= *first && id - first < *count);
        !self.is_single() && has(&self.uids, uid) && has(&self.gids, gid)
    }

    /// Gives a file or directory its owner.
    ///
    /// # Errors
    /// The kernel's, also when the file system has no attributes.
    pub(super) fn own(&self, file: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
        if self.holds(uid, gid) {
            rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            return match self.mode {
                Mode::Root => Ok(()),
                // A directory may have had an owner that does not stand on disk.
                Mode::Subids | Mode::SingleId => match rustix::fs::fremovexattr(file, OWNER) {
                    Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
                    Err(error) => Err(error.into()),
                },
            };
        }
        Ok(rustix::fs::fsetxattr(file, OWNER, format!("{uid}:{gid}").as_bytes(), XattrFlags::empty())?)
    }

    /// As [`Form::own`], for a directory of ours.
    pub(super) fn own_directory(&self, path: &Path, uid: u32, gid: u32) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.own(rustix::fs::openat(CWD, path, flags, Permissions::empty())?.as_fd(), uid, gid)
    }

    /// Gives a link or a pipe its owner, on disk or in `owners`.
    pub(super) fn own_link(&self, directory: BorrowedFd<'_>, name: &OsStr, entry: &Entry, owners: &mut Owners) -> io::Result<()> {
        if self.holds(entry.uid, entry.gid) {
            let owner = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
            return Ok(rustix::fs::chownat(directory, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?);
        }
        let inode = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        owners.links.insert(inode, LinkOwner { owner: (entry.uid, entry.gid), born: None });
        Ok(())
    }

    /// Sets owner, then mode, then extended attributes of a file or directory.
    pub(super) fn set_metadata(&self, file: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
        self.own(file, entry.uid, entry.gid)?;
        rustix::fs::fchmod(file, Permissions::from_raw_mode(entry.mode))?;
        for (name, value) in &entry.xattrs {
            rustix::fs::fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty())?;
        }
        Ok(())
    }
}

fn extents(map: &str) -> Vec<(u32, u32)> {
    map.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
        })
        .collect()
}

/// Returns what [`OWNER`] says.
pub(super) fn parse_owner(value: &[u8]) -> Option<(u32, u32)> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

/// Returns the value of [`DEVICE`] for a device; `None` for what is none.
pub(super) fn device_value(kind: &Kind) -> Option<String> {
    match kind {
        Kind::CharDevice { major, minor } => Some(format!("c {major} {minor}")),
        Kind::BlockDevice { major, minor } => Some(format!("b {major} {minor}")),
        _ => None,
    }
}

/// Returns what [`DEVICE`] says.
pub(super) fn parse_device(value: &[u8]) -> Option<Kind> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let (kind, major, minor) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    match kind {
        // Overlay file systems take 0:0 for "nothing is here".
        "c" if (major, minor) != (0, 0) => Some(Kind::CharDevice { major, minor }),
        "b" => Some(Kind::BlockDevice { major, minor }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(mode: Mode) -> Form {
        let ids = vec![(0, 1), (1, 65_535)];
        Form { mode, uids: ids.clone(), gids: ids, name: Some("subids-x".to_owned()) }
    }

    #[test]
    fn owners_that_do_not_exist_here_do_not_stand_on_disk() {
        for (uid, gid, subids) in [(0, 0, true), (65_535, 65_535, true), (65_536, 0, false), (0, 100_000, false)] {
            assert_eq!(form(Mode::Subids).holds(uid, gid), subids, "{uid}:{gid}");
            assert!(!form(Mode::SingleId).holds(uid, gid), "{uid}:{gid}");
        }
    }

    #[test]
    fn what_is_written_beside_a_file_is_read_back() {
        for kind in [Kind::CharDevice { major: 1, minor: 3 }, Kind::BlockDevice { major: 259, minor: 70_000 }] {
            assert_eq!(parse_device(device_value(&kind).expect("a device").as_bytes()), Some(kind));
        }
        assert_eq!(device_value(&Kind::Fifo), None);
        assert_eq!(parse_owner(b"1000:4294967294"), Some((1000, u32::MAX - 1)));
        for broken in [&b""[..], b"1", b"1:", b"a:1", b"1:1:1"] {
            assert_eq!(parse_owner(broken), None);
            assert_eq!(parse_device(broken), None);
        }
    }

    #[test]
    fn a_directory_of_another_form_is_refused() {
        let directory = tempfile::tempdir().expect("temp dir");
        let subids = form(Mode::Subids);
        let other = Form { name: Some("subids-y".to_owned()), ..subids.clone() };
        for _ in 0..2 {
            subids.claim(directory.path()).expect("its own");
        }
        let error = other.claim(directory.path()).expect_err("another's").to_string();
        assert!(error.contains("`subids-x`") && error.contains("`subids-y`"), "{error}");
        let root = Form { mode: Mode::Root, name: None, ..subids };
        assert!(root.claim(directory.path()).is_err());
        root.claim(tempfile::tempdir().expect("temp dir").path()).expect("not marked");
    }
}
