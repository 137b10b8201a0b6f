//! What `RUN` steps are given by whoever starts the build, and not by who wrote the Dockerfile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// What steps may ask for, and how far they may go. Nothing of it but the names of secrets, agents and hosts, the size of
/// `/dev/shm` and the resource limits of processes can be told by what a step's key is made of.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StepOptions {
    /// Secrets by id, for `RUN --mount=type=secret`.
    pub secrets: BTreeMap<String, Secret>,
    /// Sockets of SSH agents by id, for `RUN --mount=type=ssh`.
    pub agents: BTreeMap<String, PathBuf>,
    /// More lines of `/etc/hosts`, in order.
    pub hosts: Vec<(String, IpAddr)>,
    /// Resource limits of processes in place of the usual ones.
    pub ulimits: Vec<Ulimit>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: Option<u64>,
    /// Bounds of what one step uses.
    pub limits: StepLimits,
    /// Whether `RUN --network=host` is permitted.
    pub host_network: bool,
}

/// Bounds of one step with all its processes, kept by control groups. What is `None` is not bounded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StepLimits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Memory and swap together, in bytes; not less than `memory`.
    pub memory_and_swap: Option<u64>,
    /// Time of processors, in thousandths of one.
    pub milli_cpus: Option<u64>,
    /// Share of the processors' time when others want it too: 2 to 262,144, where 1024 is usual.
    pub cpu_shares: Option<u64>,
    /// Processors that may be used, as a list: `0-3,7`.
    pub cpu_set: Option<String>,
    /// How many processes and threads there may be.
    pub processes: Option<u64>,
}

impl StepLimits {
    /// Returns whether anything is bounded.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }
}

/// A resource limit of processes (`setrlimit`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ulimit {
    /// Which.
    pub resource: Resource,
    /// What is in force; `None` for no limit.
    pub soft: Option<u64>,
    /// How far a step may raise it; `None` for no limit.
    pub hard: Option<u64>,
}

macro_rules! resources {
    ($($(#[$doc:meta])* $name:ident $word:literal)*) => {
        /// What a [`Ulimit`] is about, in the words of `ulimit` and Docker.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        pub enum Resource { $($(#[$doc])* $name),* }

        impl Resource {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns its word.
            pub fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }
        }
    };
}

resources! {
    /// Size of a core dump.
    Core "core"
    /// Processor time in seconds.
    Cpu "cpu"
    /// Size of the data segment.
    Data "data"
    /// Size of a file.
    Fsize "fsize"
    /// Locked memory.
    Memlock "memlock"
    /// Bytes in message queues.
    Msgqueue "msgqueue"
    /// Ceiling of the nice value.
    Nice "nice"
    /// Open files.
    Nofile "nofile"
    /// Processes of a user.
    Nproc "nproc"
    /// Resident memory.
    Rss "rss"
    /// Real-time priority.
    Rtprio "rtprio"
    /// Real-time processor time in microseconds.
    Rttime "rttime"
    /// Pending signals.
    Sigpending "sigpending"
    /// Size of the stack.
    Stack "stack"
}
