//! Running one step: blocking code, on a thread of its own.

use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::builder::embedded::Machine;
use crate::builder::embedded::context::ContextTree;
use crate::builder::embedded::copy::{self, CopySource, CopyStep, ModeChange};
use crate::builder::embedded::pack::PackError;
use crate::builder::embedded::passwd::{self, AccountError, Accounts};
use crate::builder::embedded::sandbox::{Access, Exit, Mount, MountSource, ResolvedUser, RootFs, RunStep, SandboxError};
use crate::builder::embedded::snapshot::{Snapshot, SnapshotError};
use crate::builder::embedded::tree::LoopError;
use crate::builder::{BuildError, BuildEvent, Support};
use crate::content::ErrorClass;
use crate::oci::Platform;
use crate::sys::fs::{Lock, LockKind};
use crate::sys::process::Tail;
use crate::time::SourceDate;

use super::op::{
    CacheSharing, CopyFrom, CopyOperation, HOSTNAME, MakeDirectoryOperation, MountKind, Operation, RunOperation, SHM_SIZE,
};

/// How many of a failing step's last lines are kept.
const TAIL: usize = 20;

/// A step with all it needs to run.
pub(super) struct Job {
    pub(super) machine: Arc<Machine>,
    pub(super) operation: Operation,
    /// The step's number, for what it prints.
    pub(super) number: usize,
    pub(super) parent: Snapshot,
    pub(super) inputs: Vec<Snapshot>,
    pub(super) context: Option<Arc<ContextTree>>,
    pub(super) events: mpsc::Sender<BuildEvent>,
    pub(super) cancel: CancellationToken,
}

/// Why a step left nothing.
pub(super) enum StepError {
    /// The command ended badly.
    Ended {
        /// How, as a phrase.
        outcome: String,
        /// The end of what it printed.
        tail: Box<Tail>,
    },
    /// Files could not be read or written.
    Files {
        /// What can be done about it.
        class: ErrorClass,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something that is not about the step.
    Build(BuildError),
}

/// What the Dockerfile asks of files that are not so.
#[derive(Debug, thiserror::Error)]
enum MissingError {
    #[error("there is no `{0}` to mount")]
    Mount(String),
    #[error("`/{0}` of the image has more than {limit} bytes", limit = passwd::LIMIT)]
    Accounts(&'static str),
}

impl StepError {
    fn files(class: ErrorClass, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Files { class, source: source.into() }
    }

