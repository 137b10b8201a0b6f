//! Files that appear whole or not at all, locks between processes, and opening paths that cannot leave a root.
//!
//! Everyday calls go through `fs_err`, whose errors name the path.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use tempfile::NamedTempFile;

/// A file that appears under its name only complete: written beside it, flushed to disk, then renamed.
///
/// Dropping it without [`AtomicFile::publish`] leaves nothing behind; a killed process leaves only a `.tmp-*` file.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    target: PathBuf,
}

/// Prefix of the names of unfinished files; what bears it and is old may be deleted.
pub const UNFINISHED: &str = ".tmp-";

impl AtomicFile {
    /// Starts a file that will be `target`; its directory must exist. `mode` is the permission of the finished file.
    ///
    /// # Errors
    /// When no file can be created beside `target`.
    pub fn create(target: &Path, mode: u32) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let directory = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .permissions(std::fs::Permissions::from_mode(mode))
            .tempfile_in(directory)
            .map_err(|error| named(error, "create a file in", directory))?;
        Ok(Self { temporary, target: target.to_owned() })
    }

    /// Starts a file in `directory` whose name is known only at its end, when [`AtomicFile::publish_as`] gives it.
    ///
    /// # Errors
    /// When no file can be created in `directory`.
    pub fn create_in(directory: &Path, mode: u32) -> io::Result<Self> {
        Self::create(&directory.join("unnamed"), mode)
    }

    /// Flushes the file, but not its directory, and gives it the name `target` in the same directory. A caller that
    /// publishes many files calls [`sync_directory`] once after them.
    ///
    /// # Errors
    /// When the disk is full or refuses; what bore the name is then still there.
    pub fn publish_as(self, target: &Path) -> io::Result<()> {
        self.temporary.as_file().sync_all().map_err(|error| named(error, "flush", target))?;
        self.temporary.persist(target).map(drop).map_err(|error| named(error.error, "publish", target))
    }

    /// Returns the file to write to.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Flushes the file and its directory to disk and gives the file its name, replacing what bore it.
    ///
    /// # Errors
    /// When the disk is full or refuses; the old file is then still there.
    pub fn publish(self) -> io::Result<()> {
        self.temporary.as_file().sync_all().map_err(|error| named(error, "flush", &self.target))?;
        let target = self.target;
        self.temporary.persist(&target).map_err(|error| named(error.error, "publish", &target))?;
        sync_directory(target.parent().unwrap_or(Path::new(".")))
    }

    /// Gives the file its name without waiting for the disk: for what can be made again, such as cache records.
    ///
    /// # Errors
    /// When the rename fails; the old file is then still there.
    pub fn publish_unsynced(self) -> io::Result<()> {
        let target = self.target;
        self.temporary.persist(&target).map(drop).map_err(|error| named(error.error, "publish", &target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes).map_err(|error| named(error, "write", &self.target))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

/// Replaces `target` by a file of `bytes`, at once.
///
/// # Errors
/// As [`AtomicFile`].
pub fn write_atomic(target: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = AtomicFile::create(target, mode)?;
    file.write_all(bytes)?;
    file.publish()
}

/// Flushes a directory's entries to disk, so that a rename in it survives a power cut.
///
/// # Errors
/// When the directory cannot be opened or flushed.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    fs_err::File::open(directory)?.sync_all()
}

/// Returns `error` with what was tried in its text and the same kind.
pub fn named(error: io::Error, action: &str, path: &Path) -> io::Error {
    io::Error::new(error.kind(), PathError { action: action.to_owned(), path: path.to_owned(), source: error })
}

/// An operation on a path that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct PathError {
    action: String,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// An exclusive lock on a file between processes and between threads; released when dropped or when the process dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Which kernel lock is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockKind {
    /// A BSD lock on the whole file, for files of our own.
    Flock,
    /// An open-file-description record lock, which excludes the POSIX lock that linuxkit takes on its cache and, unlike
    /// that one, also excludes other threads of this process.
    Record,
}

impl Lock {
    /// Waits until the lock on `path` is free and takes it. The file is created when missing.
    ///
    /// # Errors
    /// When the file cannot be opened for writing or the file system has no locks.
    pub fn acquire(path: &Path, kind: LockKind) -> io::Result<Self> {
        let file = open_lock_file(path)?;
        match kind {
            LockKind::Flock => file.lock(),
            LockKind::Record => record_lock(&file, libc::F_OFD_SETLKW),
        }
        .map_err(|error| named(error, "lock", path))?;
        Ok(Self { file })
    }

