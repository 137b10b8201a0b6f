//! Builders and collectors of one cache.
//!
//! ```text
//! <cache>/pkgbuild/v1/collect.lock    flock: held by all that look for something and take it into use, together, for the
//!                                     moment that takes; held alone by a collector while it takes something away
//! ```
//! What a builder found it marks as used, by the modification time of one file, before it lets go of the lock. A collector
//! takes away only what was not marked since the oldest living lease began, and looks at that once more when it holds the
//! lock alone. So nothing that a living builder has found is ever taken away, and nobody waits for a step.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::sys::fs::{Lock, LockKind, named};

/// Keeps builders and collectors apart.
#[derive(Clone, Debug)]
pub(in crate::builder::embedded) struct Gate {
    path: PathBuf,
}

/// The right to take into use what is found; a collector waits while it is held.
#[derive(Debug)]
pub(in crate::builder::embedded) struct Passage {
    _lock: Lock,
}

impl Gate {
    /// Returns the gate of `home`, `<cache>/pkgbuild/v1`.
    pub(in crate::builder::embedded) fn of(home: &Path) -> Self {
        Self { path: home.join("collect.lock") }
    }

    /// Waits for a collector that is taking something away.
    ///
    /// # Errors
    /// When the file system has no locks.
    pub(in crate::builder::embedded) fn pass(&self) -> io::Result<Passage> {
        Ok(Passage { _lock: Lock::share(&self.path)? })
    }

    /// Waits until nobody is taking anything into use, and keeps it so.
    ///
    /// # Errors
    /// When the file system has no locks.
    pub(in crate::builder::embedded) fn close(&self) -> io::Result<Lock> {
        Lock::acquire(&self.path, LockKind::Flock)
    }
}

impl Passage {
    /// Marks the file at `path` as used now, by the file system's clock. Returns whether it is there.
    ///
    /// # Errors
    /// When it is there and cannot be marked.
    pub(in crate::builder::embedded) fn mark(&self, path: &Path) -> io::Result<bool> {
        mark_used(path)
    }
}

/// Marks a file as used now, by the file system's clock. Returns whether it is there.
pub(in crate::builder::embedded) fn mark_used(path: &Path) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(named(error.into(), "mark as used", path)),
    }
}
