//! Directory trees by descriptor: measured and removed without ever following a link or entering another file system.
//!
//! Every directory is opened from the one that was given, by its path below it, with `openat2` refusing links, `..` and
//! mount points. Nothing recurses and at most three descriptors are open, however deep a tree is.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::fs::named;

/// A directory that is open.
#[derive(Debug)]
pub struct Directory {
    descriptor: OwnedFd,
    path: PathBuf,
}

/// Something that lies in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its name.
    pub name: Vec<u8>,
    /// Whether it is a directory; a link to one is none.
    pub is_directory: bool,
}

impl Found {
    /// Returns the name as text, or `None` when it is none.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.name).ok()
    }
}

/// What became of trying to lock a file.
#[derive(Debug)]
pub enum Claim {
    /// There is no such file.
    Absent,
    /// Somebody holds it.
    Held,
    /// It is locked until this is dropped.
    Ours(std::fs::File),
}

/// The kernel takes paths of at most 4096 bytes with their end.
const LONGEST: usize = 4000;

impl Directory {
    /// Opens the directory `path`, following links on the way and at the end.
    ///
    /// # Errors
    /// When it is no directory or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| named(e.into(), "open", path))?;
        Ok(Self { descriptor, path: path.to_owned() })
    }

    /// Opens the directory `name` in this one, or returns `None` when nothing has that name. Mount points are entered.
    ///
    /// # Errors
    /// When it is a link or no directory, or cannot be opened.
    pub fn directory(&self, name: &str) -> io::Result<Option<Self>> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(descriptor) => Ok(Some(Self { descriptor, path })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(named(error.into(), "open", &path)),
        }
    }

    /// Returns where the directory was when it was opened; for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the descriptor.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Lists the directory, sorted by name.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn entries(&self) -> io::Result<Vec<Found>> {
        list(&self.descriptor).map_err(|error| named(error, "list", &self.path))
    }

    /// Returns what the file system says about `name`, a link not followed; `None` when nothing has that name.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn stat(&self, name: &str) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(&self.descriptor, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(named(error.into(), "look at", &self.path.join(name))),
        }
    }

    /// Reads a file of at most `limit` bytes, or returns `None` when nothing has that name.
    ///
    /// # Errors
    /// When it is a link, is larger, or cannot be read.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(named(error.into(), "open", &path)),
        };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes).map_err(|e| named(e, "read", &path))?;
        if bytes.len() as u64 > limit {
            return Err(named(Errno::FBIG.into(), "read", &path));
        }
        Ok(Some(bytes))
    }

    /// Gives `name` of this directory the name `new_name` in `target`, where nothing may have it. Returns whether `name` was
    /// there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn rename(&self, name: &str, target: &Self, new_name: &str) -> io::Result<bool> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.descriptor, name, &target.descriptor, new_name, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(named(error.into(), "move", &self.path.join(name))),
        }
    }

    /// Removes a file or link. Returns whether it was there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_file(&self, name: &str) -> io::Result<bool> {
        self.unlink(name, AtFlags::empty())
    }

    /// Removes an empty directory. Returns whether it was there and empty.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_empty(&self, name: &str) -> io::Result<bool> {
        match self.unlink(name, AtFlags::REMOVEDIR) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
            result => result,
        }
    }

    /// Takes the lock (flock) on the file `name`, if it is there and nobody holds it.
    ///
    /// # Errors
    /// When the file cannot be opened or the file system has no locks.
    pub fn claim(&self, name: &str) -> io::Result<Claim> {
        let path = self.path.join(name);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT) => return Ok(Claim::Absent),
            Err(error) => return Err(named(error.into(), "open", &path)),
        };
        match file.try_lock().map_err(io::Error::from) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Claim::Held),
            Err(error) => return Err(named(error, "lock", &path)),
        }
        let (held, there) = (rustix::fs::fstat(&file)?, self.stat(name)?);
        // Whoever deleted the file meanwhile held it; another may lie there now, and is another's.
        match there.is_some_and(|there| (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)) {
            true => Ok(Claim::Ours(file)),
            false => Ok(Claim::Held),
        }
    }

    fn unlink(&self, name: &str, flags: AtFlags) -> io::Result<bool> {
        match rustix::fs::unlinkat(&self.descriptor, name, flags) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(named(error.into(), "delete", &self.path.join(name))),
        }
    }

    /// Tells `on` about `name` and everything below it, each once for each name. What vanishes meanwhile is passed over.
    ///
    /// # Errors
    /// When something cannot be read, or another file system is mounted below.
    pub fn measure(&self, name: &str, on: &mut dyn FnMut(&Stat)) -> io::Result<()> {
        let Some(stat) = self.stat(name)? else { return Ok(()) };
        on(&stat);
        let mut pending = match FileType::from_raw_mode(stat.st_mode).is_dir() {
            true => vec![name.as_bytes().to_vec()],
            false => Vec::new(),
        };
        while let Some(path) = pending.pop() {
            let Some(directory) = self.below(&path)? else { continue };
            for found in list(&directory).map_err(|error| self.failed(error, "list", &path))? {
                match rustix::fs::statat(&directory, found.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => on(&stat),
                    Err(Errno::NOENT) => continue,
                    Err(error) => return Err(self.failed(error.into(), "look at", &joined(&path, &found.name))),
                }
                if found.is_directory {
                    pending.push(joined(&path, &found.name));
                }
            }
        }
        Ok(())
    }

    /// Removes `name` and everything below it; what is not there is no mistake.
    ///
    /// # Errors
    /// When something cannot be removed, or another file system is mounted below: what was not reached yet stays then.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Linux says EISDIR, POSIX EPERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(named(error.into(), "delete", &self.path.join(name))),
        }
        let mut pending = vec![(name.as_bytes().to_vec(), false)];
        while let Some((path, emptied)) = pending.pop() {
            if emptied {
                let (parent, name) = split(&path);
                let removed = match self.below(parent)? {
                    Some(parent) => rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
                    None => Ok(()),
                };
                match removed {
                    Ok(()) | Err(Errno::NOENT) => continue,
                    Err(error) => return Err(self.failed(error.into(), "delete", &path)),
                }
            }
            let Some(directory) = self.below(&path)? else { continue };
            pending.push((path.clone(), true));
            for found in list(&directory).map_err(|error| self.failed(error, "list", &path))? {
                if found.is_directory {
                    pending.push((joined(&path, &found.name), false));
                    continue;
                }
                match rustix::fs::unlinkat(&directory, found.name.as_slice(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(self.failed(error.into(), "delete", &joined(&path, &found.name))),
                }
            }
        }
        Ok(())
    }

    /// Opens the directory at `path` below this one, in pieces that the kernel takes; `None` when it is gone.
    fn below(&self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        loop {
            let piece = match rest.len() > LONGEST {
                true => {
                    let end = rest[..LONGEST].iter().rposition(|byte| *byte == b'/').unwrap_or(rest.len());
                    &rest[..end]
                }
                false => rest,
            };
            rest = rest.get(piece.len() + 1..).unwrap_or_default();
            let piece = if piece.is_empty() { b"." } else { piece };
            let from = at.as_ref().unwrap_or(&self.descriptor);
            let opened = loop {
                match rustix::fs::openat2(from, piece, flags, Mode::empty(), resolve) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    opened => break opened,
                }
            };
            match opened {
                Ok(directory) if rest.is_empty() => return Ok(Some(directory)),
                Ok(directory) => at = Some(directory),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(self.failed(error.into(), "open", path)),
            }
        }
    }

    fn failed(&self, error: io::Error, action: &str, path: &[u8]) -> io::Error {
        named(error, action, &self.path.join(OsStr::from_bytes(path)))
    }
}

