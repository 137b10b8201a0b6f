//! `RUN`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::builder::embedded::copy::{self, CopyPart, CopySource, CopyStep, Wanted};
use crate::builder::embedded::kept;
use crate::builder::embedded::sandbox::{
    Access, Exit, Mount, MountSource, OwnedLink, ResolvedUser, RootForm, RootFs, RunStep, SandboxError,
};
use crate::builder::embedded::snapshot::{Draft, Snapshot, Whole};
use crate::builder::embedded::solve::op::{CopyFrom, HOSTNAME, MountKind, RunOperation};
use crate::builder::embedded::tree::Kind;
use crate::builder::{BuildError, BuildEvent, Support};
use crate::content::ErrorClass;
use crate::dockerfile::Ignore;
use crate::sys::process::Tail;
use crate::time::SourceDate;

use super::caches::CacheMounts;
use super::copy::copy_error;
use super::{Job, MissingError, StepError, accounts, given, no_emulator, warn};

/// How many of a failing step's last lines are kept.
const TAIL: usize = 20;

pub(super) fn run_command(job: &Job, operation: &RunOperation, caches: &CacheMounts) -> Result<Snapshot, StepError> {
    let machine = &job.machine;
    if machine.sandbox.support(&operation.platform) == Support::Unsupported {
        return Err(StepError::Build(no_emulator(&operation.platform)));
    }
    let account = accounts(job)?.account(&operation.user)?;
    let script = operation.script.as_ref().map(|(path, data)| write_script(path, data)).transpose().map_err(StepError::io)?;
    let Mounts { mut mounts, copies: _copies } = mounts(job, operation, caches)?;
    if let Some((directory, target)) = &script {
        let source = MountSource::Path { path: directory.path().to_owned(), access: Access::ReadOnly };
        mounts.push(Mount { target: target.clone(), source });
    }
    let root = Root::of(job)?;
    let (given, agents) = given::given(job, operation, &root.directories())?;
    let mut env = operation.env.clone();
    let added = [("HOME".to_owned(), account.home.clone())];
    for (name, value) in added.iter().chain(&operation.proxies) {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.clone(), value.clone()));
        }
    }
    let step = RunStep {
        root: root.directories(),
        argv: operation.argv.clone(),
        env,
        cwd: operation.cwd.clone(),
        user: ResolvedUser { uid: account.uid, gid: account.gid, groups: account.groups },
        network: operation.network,
        mounts,
        hostname: HOSTNAME.to_owned(),
        shm_size: operation.shm_size,
        platform: operation.platform.clone(),
        given,
        links: links(job),
    };
    let mut tail = Tail::new(TAIL);
    let mut tell = |bytes: &[u8]| {
        tail.push(bytes);
        // The receiver outlives the step, unless the whole build is being dropped.
        drop(job.events.blocking_send(BuildEvent::Log { step: job.number, bytes: bytes.to_vec() }));
    };
    let mut mask = given::mask(job, operation);
    let exit = machine.sandbox.run(&step, &mut |bytes| mask.push(bytes, &mut tell), &job.cancel);
    mask.finish(&mut tell);
    drop(agents);
    let outcome = match exit {
        Ok(Exit::Code(0)) => {
            let owners = machine.snapshots.form().read_owners(&step.root.upper).map_err(StepError::io)?;
            let mut draft = match root {
                Root::Overlay(draft) => draft,
                Root::Whole(whole) => machine.snapshots.reduce(whole)?,
            };
            draft.owners.of_step((step.user.uid, step.user.gid), owners);
            return given::commit(job, operation, draft);
        }
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
        Err(SandboxError::Budget { action, source }) => {
            return Err(StepError::Build(BuildError::Unsupported {
                platform: Box::new(operation.platform.clone()),
                reason: format!("pkgbuild cannot {action}: {source}"),
                help: "leave the limit out, or run as root or in a delegated cgroup (`systemd-run --scope -p Delegate=yes`)"
                    .to_owned(),
            }));
        }
        Err(error @ (SandboxError::Launch { .. } | SandboxError::Died(_))) => {
            return Err(StepError::files(ErrorClass::Retryable, error));
        }
        Err(error) => return Err(StepError::files(ErrorClass::Permanent, error)),
    };
    let kept = keep(job, operation, (&step, &outcome, script.as_ref().map(|(directory, _)| directory.path())), root);
    Err(StepError::Ended { outcome, tail: Box::new(tail), kept })
}