    fn io(error: io::Error) -> Self {
        Self::files(ErrorClass::Damaged, error)
    }
}

impl From<SnapshotError> for StepError {
    fn from(error: SnapshotError) -> Self {
        Self::files(error.class(), error)
    }
}

impl From<LoopError> for StepError {
    fn from(error: LoopError) -> Self {
        Self::files(ErrorClass::Permanent, error)
    }
}

impl From<AccountError> for StepError {
    fn from(error: AccountError) -> Self {
        Self::files(ErrorClass::Permanent, error)
    }
}

/// Returns the error of a step cache that cannot be used.
pub(super) fn cache_error(error: io::Error) -> BuildError {
    BuildError::Builder { action: "use the step cache".to_owned(), class: ErrorClass::Damaged, source: error.into() }
}

/// Returns the error of a layer that cannot be packed.
pub(super) fn pack_error(error: PackError) -> BuildError {
    BuildError::Builder { action: "pack a layer".to_owned(), class: error.class(), source: error.into() }
}

/// Returns the error of a machine that cannot run code of `platform`.
pub(super) fn no_emulator(platform: &Platform) -> BuildError {
    BuildError::Unsupported {
        platform: Box::new(platform.clone()),
        reason: format!("its RUN steps need {} code run on {}, and no binfmt handler is registered", platform.architecture, Platform::host().architecture),
        help: "install qemu-user-static, whose handlers need the flag F (`update-binfmts --display`), or build on a machine of that architecture".to_owned(),
    }
}

/// The cache directories a step uses; they are its own, or shared, until this is dropped.
pub(super) struct CacheMounts {
    /// By the number of the mount.
    paths: Vec<Option<PathBuf>>,
    _locks: Vec<Lock>,
}

/// Waits for the cache directories that the step mounts.
///
/// # Errors
/// When they cannot be made, or the step is cancelled.
pub(super) async fn lock_caches(job: &Job) -> Result<CacheMounts, StepError> {
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
        make_cache(&path, (*uid, *gid), *mode).map_err(StepError::io)?;
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
fn make_cache(path: &Path, (uid, gid): (u32, u32), mode: u32) -> io::Result<()> {
    if path.try_exists()? {
        return Ok(());
    }
    let parent = path.parent().expect("a cache lies in a directory");
    let fresh = tempfile::Builder::new().prefix(crate::sys::fs::UNFINISHED).tempdir_in(parent)?;
    chown(fresh.path(), Some(uid), Some(gid))?;
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

/// Runs the step and returns the files it left, one layer more than before.
///
/// # Errors
/// As [`StepError`]; nothing is left then.
pub(super) fn run(job: &Job, caches: CacheMounts) -> Result<Snapshot, StepError> {
    if job.cancel.is_cancelled() {
        return Err(StepError::Build(BuildError::Cancelled));
    }
    job.machine.wrote.store(true, Ordering::Relaxed);
    match &job.operation {
        Operation::Copy(operation) => copy_files(job, operation),
        Operation::MakeDirectory(operation) => make_directory(job, operation),
        Operation::Run(operation) => run_command(job, operation, &caches),
    }
}

fn accounts(job: &Job) -> Result<Accounts, StepError> {
    let read = |path: &'static str| -> Result<Vec<u8>, StepError> {
        let mut bytes = Vec::new();
        if let Some(file) = job.machine.snapshots.open_file(&job.parent, path.as_bytes())? {
            file.take(passwd::LIMIT + 1).read_to_end(&mut bytes).map_err(StepError::io)?;
            if bytes.len() as u64 > passwd::LIMIT {
                return Err(StepError::files(ErrorClass::Permanent, MissingError::Accounts(path)));
            }
        }
        Ok(bytes)
    };
    Ok(Accounts::parse(&read("etc/passwd")?, &read("etc/group")?))
}

fn owner(job: &Job, text: &str) -> Result<(u32, u32), StepError> {
    let accounts = if passwd::is_numeric(text) { Accounts::default() } else { accounts(job)? };
    Ok(accounts.owner(text)?)
}

fn copy_error(error: copy::CopyError) -> StepError {
    StepError::files(error.class(), error)
}

fn copy_files(job: &Job, operation: &CopyOperation) -> Result<Snapshot, StepError> {
    let CopyOperation { from, patterns, inline, destination, owner: text, mode, unpack, date } = operation;
    let snapshots = &job.machine.snapshots;
    let owner = text.as_ref().map(|text| owner(job, text)).transpose()?;
    let mode = mode.as_ref().map(|text| ModeChange::parse(text)).transpose();
    let mode = mode.map_err(|error| StepError::files(ErrorClass::Permanent, error))?;
    let mut draft = snapshots.draft(&job.parent)?;
    let mut copy = |source: CopySource<'_>, patterns: Vec<Vec<u8>>, unpack_archives: bool| {
        let step = CopyStep {
            source,
            patterns,
            destination: destination.as_bytes().to_vec(),
            owner,
            mode: mode.clone(),
            unpack_archives,
            source_date: *date,
        };
        copy::copy(&mut draft, &step).map_err(copy_error)
    };
    if inline.is_empty() {
        let patterns = patterns.iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
        let source = match from {
            CopyFrom::Input(number) => CopySource::Snapshot(snapshots, &job.inputs[*number]),
            CopyFrom::Context => CopySource::Context(job.context.as_ref().expect("the context is read when a step needs it")),
        };
        for pattern in copy(source, patterns, *unpack)?.unmatched {
            warn(job, format!("`{}` matches nothing, so nothing is copied for it", String::from_utf8_lossy(&pattern)));
        }
    } else {
        let files = inline_files(job, inline)?;
        let names = inline.iter().map(|(name, _)| name.as_bytes().to_vec()).collect();
        copy(CopySource::Snapshot(snapshots, &files), names, false)?;
    }
    Ok(snapshots.commit(draft)?)
}

/// Returns a snapshot of nothing but files whose content stands in the Dockerfile.
fn inline_files(job: &Job, files: &[(String, Vec<u8>)]) -> Result<Snapshot, StepError> {
    let snapshots = &job.machine.snapshots;
    let draft = snapshots.draft(&snapshots.scratch())?;
    for (name, data) in files {
        let path = draft.upper.join(name);
        fs_err::write(&path, data).map_err(StepError::io)?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).map_err(StepError::io)?;
    }
    Ok(snapshots.commit(draft)?)
}

fn make_directory(job: &Job, operation: &MakeDirectoryOperation) -> Result<Snapshot, StepError> {
    let owner = owner(job, &operation.owner)?;
    let mut draft = job.machine.snapshots.draft(&job.parent)?;
    copy::make_directory(&mut draft, operation.path.as_bytes(), owner, 0o755, operation.date).map_err(copy_error)?;
    Ok(job.machine.snapshots.commit(draft)?)
}

fn run_command(job: &Job, operation: &RunOperation, caches: &CacheMounts) -> Result<Snapshot, StepError> {
    let machine = &job.machine;
    if machine.sandbox.support(&operation.platform) == Support::Unsupported {
        return Err(StepError::Build(no_emulator(&operation.platform)));
    }
    let account = accounts(job)?.account(&operation.user)?;
    let script = operation.script.as_ref().map(|(path, data)| write_script(path, data)).transpose().map_err(StepError::io)?;
    let mut mounts = mounts(job, operation, caches)?;
    if let Some((directory, target)) = &script {
        let source = MountSource::Path { path: directory.path().to_owned(), access: Access::ReadOnly };
        mounts.push(Mount { target: target.clone(), source });
    }
    let draft = machine.snapshots.draft(&job.parent)?;
    let mut env = operation.env.clone();
    let added = [("HOME".to_owned(), account.home.clone())];
    for (name, value) in added.iter().chain(&operation.proxies) {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.clone(), value.clone()));
        }
    }
    let step = RunStep {
        root: RootFs { lowers: draft.lowers.clone(), upper: draft.upper.clone(), work: draft.work.clone() },
        argv: operation.argv.clone(),
        env,
        cwd: operation.cwd.clone(),
        user: ResolvedUser { uid: account.uid, gid: account.gid, groups: account.groups },
        network: operation.network,
        mounts,
        hostname: HOSTNAME.to_owned(),
        shm_size: SHM_SIZE,
        platform: operation.platform.clone(),
    };
    let mut tail = Tail::new(TAIL);
    let mut on_output = |bytes: &[u8]| {
        tail.push(bytes);
        // The receiver outlives the step, unless the whole build is being dropped.
        drop(job.events.blocking_send(BuildEvent::Log { step: job.number, bytes: bytes.to_vec() }));
    };
    let exit = machine.sandbox.run(&step, &mut on_output, &job.cancel);
    let outcome = match exit {
        Ok(Exit::Code(0)) => return Ok(machine.snapshots.commit(draft)?),
        Ok(Exit::Code(status)) => format!("exited with status {status}"),
        Ok(Exit::Signal(signal)) => format!("was killed by signal {signal}"),
        Err(SandboxError::Cancelled) => return Err(StepError::Build(BuildError::Cancelled)),
        Err(SandboxError::Unprivileged) => {
            return Err(StepError::Build(BuildError::Unsupported {
                platform: Box::new(operation.platform.clone()),
                reason: "a RUN step needs root (CAP_SYS_ADMIN) here".to_owned(),
                help: "run pkgbuild as root".to_owned(),
            }));
        }
        Err(error @ (SandboxError::Launch { .. } | SandboxError::Died(_))) => {
            return Err(StepError::files(ErrorClass::Retryable, error));
        }
        Err(error) => return Err(StepError::files(ErrorClass::Permanent, error)),
    };
    Err(StepError::Ended { outcome, tail: Box::new(tail) })
}

