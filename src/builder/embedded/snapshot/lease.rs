//! Who is using unfinished directories: a file per process, locked for as long as the process lives.
//!
//! A draft's name begins with the name of its lease. A lease that can be locked belongs to nobody any more, so its
//! drafts can be deleted; the kernel unlocks when a process dies, however it dies.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::fs::{Lock, LockKind};

pub(super) struct Lease {
    path: PathBuf,
    name: String,
    drafts: AtomicU64,
    _lock: Lock,
}

impl Lease {
    /// Takes a lease in the directory `leases`.
    pub(super) fn take(leases: &Path, boot: &str) -> io::Result<Self> {
        let process = std::process::id();
        // Another container may share the cache and the boot id and have a process of this number: the next name then.
        for attempt in 0u32.. {
            let name = format!("{boot}-{process}-{attempt}");
            let path = leases.join(&name);
            if let Some(lock) = Lock::try_acquire(&path, LockKind::Flock)?
                // A sweeper may have removed the file between its creation and our lock.
                && lock.file().metadata()?.nlink() > 0
            {
                io::Write::write_all(&mut lock.file(), format!("{process}\n").as_bytes())?;
                return Ok(Self { path, name, drafts: AtomicU64::new(0), _lock: lock });
            }
        }
        unreachable!("some name of four billion is free")
    }

    /// Returns a name that no other draft has.
    pub(super) fn draft_name(&self) -> String {
        format!("{}.{}", self.name, self.drafts.fetch_add(1, Ordering::Relaxed))
    }

    /// Deletes the drafts and leases of processes that are gone, and the drafts of an earlier process of this lease's name.
    pub(super) fn sweep(&self, leases: &Path, drafts: &Path) -> io::Result<()> {
        delete_drafts(drafts, &self.name)?;
        for name in names(leases)? {
            if name == self.name {
                continue;
            }
            let path = leases.join(&name);
            if let Some(abandoned) = Lock::try_acquire(&path, LockKind::Flock)? {
                delete_drafts(drafts, &name)?;
                if abandoned.is_at(&path)? {
                    ignore_absence(fs_err::remove_file(&path))?;
                }
            }
        }
        // Whoever collects garbage deletes dead leases too, and not always their drafts.
        for draft in names(drafts)? {
            let Some(owner) = owner(&draft).filter(|owner| *owner != self.name) else { continue };
            let path = leases.join(owner);
            // Held meanwhile, so that no new process takes this name and makes drafts that look the same.
            if let Some(abandoned) = Lock::try_acquire(&path, LockKind::Flock)? {
                delete_draft(&drafts.join(&draft));
                if abandoned.is_at(&path)? {
                    ignore_absence(fs_err::remove_file(&path))?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Removed while still locked: whoever opens the name later makes a new file.
        let _ = fs_err::remove_file(&self.path);
    }
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let entries = fs_err::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
    entries.filter_map(Result::transpose).collect()
}

/// Returns the lease that a draft belongs to.
fn owner(draft: &str) -> Option<&str> {
    draft.rsplit_once('.').map(|(owner, _)| owner)
}

fn delete_drafts(drafts: &Path, lease: &str) -> io::Result<()> {
    for name in names(drafts)? {
        if owner(&name) == Some(lease) {
            delete_draft(&drafts.join(name));
        }
    }
    Ok(())
}

/// Something that cannot be deleted must not keep the cache from being used.
fn delete_draft(path: &Path) {
    if let Err(error) = ignore_absence(fs_err::remove_dir_all(path)) {
        tracing::warn!(%error, "an abandoned draft stays in the cache");
    }
}

/// Takes absence for success: somebody else did it first.
pub(super) fn ignore_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
