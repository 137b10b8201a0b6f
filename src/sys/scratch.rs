//! Directories for one piece of work, gone when it ends, however it ends.

use std::io;
use std::path::{Path, PathBuf};

use super::fs::{Lock, LockKind};

const GUARD: &str = ".guard";
const LOCK: &str = "lock";
const PREFIX: &str = "scratch-";

/// A directory that is there as long as this is; one that a killed process left is deleted by the next.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: Lock,
}

impl Scratch {
    /// Makes a directory in `parent`, which is made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or what is left of others cannot be deleted.
    pub fn make(parent: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(parent)?;
        // Held until the new directory's own lock is: nobody deletes what is only just being made.
        let _guard = Lock::acquire(&parent.join(GUARD), LockKind::Flock)?;
        sweep(parent)?;
        let path = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?.keep();
        let lock_path = path.with_extension(LOCK);
        let lock = Lock::acquire(&lock_path, LockKind::Flock)?;
        Ok(Self { path, lock_path, _lock: lock })
    }

    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Deletes every directory that nobody holds the lock of.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(parent)? {
        let path = entry?.path();
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if !ours || path.extension().is_some() {
            continue;
        }
        let lock_path = path.with_extension(LOCK);
        if let Some(_lock) = Lock::try_acquire(&lock_path, LockKind::Flock)? {
            remove(&path, &lock_path)?;
        }
    }
    Ok(())
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is deleted by the next that makes one.
        drop(remove(&self.path, &self.lock_path));
    }
}

/// Deletes a directory and, last, its lock; somebody else may be doing the same.
fn remove(directory: &Path, lock: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    gone(fs_err::remove_dir_all(directory))?;
    gone(fs_err::remove_file(lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_deleted_and_what_is_used_stays() {
        let parent = tempfile::tempdir().expect("temp dir");
        let used = Scratch::make(parent.path()).expect("makes");
        fs_err::create_dir(parent.path().join("scratch-left")).expect("creates");
        fs_err::write(parent.path().join("scratch-left/file"), b"x").expect("writes");
        fs_err::write(parent.path().join("scratch-left.lock"), b"").expect("writes");
        fs_err::create_dir(parent.path().join("scratch-unlocked")).expect("creates");
        let second = Scratch::make(parent.path()).expect("makes");
        assert!(used.path.exists() && second.path.exists());
        drop((used, second));
        assert_eq!(fs_err::read_dir(parent.path()).expect("reads").count(), 1, "only the guard is left");
    }
}
