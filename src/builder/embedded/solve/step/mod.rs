//! Running one step: blocking code, on a thread of its own.

mod caches;
mod copy;
mod given;
mod run;

use std::io::{self, Read};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::builder::StepName;
use crate::builder::embedded::Machine;
use crate::builder::embedded::context::ContextTree;
use crate::builder::embedded::copy as files;
use crate::builder::embedded::pack::PackError;
use crate::builder::embedded::passwd::{self, AccountError, Accounts};
use crate::builder::embedded::snapshot::{Snapshot, SnapshotError};
use crate::builder::embedded::tree::LoopError;
use crate::builder::steps::StepOptions;
use crate::builder::{BuildError, BuildEvent, BuildRequest};
use crate::content::ErrorClass;
use crate::oci::Platform;
use crate::sys::process::Tail;

use super::op::{MakeDirectoryOperation, Operation};
use super::plan::Step;

pub(super) use caches::{CacheMounts, lock_caches};
pub(super) use given::{missing, used};

/// A step with all it needs to run.
pub(super) struct Job {
    pub(super) machine: Arc<Machine>,
    pub(super) operation: Operation,
    /// The package that is built, and the step, for what is kept of it when it fails; `None` when nothing is.
    pub(super) keep: Option<(String, StepName)>,
    /// Whose cache mounts are meant.
    pub(super) namespace: String,
    /// The step's number, for what it prints.
    pub(super) number: usize,
    pub(super) parent: Snapshot,
    pub(super) inputs: Vec<Snapshot>,
    pub(super) context: Option<Arc<ContextTree>>,
    pub(super) options: Arc<StepOptions>,
    /// The named context that the step reads.
    pub(super) named: Option<Arc<ContextTree>>,
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
        /// The id under which it is kept, if it is.
        kept: Option<String>,
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
    #[error("`{0}` is no directory, which a cache could start from")]
    NotADirectory(String),
    #[error(
        "the step needs the secret `{0}`, which was not given: `--secret id={0},src=FILE` or `--secret id={0},env=VARIABLE` gives it"
    )]
    Secret(String),
    #[error("the step needs the SSH agent `{0}`, which was not given: `--ssh {0}` or `--ssh {0}=SOCKET` gives it")]
    Agent(String),
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

    /// Returns the error of a build that ended in `step`.
    pub(super) fn about(self, step: &Step, request: &BuildRequest) -> BuildError {
        let (name, dockerfile, lines) = (Box::new(step.name.clone()), request.dockerfile.path.clone(), step.lines.clone());
        match self {
            Self::Ended { outcome, tail, kept } => {
                let (tail, printed) = tail.finish();
                BuildError::Step {
                    step: name,
                    dockerfile,
                    lines: lines.into(),
                    outcome,
                    tail,
                    printed,
                    kept: kept.map(Into::into),
                }
            }
            Self::Files { class, source } => BuildError::Files { step: name, dockerfile, lines, class, source },
            Self::Build(error) => error,
        }
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
        help: "install qemu-user-static: its handlers with the flag F (`update-binfmts --display`) are used, and from Linux 6.7 on its programs are enough; or build on a machine of that architecture".to_owned(),
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
    job.machine.begins_to_write();
    match &job.operation {
        Operation::Copy(operation) => copy::copy_files(job, operation),
        Operation::MakeDirectory(operation) => make_directory(job, operation),
        Operation::Run(operation) => run::run_command(job, operation, &caches),
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

fn make_directory(job: &Job, operation: &MakeDirectoryOperation) -> Result<Snapshot, StepError> {
    let owner = owner(job, &operation.owner)?;
    let mut draft = job.machine.snapshots.draft(&job.parent)?;
    files::make_directory(&mut draft, operation.path.as_bytes(), owner, 0o755, operation.date).map_err(copy::copy_error)?;
    Ok(job.machine.snapshots.commit(draft)?)
}

fn warn(job: &Job, message: String) {
    drop(job.events.blocking_send(BuildEvent::Warning { message }));
}
