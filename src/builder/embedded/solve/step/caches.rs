//! The directories of cache mounts: found or made, and held while a step uses them.
//!
//! ```text
//! <cache>/pkgbuild/v1/mounts/<identity>/shared         what all steps see that share it, or use it in turn
//!                                      /shared.lock    flock: held together by those that share, alone by the others; its
//!                                                      modification time says when the cache was used last
//!                                      /private-<n>    what one step at a time has for itself, with a lock each
//! ```
//! The identity is the hash of namespace and id, which may be any text. A collector deletes a directory and its lock file
//! while it holds the lock alone, so a lock counts only while it still has its name.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW};
use tokio_util::sync::CancellationToken;

use crate::builder::BuildError;
use crate::builder::embedded::form::Form;
use crate::builder::embedded::solve::op::{CacheSharing, CopyFrom, Initial, MountKind, Operation};
use crate::content::ErrorClass;
use crate::sys::fs::{Lock, LockKind};

use super::{Job, MissingError, StepError};

/// The cache directories a step uses; they are its own, or shared, until this is dropped.
pub(in crate::builder::embedded) struct CacheMounts {
    /// By the number of the mount.
    pub(in crate::builder::embedded::solve) paths: Vec<Option<PathBuf>>,
    _held: Vec<Held>,
}

/// A lock of a cache directory. Taking it and giving it back are uses of the cache.
struct Held(Lock);

impl Held {
    fn new(lock: Lock) -> Self {
        let held = Self(lock);
        held.mark();
        held
    }

    fn mark(&self) {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // A collector goes by an older use then.
        let _ = rustix::fs::futimens(self.0.file(), &Timestamps { last_access: now, last_modification: now });
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.mark();
    }
}

/// Returns the directory name of the cache `id` of `namespace`: both may be any text, so they are hashed before they are a
/// path.
fn identity(namespace: &str, id: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"pkgbuild cache mount 1\0");
    for text in [namespace, id] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Waits for the cache directories that the step mounts.
///
/// # Errors
/// When they cannot be made, or the step is cancelled.
pub(in crate::builder::embedded::solve) async fn lock_caches(job: &Job) -> Result<CacheMounts, StepError> {
    let mut mounts = CacheMounts { paths: Vec::new(), _held: Vec::new() };
    let Operation::Run(run) = &job.operation else { return Ok(mounts) };
    mounts.paths = vec![None; run.mounts.len()];
    // In one order everywhere, so that no two steps wait for each other.
    let mut order: Vec<usize> = (0..run.mounts.len()).collect();
    let names = run.mounts.iter().map(|mount| match &mount.what {
        MountKind::Cache { id, initial: None, .. } => Ok(Some(id.clone())),
        // A cache that starts with something else is another one.
        MountKind::Cache { id, initial: Some(initial), .. } => {
            Ok(Some(format!("{id}\0{}", starting_point(job, initial)?.1.to_hex())))
        }
        _ => Ok(None),
    });
    let names = names.collect::<Result<Vec<Option<String>>, StepError>>()?;
    order.sort_by_key(|number| &names[*number]);
    let mut held: Vec<(String, PathBuf)> = Vec::new();
    for number in order {
        let MountKind::Cache { sharing, uid, gid, mode, initial, .. } = &run.mounts[number].what else { continue };
        let id = names[number].as_ref().expect("every cache has a name");
        let home = job.machine.mounts.join(identity(&job.namespace, id));
        // The same cache mounted twice in one step is one directory, and one lock.
        if let Some((_, path)) = held.iter().find(|(known, _)| known == id) {
            mounts.paths[number] = Some(path.clone());
            continue;
        }
        let (path, lock) = match sharing {
            CacheSharing::Shared | CacheSharing::Locked => wait_for(&home, *sharing, &job.cancel).await?,
            CacheSharing::Private => first_free(&home).map_err(StepError::io)?,
        };
        mounts._held.push(lock);
        if !path.try_exists().map_err(StepError::io)? {
            let form = job.machine.snapshots.form();
            match initial {
                None => make_cache(&path, form, (*uid, *gid), *mode).map_err(StepError::io)?,
                Some(initial) => {
                    let owner = (!initial.keeps_owner).then_some((*uid, *gid, *mode));
                    fill_cache(job, initial, owner, &path)?;
                }
            }
        }
        held.push((id.clone(), path.clone()));
        mounts.paths[number] = Some(path);
    }
    Ok(mounts)
}

