//! What a step is run with: plain data, sent to the supervisor as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::given::Given;
use crate::oci::Platform;

/// A command and all its surroundings.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RunStep {
    /// The root file system.
    pub root: RootFs,
    /// The program, looked up in the step's `PATH` unless it has a `/`, and its arguments; never empty.
    pub argv: Vec<String>,
    /// The whole environment, as `(name, value)` in order; nothing is added to it.
    pub env: Vec<(String, String)>,
    /// Absolute working directory; created, owned by `user`, when missing.
    pub cwd: String,
    /// Who the step runs as.
    pub user: ResolvedUser,
    /// What network it sees.
    pub network: StepNetwork,
    /// Mounts over the root, in any order.
    pub mounts: Vec<Mount>,
    /// Host name inside.
    pub hostname: String,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: u64,
    /// The platform whose code the step runs, for messages.
    pub platform: Platform,
    /// What it is given from outside.
    pub given: Given,
    /// With a single user id: links and pipes of the layers that do not belong to 0:0.
    pub links: Vec<OwnedLink>,
}

/// A link or a pipe and its owner.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnedLink {
    /// Path relative to the root.
    pub path: Vec<u8>,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// The directories that a root file system is made of. The directory that holds `upper` must be private to this step: the
/// sandbox makes further directories in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// How the root comes of them.
    pub form: RootForm,
    /// Read-only layers in overlay form, highest first; may be empty.
    pub lowers: Vec<PathBuf>,
    /// Receives what the step changes, in overlay form; or is the whole root.
    pub upper: PathBuf,
    /// Overlay's own directory, empty, on the file system of `upper`.
    pub work: PathBuf,
}

/// How a root comes of its directories.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RootForm {
    /// `lowers` and `upper` are mounted over each other.
    Overlay,
    /// `upper` is the root, with everything in it; `lowers` is empty and `work` is not used.
    Whole,
}

/// User and group ids of a process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// What network a step sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StepNetwork {
    /// A loopback interface of its own, up, and nothing else.
    None,
    /// Interfaces of its own that reach out through `pasta`, which translates to sockets of this machine; the machine's
    /// loopback services stay out of reach. Only where [`super::Sandbox::outbound`] says so.
    Outbound,
    /// The machine's interfaces and name servers.
    Host,
}

/// Something mounted over the root.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path inside the root; links in it are followed inside the root. A missing target is made, and is no part
    /// of the step's result.
    pub target: String,
    /// What appears there.
    pub source: MountSource,
}

/// What a mount shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MountSource {
    /// A directory or file of this machine, for example a cache mount.
    Path {
        /// Its absolute path.
        path: PathBuf,
        /// Whether the step may write to it.
        access: Access,
    },
    /// A directory or file of a snapshot. What the step writes there is thrown away.
    Layers {
        /// Layers in overlay form, highest first; not empty.
        lowers: Vec<PathBuf>,
        /// Path inside the snapshot; links are followed inside it.
        path: String,
        /// Whether the step may write.
        access: Access,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Limit in bytes; `None` for the kernel's default.
        size: Option<u64>,
    },
}

/// Whether writes are allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Access {
    /// Writes fail.
    ReadOnly,
    /// Writes succeed.
    ReadWrite,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Exit {
    /// With an exit status; 127 when the program was not found, 126 when it could not be executed.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// What the supervisor reports: exactly one of these, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Ended(Exit),
    SetupFailed { action: String, errno: i32 },
    ExecFailed { program: String, errno: i32 },
}
