//! Why something remote could not be had. Texts hold no password and no query.

use std::io;
use std::time::Duration;

use reqwest::StatusCode;

use super::address::AddressError;
use crate::builder::embedded::snapshot::SnapshotError;
use crate::diagnostic::ErrorClass;
use crate::oci::Digest;
use crate::registry::RegistryError;

/// Why something remote could not be had. `from` is its address.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The run is offline.
    #[error("{from} is not in the cache, and the run is offline")]
    Offline {
        /// The address.
        from: String,
    },
    /// The run is offline and nothing says that what is in the cache is what is there.
    #[error("the run is offline, and only the server can say what {from} is now{}", known(*.kept))]
    OfflineUnknown {
        /// The address.
        from: String,
        /// What it was when it was fetched last.
        kept: Option<Digest>,
    },
    /// Builds may not fetch from that host.
    #[error("builds may not fetch from {from}")]
    Forbidden {
        /// The address.
        from: String,
        /// Why.
        #[source]
        source: AddressError,
    },
    /// The server answered with a status other than success.
    #[error("{from} was answered with {status}")]
    Refused {
        /// The address.
        from: String,
        /// The HTTP status.
        status: StatusCode,
        /// How long the server wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// No answer: name not found, connection refused or broken, time limit.
    #[error("{from} gave no answer")]
    NoAnswer {
        /// The address.
        from: String,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Whether asking again cannot help.
        lasting: bool,
    },
    /// The answer ended too early, or stalled.
    #[error("the answer of {from} broke off")]
    BrokeOff {
        /// The address.
        from: String,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Redirects without end.
    #[error("{from} leads on through more than {limit} redirects")]
    Redirects {
        /// The address.
        from: String,
        /// The most that are followed.
        limit: usize,
    },
    /// A redirect that is not followed.
    #[error("{from} leads to {to}, which is {why}")]
    Redirect {
        /// The address.
        from: String,
        /// Where it leads.
        to: String,
        /// Why it is not followed.
        why: &'static str,
    },
    /// More bytes than are taken.
    #[error("{from} has more than {limit} bytes")]
    TooLarge {
        /// The address.
        from: String,
        /// The most that is taken.
        limit: u64,
    },
    /// Another file than the Dockerfile wants.
    #[error("{from} is {actual}, and the Dockerfile wants {expected}")]
    OtherContent {
        /// The address.
        from: String,
        /// What the Dockerfile says.
        expected: Box<Digest>,
        /// What came.
        actual: Box<Digest>,
    },
    /// Another commit than the Dockerfile wants.
    #[error("{from} is at the commit {actual}, and the Dockerfile wants {expected}")]
    OtherCommit {
        /// The repository and reference.
        from: String,
        /// What the Dockerfile says.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// No branch or tag of this name.
    #[error("{from} has no branch or tag `{reference}`")]
    NoReference {
        /// The repository.
        from: String,
        /// The name.
        reference: String,
    },
    /// No such commit.
    #[error("{from} does not give the commit {commit}")]
    NoCommit {
        /// The repository.
        from: String,
        /// The commit.
        commit: String,
    },
    /// A directory that is not in the commit.
    #[error("{from} has no directory `{path}`")]
    NoDirectory {
        /// The repository and commit.
        from: String,
        /// The path.
        path: String,
    },
    /// A git server that does not say what git servers say.
    #[error("{from} does not speak git's protocol: {rule}")]
    Protocol {
        /// The repository.
        from: String,
        /// What is missing or wrong.
        rule: &'static str,
    },
    /// A git server refused in words.
    #[error("{from} says: {message}")]
    Said {
        /// The repository.
        from: String,
        /// Its words, on one line.
        message: String,
    },
    /// A repository whose objects cannot be files of an image.
    #[error("{from} cannot be unpacked: {rule}: `{path}`")]
    Tree {
        /// The repository.
        from: String,
        /// What is wrong.
        rule: &'static str,
        /// The path.
        path: String,
    },
    /// A submodule that cannot be fetched.
    #[error("the submodule `{path}` of {from} {rule}")]
    Submodule {
        /// The repository.
        from: String,
        /// Where the submodule is.
        path: String,
        /// What is wrong, as a phrase.
        rule: &'static str,
    },
    /// git's objects cannot be read or written.
    #[error("the objects of {from} cannot be read")]
    Objects {
        /// The repository.
        from: String,
        /// What failed.
        #[source]
        source: git2::Error,
    },
    /// No HTTP client can be made.
    #[error("no HTTP client can be made")]
    Client(#[source] Box<RegistryError>),
    /// Layers cannot be written.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The cache cannot be used.
    #[error("the cache of remote sources cannot be used")]
    Cache(#[from] io::Error),
    /// The build was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
}

fn known(kept: Option<Digest>) -> String {
    kept.map_or_else(String::new, |digest| format!(" (with --checksum={digest} what was fetched last is taken)"))
}

impl RemoteError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Refused { status, .. } => match status.as_u16() {
                401 | 403 | 407 => ErrorClass::Denied,
                408 | 425 | 429 => ErrorClass::Retryable,
                501 | 505 => ErrorClass::Permanent,
                500..=599 => ErrorClass::Retryable,
                _ => ErrorClass::Permanent,
            },
            Self::NoAnswer { lasting, .. } => {
                if *lasting {
                    ErrorClass::Permanent
                } else {
                    ErrorClass::Retryable
                }
            }
            Self::BrokeOff { .. } => ErrorClass::Retryable,
            Self::Snapshot(error) => error.class(),
            Self::Cache(_) | Self::Objects { .. } => ErrorClass::Damaged,
            Self::Cancelled => ErrorClass::Permanent,
            Self::Offline { .. }
            | Self::OfflineUnknown { .. }
            | Self::Forbidden { .. }
            | Self::Redirects { .. }
            | Self::Redirect { .. }
            | Self::TooLarge { .. }
            | Self::OtherContent { .. }
            | Self::OtherCommit { .. }
            | Self::NoReference { .. }
            | Self::NoCommit { .. }
            | Self::NoDirectory { .. }
            | Self::Protocol { .. }
            | Self::Said { .. }
            | Self::Tree { .. }
            | Self::Submodule { .. }
            | Self::Client(_) => ErrorClass::Permanent,
        }
    }

    /// Returns how long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