fn list(directory: &OwnedFd) -> io::Result<Vec<Found>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let is_directory = match entry.file_type() {
            // Some file systems do not say it in their lists.
            FileType::Unknown => match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode).is_dir(),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            },
            kind => kind.is_dir(),
        };
        entries.push(Found { name: name.to_vec(), is_directory });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    [path, b"/", name].concat()
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Returns when the file was changed last, as the file system says.
pub fn modified(stat: &Stat) -> SystemTime {
    let nanoseconds = Duration::from_nanos(stat.st_mtime_nsec);
    match u64::try_from(stat.st_mtime) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + nanoseconds,
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}

/// Returns the room that a file takes on its disk, in bytes.
pub fn room(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or_default() * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &tempfile::TempDir) -> Directory {
        Directory::open(directory.path()).expect("opens")
    }

    #[test]
    fn a_tree_is_removed_without_following_what_it_links_to() {
        let directory = tempfile::tempdir().expect("temp dir");
        let outside = tempfile::tempdir().expect("temp dir");
        fs_err::write(outside.path().join("canary"), "alive").expect("writes");
        let tree = directory.path().join("tree/a/b");
        fs_err::create_dir_all(&tree).expect("creates");
        fs_err::os::unix::fs::symlink(outside.path(), tree.join("link")).expect("links");
        fs_err::os::unix::fs::symlink(outside.path(), directory.path().join("top")).expect("links");
        let root = open(&directory);
        root.remove("tree").expect("removes");
        root.remove("top").expect("removes");
        root.remove("absent").expect("nothing to do");
        assert_eq!(root.entries().expect("lists"), []);
        assert_eq!(fs_err::read_to_string(outside.path().join("canary")).expect("reads"), "alive");
    }

    #[test]
    fn a_link_in_place_of_a_directory_is_refused() {
        let directory = tempfile::tempdir().expect("temp dir");
        fs_err::os::unix::fs::symlink("/", directory.path().join("layers")).expect("links");
        open(&directory).directory("layers").expect_err("a link is no directory of ours");
        assert!(open(&directory).directory("absent").expect("looks").is_none());
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_measured_and_removed() {
        let directory = tempfile::tempdir().expect("temp dir");
        let name = "d".repeat(200);
        let mut at = open(&directory);
        // 100 × 201 bytes: five times what one path can hold.
        for _ in 0..100 {
            rustix::fs::mkdirat(at.descriptor(), name.as_str(), Mode::from_raw_mode(0o755)).expect("makes");
            at = at.directory(&name).expect("opens").expect("was made");
        }
        drop(at);
        let root = open(&directory);
        let mut count = 0;
        root.measure(&name, &mut |_| count += 1).expect("measures");
        assert_eq!(count, 100);
        root.remove(&name).expect("removes");
        assert_eq!(root.entries().expect("lists"), []);
    }

    #[test]
    fn another_file_system_below_a_tree_is_neither_measured_nor_emptied() {
        let directory = tempfile::tempdir().expect("temp dir");
        let place = directory.path().join("tree/mounted");
        fs_err::create_dir_all(&place).expect("creates");
        rustix::mount::mount("tmpfs", &place, "tmpfs", rustix::mount::MountFlags::empty(), None).expect("tests run as root");
        fs_err::write(place.join("canary"), "alive").expect("writes");
        let root = open(&directory);
        let measured = root.measure("tree", &mut |_| {});
        let removed = root.remove("tree");
        let canary = fs_err::read_to_string(place.join("canary"));
        rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).expect("unmounts");
        assert_eq!(measured.expect_err("crosses").raw_os_error().or(Some(libc::EXDEV)), Some(libc::EXDEV));
        removed.expect_err("crosses");
        assert_eq!(canary.expect("is there"), "alive");
    }
}