    /// Waits until nobody holds the lock on `path` alone, and takes part in holding it, with others that call this. The file
    /// is created when missing.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn share(path: &Path) -> io::Result<Self> {
        let file = open_lock_file(path)?;
        file.lock_shared().map_err(|error| named(error, "lock", path))?;
        Ok(Self { file })
    }

    /// Takes part in holding the lock on `path` unless somebody holds it alone; then returns `None`.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn try_share(path: &Path) -> io::Result<Option<Self>> {
        let file = open_lock_file(path)?;
        match file.try_lock_shared().map_err(io::Error::from) {
            Ok(()) => Ok(Some(Self { file })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(named(error, "lock", path)),
        }
    }

    /// Returns whether `path` still names the locked file: whoever deletes a lock file holds it, and the next one to come
    /// makes another.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn is_at(&self, path: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        match fs_err::metadata(path) {
            Ok(named) => self.file.metadata().map(|held| (held.dev(), held.ino()) == (named.dev(), named.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the lock on `path` if it is free, else returns `None`.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    pub fn try_acquire(path: &Path, kind: LockKind) -> io::Result<Option<Self>> {
        let file = open_lock_file(path)?;
        let taken = match kind {
            LockKind::Flock => file.try_lock().map_err(io::Error::from),
            LockKind::Record => record_lock(&file, libc::F_OFD_SETLK),
        };
        match taken {
            Ok(()) => Ok(Some(Self { file })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(named(error, "lock", path)),
        }
    }

    /// Returns the locked file, for a holder who writes its name into it.
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn open_lock_file(path: &Path) -> io::Result<File> {
    fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map(|file| file.into_parts().0)
}

fn record_lock(file: &File, command: libc::c_int) -> io::Result<()> {
    let lock = libc::flock { l_type: libc::F_WRLCK as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 };
    loop {
        // SAFETY: the descriptor is open for the call and `lock` outlives it.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &lock) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Returns the bytes of the regular file `path`, of a larger one than `limit` only `limit` and one more.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| named(error.into(), "open", path))?;
    let bytes = read_if_regular(&File::from(file), limit)?;
    bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no regular file", path.display())))
}

fn read_if_regular(file: &File, limit: u64) -> io::Result<Option<Vec<u8>>> {
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A directory from which paths are opened without ever leaving it: `..`, absolute paths and symbolic links are taken
/// inside it, as after `chroot`.
#[derive(Debug)]
pub struct RootedPath {
    root: OwnedFd,
    path: PathBuf,
}

impl RootedPath {
    /// Opens the directory `path` as a root.
    ///
    /// # Errors
    /// When it is no directory or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| named(e.into(), "open", path))?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// Opens `inner` below the root. Links on the way and at the end are followed inside the root, unless `flags` has
    /// `NOFOLLOW` for the last.
    ///
    /// # Errors
    /// The kernel's: `NotFound`, `ELOOP` and others, with the path named.
    pub fn open_at(&self, inner: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // openat2 reports EAGAIN when a rename elsewhere races with `..`; asking again is what it documents.
        for _ in 0..64 {
            match rustix::fs::openat2(self.root.as_fd(), inner, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                result => {
                    return result
                        .map_err(|e| named(e.into(), "open", &self.path.join(inner.strip_prefix("/").unwrap_or(inner))));
                }
            }
        }
        Err(named(rustix::io::Errno::AGAIN.into(), "open", &self.path))
    }

    /// Returns the bytes of the regular file `inner` below the root, of a larger one than `limit` only `limit` and one more;
    /// `None` when there is none, or something else is there: what a pipe or a device gives may never end.
    ///
    /// # Errors
    /// As [`RootedPath::open_at`].
    pub fn read_regular(&self, inner: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        // A pipe would else be waited for until somebody opens it for writing.
        let file = match self.open_at(inner, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            file => File::from(file?),
        };
        read_if_regular(&file, limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpublished_file_leaves_nothing() {
        let directory = tempfile::tempdir().expect("temp dir");
        let target = directory.path().join("a");
        let mut file = AtomicFile::create(&target, 0o644).expect("creates");
        file.write_all(b"x").expect("writes");
        drop(file);
        assert_eq!(fs_err::read_dir(directory.path()).expect("reads").count(), 0);
        write_atomic(&target, b"y", 0o600).expect("publishes");
        assert_eq!(fs_err::read(&target).expect("reads"), b"y");
    }

    #[test]
    fn a_lock_excludes_another_thread() {
        let directory = tempfile::tempdir().expect("temp dir");
        for kind in [LockKind::Flock, LockKind::Record] {
            let path = directory.path().join(format!("{kind:?}"));
            let held = Lock::acquire(&path, kind).expect("free");
            assert!(Lock::try_acquire(&path, kind).expect("asks").is_none());
            drop(held);
            assert!(Lock::try_acquire(&path, kind).expect("asks").is_some());
        }
    }

    #[test]
    fn a_rooted_path_cannot_leave_its_root() {
        let directory = tempfile::tempdir().expect("temp dir");
        let root = directory.path().join("root");
        fs_err::create_dir(&root).expect("creates");
        fs_err::write(directory.path().join("secret"), "out").expect("writes");
        fs_err::write(root.join("secret"), "in").expect("writes");
        fs_err::os::unix::fs::symlink("/../../secret", root.join("link")).expect("links");
        let rooted = RootedPath::open(&root).expect("opens");
        for inner in ["secret", "/secret", "../secret", "../../../secret", "link"] {
            let read = rooted.read_regular(Path::new(inner), 100).expect(inner).expect("a file");
            let text = String::from_utf8(read).expect("text");
            assert_eq!(text, "in", "{inner}");
        }
    }

    #[test]
    fn only_regular_files_are_read_and_nothing_is_waited_for() {
        let directory = tempfile::tempdir().expect("temp dir");
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("runs").success());
        assert!(read_regular(&pipe, 10).is_err());
        let rooted = RootedPath::open(directory.path()).expect("opens");
        assert_eq!(rooted.read_regular(Path::new("pipe"), 10).expect("asks"), None);
        assert_eq!(rooted.read_regular(Path::new("none"), 10).expect("asks"), None);
        fs_err::write(directory.path().join("large"), [0; 100]).expect("writes");
        assert_eq!(rooted.read_regular(Path::new("large"), 10).expect("reads").expect("a file").len(), 11);
    }
}
