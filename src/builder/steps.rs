//! What `RUN` steps are given by whoever starts the build, and not by who wrote the Dockerfile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::secret::Secret;

/// What steps may ask for, and how far they may go. In keys are the names of secrets, agents and hosts, whether an optional
/// one was there, the size of `/dev/shm` and the resource limits; never a value, a socket or an address.
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
    /// What a step may use together with all that it starts.
    pub budget: Budget,
    /// Whether `RUN --network=host` is permitted.
    pub host_network: bool,
}

/// What a step may use together with all that it starts. Never in keys: how much there was changes no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Budget {
    /// Memory in bytes, without swap.
    pub memory: Option<u64>,
    /// Processors, in hundredths.
    pub cpus: Option<u32>,
    /// Processes and threads.
    pub processes: Option<u64>,
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