/// Locks `name` in `home` if that is free, making both when missing.
fn try_lock(home: &Path, name: &str, sharing: CacheSharing) -> io::Result<Option<Held>> {
    let path = home.join(name);
    loop {
        fs_err::create_dir_all(home)?;
        let lock = match sharing {
            CacheSharing::Shared => Lock::try_share(&path),
            CacheSharing::Locked | CacheSharing::Private => Lock::try_acquire(&path, LockKind::Flock),
        };
        match lock {
            Ok(Some(lock)) if lock.is_at(&path)? => return Ok(Some(Held::new(lock))),
            Ok(None) => return Ok(None),
            // A collector deleted the file or its directory just now.
            Ok(Some(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

async fn wait_for(home: &Path, sharing: CacheSharing, cancel: &CancellationToken) -> Result<(PathBuf, Held), StepError> {
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(lock) = try_lock(home, "shared.lock", sharing).map_err(StepError::io)? {
            return Ok((home.join("shared"), lock));
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(Duration::from_millis(100)),
            () = cancel.cancelled() => return Err(StepError::Build(BuildError::Cancelled)),
        }
    }
}

fn first_free(home: &Path) -> io::Result<(PathBuf, Held)> {
    for number in 0u32.. {
        if let Some(lock) = try_lock(home, &format!("private-{number}.lock"), CacheSharing::Private)? {
            return Ok((home.join(format!("private-{number}")), lock));
        }
    }
    unreachable!("some number of four billion is free")
}

/// Returns the path of the directory that a new cache starts with, and the hash of that.
fn starting_point(job: &Job, Initial { from, source, .. }: &Initial) -> Result<(Vec<u8>, blake3::Hash), StepError> {
    let CopyFrom::Input(input) = from else { unreachable!("a cache starts from a stage or an image") };
    let tree = &job.inputs[*input].tree;
    let real = tree.resolve(source.as_bytes())?;
    let hash = tree.hash_of(&real).ok_or_else(|| MissingError::Mount(source.clone()));
    let hash = hash.map_err(|missing| StepError::files(ErrorClass::Permanent, missing))?.0;
    if tree.get(&real).is_none_or(|entry| !entry.is_directory()) {
        return Err(StepError::files(ErrorClass::Permanent, MissingError::NotADirectory(source.clone())));
    }
    Ok((real, hash))
}

/// Makes a cache directory as a copy of what it starts with. `owner` is user, group and mode where those are given.
fn fill_cache(job: &Job, initial: &Initial, owner: Option<(u32, u32, u32)>, path: &Path) -> Result<(), StepError> {
    let CopyFrom::Input(input) = initial.from else { unreachable!("a cache starts from a stage or an image") };
    let (real, _) = starting_point(job, initial)?;
    let snapshots = &job.machine.snapshots;
    let whole = snapshots.whole(&job.inputs[input], &real)?;
    let filled = whole.path(&real);
    let placed = || -> io::Result<()> {
        if let Some((uid, gid, mode)) = owner {
            snapshots.form().own_directory(&filled, uid, gid)?;
            fs_err::set_permissions(&filled, std::fs::Permissions::from_mode(mode))?;
        }
        match fs_err::rename(&filled, path) {
            // As in `make_cache`; those that share a cache may fill it at once, with the same.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
            result => result,
        }
    };
    placed().map_err(StepError::io)
}

/// Makes a cache directory with its owner and mode.
fn make_cache(path: &Path, form: &Form, (uid, gid): (u32, u32), mode: u32) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicIsize, Ordering};

    use super::*;

    #[test]
    fn no_text_of_an_id_is_a_path_and_none_means_another_cache() {
        let ids = ["go", "../../etc", "/", "", "a/b", "a", "b"];
        let mut seen = std::collections::BTreeSet::new();
        for namespace in ["", "a", "ab", "../x"] {
            for id in ids {
                let identity = identity(namespace, id);
                assert!(identity.len() == 64 && identity.bytes().all(|byte| byte.is_ascii_hexdigit()), "{identity}");
                assert!(seen.insert(identity), "{namespace:?} {id:?}");
            }
        }
        assert_ne!(identity("a", "bc"), identity("ab", "c"));
    }

    #[test]
    fn those_that_share_exclude_those_that_use_it_in_turn() {
        let directory = tempfile::tempdir().expect("temp dir");
        let lock = |sharing| try_lock(directory.path(), "shared.lock", sharing).expect("locks");
        let (one, two) = (lock(CacheSharing::Shared).expect("free"), lock(CacheSharing::Shared).expect("shared"));
        assert!(lock(CacheSharing::Locked).is_none());
        drop((one, two));
        let alone = lock(CacheSharing::Locked).expect("free");
        assert!(lock(CacheSharing::Shared).is_none() && lock(CacheSharing::Locked).is_none());
        drop(alone);
        let (first, _one) = first_free(directory.path()).expect("locks");
        let (second, _two) = first_free(directory.path()).expect("locks");
        assert_ne!(first, second);
    }

    #[test]
    fn a_lock_that_a_collector_deletes_meanwhile_is_taken_anew() {
        let directory = tempfile::tempdir().expect("temp dir");
        let home = directory.path().join("home");
        let inside = Arc::new(AtomicIsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let Some(_held) = try_lock(&home, "shared.lock", CacheSharing::Locked).expect("locks") else { continue };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..200 {
                    let path = home.join("shared.lock");
                    if let Ok(Some(lock)) = Lock::try_acquire(&path, LockKind::Flock)
                        && lock.is_at(&path).expect("looks")
                    {
                        fs_err::remove_file(&path).expect("removes");
                        let _ = fs_err::remove_dir(&home);
                    }
                }
            });
        });
    }
}