/// Keeps the failed step if that is asked for, and returns its id. That it cannot be kept is not why the build failed.
fn keep(
    job: &Job,
    operation: &RunOperation,
    (run, outcome, script): (&RunStep, &str, Option<&Path>),
    root: Root,
) -> Option<String> {
    let (package, step) = job.keep.as_ref()?;
    let Root::Overlay(draft) = root else {
        warn(job, "the failed step is not kept: its root is a copy, not an overlay".to_owned());
        return None;
    };
    let mut run = run.clone();
    // Proxies can hold passwords.
    run.env.retain(|variable| !operation.proxies.contains(variable));
    let mut not_given: Vec<String> = operation.proxies.iter().map(|(name, _)| format!("variable {name}")).collect();
    not_given.extend(operation.mounts.iter().filter_map(|mount| match &mount.what {
        MountKind::Secret { id, .. } => Some(format!("secret {id}")),
        MountKind::Ssh { id, .. } => Some(format!("SSH agent {id}")),
        _ => None,
    }));
    let failed = kept::Failed { package, step, outcome, run: &run, not_given, script };
    match kept::keep(&job.machine.snapshots, draft, &failed) {
        Ok(id) => Some(id),
        Err(error) => {
            warn(job, format!("the failed step cannot be kept: {error}"));
            None
        }
    }
}

/// Returns the owners of links and pipes, which do not stand on disk where there is a single id.
fn links(job: &Job) -> Vec<OwnedLink> {
    if !job.machine.snapshots.form().is_single() {
        return Vec::new();
    }
    let entries = job
        .parent
        .tree
        .range(b"")
        .filter(|(_, entry)| matches!(entry.kind, Kind::Symlink { .. } | Kind::Fifo) && (entry.uid, entry.gid) != (0, 0));
    entries.map(|(path, entry)| OwnedLink { path, uid: entry.uid, gid: entry.gid }).collect()
}

/// What the step's root is made of.
enum Root {
    Overlay(Draft),
    Whole(Whole),
}

impl Root {
    fn of(job: &Job) -> Result<Self, StepError> {
        let snapshots = &job.machine.snapshots;
        let Some(reason) = snapshots.no_overlay() else { return Ok(Self::Overlay(snapshots.draft(&job.parent)?)) };
        if !job.machine.told_of_copies.swap(true, Ordering::Relaxed) {
            warn(job, format!("each RUN step copies its whole root, which is slow: {reason}"));
        }
        Ok(Self::Whole(snapshots.whole(&job.parent, b"")?))
    }

    fn directories(&self) -> RootFs {
        match self {
            Self::Overlay(draft) => RootFs {
                form: RootForm::Overlay,
                lowers: draft.lowers.clone(),
                upper: draft.upper.clone(),
                work: draft.work.clone(),
            },
            Self::Whole(whole) => {
                RootFs { form: RootForm::Whole, lowers: Vec::new(), upper: whole.root().to_owned(), work: PathBuf::new() }
            }
        }
    }
}

/// Mounts, and the directories made for them that must outlive the step.
struct Mounts {
    mounts: Vec<Mount>,
    copies: Vec<Whole>,
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

fn mounts(job: &Job, operation: &RunOperation, caches: &CacheMounts) -> Result<Mounts, StepError> {
    let (mut mounts, mut copies) = (Vec::new(), Vec::new());
    for (number, mount) in operation.mounts.iter().enumerate() {
        let source = match &mount.what {
            MountKind::Secret { .. } | MountKind::Ssh { .. } => continue,
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
                if job.machine.snapshots.no_overlay().is_some() {
                    copies.push(job.machine.snapshots.whole(&snapshot, &real)?);
                    let path = copies.last().expect("just put there").path(&real);
                    MountSource::Path { path, access: *access }
                } else {
                    MountSource::Layers { lowers: job.machine.snapshots.lowers(&snapshot), path, access: *access }
                }
            }
        };
        mounts.push(Mount { target: mount.target.clone(), source });
    }
    Ok(Mounts { mounts, copies })
}

/// Puts a part of the context into a snapshot, and returns that with the part's path in it.
fn context_snapshot(job: &Job, source: &str) -> Result<(Snapshot, String), StepError> {
    let context = job.context.as_ref().expect("the context is read when a step needs it");
    let snapshots = &job.machine.snapshots;
    let mut draft = snapshots.draft(&snapshots.scratch())?;
    let step = CopyStep {
        parts: vec![CopyPart {
            source: CopySource::Context(context),
            wanted: Wanted::Paths(vec![source.as_bytes().to_vec()]),
            unpack_archives: false,
        }],
        exclude: Ignore::default(),
        destination: b"/mount".to_vec(),
        owner: None,
        mode: None,
        source_date: SourceDate::default(),
    };
    copy::copy(&mut draft, &step).map_err(copy_error)?;
    Ok((snapshots.commit(draft)?, "/mount".to_owned()))
}