/// Puts a script into a directory of its own; returns that and where it is to be mounted.
fn write_script(path: &str, data: &[u8]) -> io::Result<(tempfile::TempDir, String)> {
    let (target, name) = path.rsplit_once('/').expect("a script's path is absolute");
    let directory = tempfile::tempdir()?;
    fs_err::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
    let file = directory.path().join(name);
    fs_err::write(&file, data)?;
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
    Ok((directory, target.to_owned()))
}

fn mounts(job: &Job, operation: &RunOperation, caches: &CacheMounts) -> Result<Vec<Mount>, StepError> {
    let mut mounts = Vec::new();
    for (number, mount) in operation.mounts.iter().enumerate() {
        let source = match &mount.what {
            MountKind::Tmpfs { size } => MountSource::Tmpfs { size: *size },
            MountKind::Cache { access, .. } => {
                let path = caches.paths[number].clone().expect("every cache mount was given a directory");
                MountSource::Path { path, access: *access }
            }
            MountKind::Bind { from, source, access } => {
                let (snapshot, path) = match from {
                    CopyFrom::Input(input) => (job.inputs[*input].clone(), format!("/{}", source.trim_start_matches('/'))),
                    CopyFrom::Context => context_snapshot(job, source)?,
                };
                let real = snapshot.tree.resolve(path.as_bytes())?;
                if snapshot.tree.get(&real).is_none() {
                    return Err(StepError::files(ErrorClass::Permanent, MissingError::Mount(source.clone())));
                }
                MountSource::Layers { lowers: job.machine.snapshots.lowers(&snapshot), path, access: *access }
            }
        };
        mounts.push(Mount { target: mount.target.clone(), source });
    }
    Ok(mounts)
}

