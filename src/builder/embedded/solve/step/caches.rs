//! The directories of cache mounts: found or made, and held while a step uses them.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::builder::BuildError;
use crate::builder::embedded::form::Form;
use crate::builder::embedded::solve::op::{CacheSharing, MountKind, Operation};
use crate::sys::fs::{Lock, LockKind};

use super::{Job, StepError};

/// The cache directories a step uses; they are its own, or shared, until this is dropped.
pub(in crate::builder::embedded::solve) struct CacheMounts {
    /// By the number of the mount.
    pub(super) paths: Vec<Option<PathBuf>>,
    _locks: Vec<Lock>,
}

/// Waits for the cache directories that the step mounts.
///
/// # Errors
/// When they cannot be made, or the step is cancelled.
pub(in crate::builder::embedded::solve) async fn lock_caches(job: &Job) -> Result<CacheMounts, StepError> {
    let mut mounts = CacheMounts { paths: Vec::new(), _locks: Vec::new() };
    let Operation::Run(run) = &job.operation else { return Ok(mounts) };
    mounts.paths = vec![None; run.mounts.len()];
    // In one order everywhere, so that no two steps wait for each other.
    let mut order: Vec<usize> = (0..run.mounts.len()).collect();
    order.sort_by_key(|number| match &run.mounts[*number].what {
        MountKind::Cache { id, .. } => Some(id.clone()),
        _ => None,
    });
    let mut held: Vec<(String, PathBuf)> = Vec::new();
    for number in order {
        let MountKind::Cache { id, sharing, uid, gid, mode, .. } = &run.mounts[number].what else { continue };
        // The name is anything at all, so it is hashed before it is a path.
        let home = job.machine.mounts.join(&*blake3::hash(id.as_bytes()).to_hex());
        fs_err::create_dir_all(&home).map_err(StepError::io)?;
        // The same cache mounted twice in one step is one directory, and one lock.
        if let Some((_, path)) = held.iter().find(|(known, _)| known == id) {
            mounts.paths[number] = Some(path.clone());
            continue;
        }
        let path = match sharing {
            CacheSharing::Shared => home.join("shared"),
            CacheSharing::Locked => {
                mounts._locks.push(wait_for(&home.join("shared.lock"), &job.cancel).await?);
                home.join("shared")
            }
            CacheSharing::Private => {
                let (path, lock) = first_free(&home)?;
                mounts._locks.push(lock);
                path
            }
        };
        make_cache(&path, job.machine.snapshots.form(), (*uid, *gid), *mode).map_err(StepError::io)?;
        held.push((id.clone(), path.clone()));
        mounts.paths[number] = Some(path);
    }
    Ok(mounts)
}

async fn wait_for(path: &Path, cancel: &CancellationToken) -> Result<Lock, StepError> {
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(lock) = Lock::try_acquire(path, LockKind::Flock).map_err(StepError::io)? {
            return Ok(lock);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_millis(100)),
            () = cancel.cancelled() => return Err(StepError::Build(BuildError::Cancelled)),
        }
    }
}

fn first_free(home: &Path) -> Result<(PathBuf, Lock), StepError> {
    for number in 0u32.. {
        let lock = Lock::try_acquire(&home.join(format!("private-{number}.lock")), LockKind::Flock).map_err(StepError::io)?;
        if let Some(lock) = lock {
            return Ok((home.join(format!("private-{number}")), lock));
        }
    }
    unreachable!("some number of four billion is free")
}

/// Makes a cache directory with its owner and mode, unless it is there: it is then left as it is.
fn make_cache(path: &Path, form: &Form, (uid, gid): (u32, u32), mode: u32) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let parent = path.parent().expect("a cache lies in a directory");
    let fresh = tempfile::Builder::new().prefix(crate::sys::fs::UNFINISHED).tempdir_in(parent)?;
    form.own_directory(fresh.path(), uid, gid)?;
    fs_err::set_permissions(fresh.path(), std::fs::Permissions::from_mode(mode))?;
    match fs_err::rename(fresh.path(), path) {
        // Two steps may make it at once; an empty directory is replaced, a used one is not.
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
        result => {
            let _ = fresh.keep();
            result
        }
    }
}
