//! Runs one command in a root file system of its own: the `RUN` step.
//!
//! The calling process starts itself again under the name `INIT_NAME`, from a sealed copy in memory, so that no step can
//! write to the program on disk. That supervisor is single-threaded, mounts the root as an overlay in a mount namespace
//! that nobody else sees, and clones the step's first process into new user, pid, mount, ipc, uts and (unless the step
//! may use the network) network namespaces. Everything the step left running or mounted dies with them, also when the
//! calling process is killed.
//!
//! ```text
//! pkgbuild ── socket (spec → , ← report) ── supervisor ── clone ── init (pid 1) ── fork ── the step
//!    └─────────────── pipe (← output) ──────────────────────────────────────────────────────┘
//! ```
//!
//! The kernel is the boundary. A step is root inside with Docker's 14 capabilities, and has none outside; identities are
//! mapped one to one, so files come out with the ids the step gave them, yet `mknod` and host mounts are refused.

mod attach;
mod cgroup;
mod emulation;
mod given;
mod init;
mod launch;
mod mode;
mod mounts;
mod outbound;
mod root;
mod seccomp;
mod single;
mod spec;
pub(super) mod trial;

use std::io;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::oci::Platform;

use super::super::Support;

pub use attach::Attached;
pub use emulation::{Emulators, Handler};
pub use given::{Given, StepFile, StepSecret, StepSocket};
pub use init::init_if_asked;
pub use launch::Sandbox;
pub use mode::{Found, Mode, Obstacle, WhySingle, enter, of_process as current_mode, probe};
pub use spec::{Access, Exit, Mount, MountSource, OwnedLink, ResolvedUser, RootForm, RootFs, RunStep, StepNetwork};

/// Changes whenever a step can observe something new in its surroundings; part of every step's cache key.
pub const SANDBOX_VERSION: u32 = 2;

/// The name under which the program starts itself as a supervisor.
pub const INIT_NAME: &str = "pkgbuild-sandbox-init";

/// Why a step could not be run. A step that ran and failed is an [`Exit`], not an error.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The process lacks the privileges to isolate a step.
    #[error("running a step needs root (CAP_SYS_ADMIN) on this machine")]
    Unprivileged,
    /// The supervisor could not be started or spoken to.
    #[error("cannot {action} the sandbox")]
    Launch {
        /// What was tried.
        action: &'static str,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A limit that was asked for cannot be kept here.
    #[error("cannot {action}")]
    Budget {
        /// What was tried.
        action: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The surroundings of the step could not be made.
    #[error("cannot {action} for the step")]
    Setup {
        /// What was tried, with the path it was tried on.
        action: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The program could not be executed although it is there.
    #[error("cannot execute `{program}`: {reason}")]
    Exec {
        /// The program's name as the step gave it.
        program: String,
        /// What the kernel said, in words for people.
        reason: String,
    },
    /// The supervisor ended without a report, for example killed for lack of memory.
    #[error("the sandbox ended without a report ({0})")]
    Died(String),
    /// The step was cancelled; nothing of it runs any more.
    #[error("the step was cancelled")]
    Cancelled,
}

impl Sandbox {
    /// Returns how this machine can run steps for `platform`.
    pub fn support(&self, platform: &Platform) -> Support {
        match emulation::support(platform, &Platform::host(), &Emulators::read()) {
            Support::Unsupported if emulation::OwnEmulator::find(platform).is_some() => Support::Emulated,
            support => support,
        }
    }

    /// Runs `step` to its end like [`Sandbox::run`], with a person or a program attached. Not to be called while other
    /// threads start processes.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn enter(&self, step: &RunStep, attached: Attached, on_output: &mut dyn FnMut(&[u8])) -> Result<Exit, SandboxError> {
        launch::run_attached(self, step, attached, (on_output, &CancellationToken::new()))
    }

    /// Returns how this process isolates steps; `None` when it cannot, because it may not make namespaces and mounts.
    pub fn mode(&self) -> Option<Mode> {
        mode::of_process()
    }

    /// Returns whether steps can have [`StepNetwork::Outbound`] here: `pasta` is installed.
    pub fn outbound(&self) -> bool {
        outbound::available()
    }

    /// Runs `step` to its end. `on_output` receives what it prints, standard output and error in the order of writing.
    ///
    /// Blocks; to be called from a thread that may. The thread must live as long as the step: the supervisor dies with it.
    ///
    /// # Errors
    /// [`SandboxError`] when the step could not be started or was cancelled.
    pub fn run(
        &self,
        step: &RunStep,
        on_output: &mut dyn FnMut(&[u8]),
        cancel: &CancellationToken,
    ) -> Result<Exit, SandboxError> {
        launch::run(self, step, on_output, cancel)
    }
}

/// Returns the path that `step` uses below the directory that holds its upper directory.
fn beside_upper(root: &RootFs, name: &str) -> PathBuf {
    root.upper.parent().map_or_else(|| PathBuf::from(name), |parent| parent.join(name))
}