/// Puts a part of the context into a snapshot, and returns that with the part's path in it.
fn context_snapshot(job: &Job, source: &str) -> Result<(Snapshot, String), StepError> {
    let context = job.context.as_ref().expect("the context is read when a step needs it");
    let snapshots = &job.machine.snapshots;
    let mut draft = snapshots.draft(&snapshots.scratch())?;
    let step = CopyStep {
        source: CopySource::Context(context),
        // A name with wildcard characters is meant as it stands.
        patterns: vec![escaped(source)],
        destination: b"/mount".to_vec(),
        owner: None,
        mode: None,
        unpack_archives: false,
        source_date: SourceDate::default(),
    };
    copy::copy(&mut draft, &step).map_err(copy_error)?;
    Ok((snapshots.commit(draft)?, "/mount".to_owned()))
}

/// Returns a pattern that matches `path` and nothing else.
fn escaped(path: &str) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'\\' => pattern.extend_from_slice(b"[\\\\]"),
            b'*' | b'?' | b'[' => pattern.extend_from_slice(&[b'[', byte, b']']),
            byte => pattern.push(byte),
        }
    }
    pattern
}

fn warn(job: &Job, message: String) {
    drop(job.events.blocking_send(BuildEvent::Warning { message }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_wildcard_characters_is_taken_as_it_stands() {
        assert_eq!(escaped("a*b/[c]\\"), b"a[*]b/[[]c][\\\\]");
        assert_eq!(escaped("plain/x"), b"plain/x");
    }
}
