//! Archives of images as streams: OCI layouts, `docker save` archives, flattened file systems.
//!
//! Knows formats only; where blobs come from and go to is the caller's.

mod compression;

use crate::diagnostic::ErrorClass;

pub use compression::{Compression, decode_any};

/// Why an archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream could not be read or written.
    #[error("cannot {action} the archive")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The operating system's answer.
        #[source]
        source: std::io::Error,
    },
}

impl ArchiveError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io { source, .. }
                if matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) =>
            {
                ErrorClass::Damaged
            }
            Self::Io { .. } => ErrorClass::Permanent,
        }
    }
}
