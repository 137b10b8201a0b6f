//! Leases: how a process that is writing keeps the garbage collector of another process off its content.
//!
//! ```text
//! <cache>/pkgbuild/v1/leases/<pid>-<n>    locked while its owner lives; its time is when the owner began
//! ```
//! Content that a writer wrote, or found and now relies on, bears a time not before its lease, and the collector keeps
//! everything that is not older than the oldest lease whose lock is held. A killed process loses its lock by itself.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::sys::fs::{Lock, LockKind};

/// A promise to the collector, held until dropped.
#[derive(Debug)]
pub(super) struct Held {
    // The file goes first and the lock after it: the other order would let somebody else lock a name that then goes.
    path: PathBuf,
    _lock: Lock,
    started: SystemTime,
}

/// A lease of a living process.
#[derive(Debug)]
pub(super) struct Living {
    /// The file.
    pub(super) path: PathBuf,
    /// When it began.
    pub(super) started: SystemTime,
    /// The process, as its own text says.
    pub(super) owner: String,
}

impl Held {
    pub(super) fn acquire(directory: &Path) -> io::Result<Self> {
        // Several stores of one process each have their own.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        fs_err::create_dir_all(directory)?;
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{}-{n}", std::process::id()));
            // A process with the same number may live in another container that shares the cache.
            let Some(lock) = Lock::try_acquire(&path, LockKind::Flock)? else { continue };
            // Between creating and locking, a collector may have taken the file for a dead one and removed it.
            if same_file(&path, &lock)? {
                lock.file().set_len(0)?;
                io::Write::write_all(&mut lock.file(), format!("{}\n", std::process::id()).as_bytes())?;
                let started = lock.file().metadata()?.modified()?;
                return Ok(Self { path, _lock: lock, started });
            }
        }
    }

    /// Returns when the lease began, by the clock of the file system.
    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next collector, which finds its lock free.
        let _ = fs_err::remove_file(&self.path);
    }
}

fn same_file(path: &Path, lock: &Lock) -> io::Result<bool> {
    match fs_err::metadata(path) {
        Ok(named) => lock.file().metadata().map(|held| (held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns the leases of living processes and removes those of dead ones.
pub(super) fn living(directory: &Path) -> io::Result<Vec<Living>> {
    let entries = match fs_err::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut living = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(lock) = Lock::try_acquire(&path, LockKind::Flock)? {
            if same_file(&path, &lock)? {
                fs_err::remove_file(&path)?;
            }
            continue;
        }
        match fs_err::metadata(&path).and_then(|metadata| metadata.modified()) {
            Ok(started) => {
                let owner = fs_err::read_to_string(&path).unwrap_or_default().trim().to_owned();
                living.push(Living { path, started, owner });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    living.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(living)
}
