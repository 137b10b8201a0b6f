//! Making room: what the builder and the images take of the disk, and deleting what was used least recently until a limit
//! holds.
//!
//! | module | owns |
//! |---|---|
//! | `inventory` | what is there, how much room each thing takes, when it was used, and who holds it |
//! | `order` | which layers other things need, and so in which order they may go |
//! | `choose` | what goes and what stays for a limit; pure |
//! | `sweep` | deleting, each thing looked at once more when nobody can take it into use |
//!
//! Images with a name are never deleted here: they are the user's. Everything is opened by descriptor below the cache
//! directory ([`crate::sys::directory`]).

mod choose;
mod inventory;
mod order;
mod sweep;

use std::io;
use std::time::{Duration, SystemTime};

use crate::store::{Store, StoreError};
use crate::sys::directory::Directory;

use inventory::Inventory;

/// How much may stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Bytes of disk that everything in the cache directory may take together.
    pub max_size: Option<u64>,
    /// Bytes that are to be free on the cache's file system.
    pub min_free: Option<u64>,
    /// What was used no longer ago than this stays, even if the limit is then exceeded.
    pub keep: Duration,
}

/// Whether anything is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing; the outcome says what would be.
    Look,
    /// What the outcome says.
    Delete,
}

/// What kind of thing takes room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Content of images.
    Blob,
    /// The files that a step changed, or a layer of a base image, unpacked; with the records that lead to it.
    Layer,
    /// A record of the step cache that is not needed with its layer.
    Record,
    /// A directory of `RUN --mount=type=cache`.
    CacheMount,
    /// A step that failed and was kept.
    FailedStep,
    /// What a build printed.
    Log,
    /// Hashes of context files, which save reading them again.
    FileHashes,
    /// A layer in the making, or what a killed process left of one.
    Draft,
    /// Directories, locks, and what this version does not know.
    Other,
}

impl Kind {
    /// Returns the kind's name: one or two words in the singular.
    pub fn word(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Layer => "layer",
            Self::Record => "record",
            Self::CacheMount => "cache mount",
            Self::FailedStep => "failed step",
            Self::Log => "log",
            Self::FileHashes => "context hashes",
            Self::Draft => "draft",
            Self::Other => "other",
        }
    }
}

/// Why something stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stay {
    /// An image with a name needs it.
    Named,
    /// Written or found in the last minutes: a program that takes no lease, such as linuxkit, may be about to name it.
    Young,
    /// A living process uses it.
    InUse,
    /// Used within [`Limits::keep`].
    Recent,
    /// The limit holds without deleting it.
    Fits,
    /// A part of every cache.
    Part,
    /// This version does not know what it is.
    Unknown,
    /// It could not be deleted; why, as a phrase.
    Failed(String),
}

impl Stay {
    /// Returns the reason as a phrase.
    pub fn reason(&self) -> String {
        match self {
            Self::Named => "an image with a name needs it (`cache rm`)".to_owned(),
            Self::Young => "it was written or found in the last minutes".to_owned(),
            Self::InUse => "a running process uses it".to_owned(),
            Self::Recent => "it was used within --keep-duration".to_owned(),
            Self::Fits => "there is room for it".to_owned(),
            Self::Part => "it is a part of every cache".to_owned(),
            Self::Unknown => "this version does not know what it is".to_owned(),
            Self::Failed(why) => format!("it could not be deleted: {why}"),
        }
    }

    /// Returns a name of the reason that does not change.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Named => "named",
            Self::Young => "young",
            Self::InUse => "in-use",
            Self::Recent => "recent",
            Self::Fits => "fits",
            Self::Part => "part",
            Self::Unknown => "unknown",
            Self::Failed(_) => "failed",
        }
    }

    /// Returns whether the reason goes away by itself.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Young | Self::InUse)
    }
}

/// Why something goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Go {
    /// Nothing can lead to it any more, or its process is gone.
    Unneeded,
    /// It was used least recently of what may go.
    LeastRecent,
}

impl Go {
    /// Returns the reason as a phrase.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unneeded => "nothing needs it any more",
            Self::LeastRecent => "it was used least recently",
        }
    }

    /// Returns a name of the reason that does not change.
    pub fn code(self) -> &'static str {
        match self {
            Self::Unneeded => "unneeded",
            Self::LeastRecent => "least-recent",
        }
    }
}

/// What becomes of something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It stays.
    Stays(Stay),
    /// It is deleted, or would be.
    Goes(Go),
}

/// Something that takes room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Thing {
    /// What it is.
    pub kind: Kind,
    /// Its name among its kind.
    pub name: String,
    /// Bytes of disk that go with it. What several layers share counts for the one that is deleted last.
    pub room: u64,
    /// When it was used last, as far as that is known.
    pub used: SystemTime,
    /// What becomes of it.
    pub fate: Fate,
}

/// What collecting did, or would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Bytes of disk that the cache took.
    pub before: u64,
    /// Bytes of disk that it takes now, or would.
    pub after: u64,
    /// Bytes of disk that it may take.
    pub limit: u64,
    /// Everything that takes room: first what goes, in the order in which it goes, then what stays.
    pub things: Vec<Thing>,
}

impl Outcome {
    /// Returns whether the limit holds.
    pub fn holds(&self) -> bool {
        self.after <= self.limit
    }
}

/// Why no room can be made.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The images cannot be read.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// The cache directory cannot be read.
    #[error("cannot look through the cache")]
    Io(#[from] io::Error),
}

impl From<StoreError> for CollectError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// Deletes what no name needs, what no record leads to and what killed processes left; then what was used least recently,
/// until everything below the cache directory takes no more room than `limits` allow.
///
/// Blobs that no name leads to stay for `grace`, as in [`Store::collect`]. What a living process uses stays. What cannot go
/// is no error: [`Outcome::holds`] says whether the limit was reached.
///
/// # Errors
/// When it cannot be told what is needed; nothing is deleted then.
pub fn collect(store: &Store, limits: &Limits, grace: Duration, action: Action) -> Result<Outcome, CollectError> {
    let lease = store.lease()?;
    let horizon = inventory::Horizon { in_use: store.oldest_use(Duration::ZERO)?, recent: store.oldest_use(limits.keep)? };
    let root = Directory::open(store.directory())?;
    let Inventory { homes, items, total } = Inventory::read(&root, &store.survey(grace)?, horizon)?;
    let limit = limit(&root, total, limits)?;
    let mut chosen = choose::choose(items, total, limit);
    if action == Action::Delete {
        sweep::Sweep::new(store, homes, &lease.name(), horizon)?.carry_out(&mut chosen, limit, grace)?;
    }
    Ok(chosen.outcome(limit))
}

/// Returns how much the cache may take: both limits in one number.
fn limit(root: &Directory, total: u64, limits: &Limits) -> io::Result<u64> {
    let mut limit = limits.max_size.unwrap_or(u64::MAX);
    if let Some(wanted) = limits.min_free {
        let system = rustix::fs::fstatvfs(root.descriptor())?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        if free < wanted {
            limit = limit.min(total.saturating_sub(wanted - free));
        }
    }
    Ok(limit)
}

#[cfg(test)]
mod tests;
