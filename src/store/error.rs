//! Why the store could not do something.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::ArchiveError;
use crate::content::{ContentError, ErrorClass};
use crate::oci::{Digest, VerifyError};

/// Why content of the store could not be read, written or named.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written; the source names it.
    #[error("cannot {action} in the cache `{}`", directory.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cache directory.
        directory: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The disk or the user's share of it is full.
    #[error("cannot {action} in the cache `{}`: no space is left", directory.display())]
    Full {
        /// What was tried.
        action: &'static str,
        /// The cache directory.
        directory: PathBuf,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A blob's bytes are not what its name says.
    #[error("blob {digest} in the cache `{}` is damaged", directory.display())]
    Damaged {
        /// The blob.
        digest: Digest,
        /// The cache directory.
        directory: PathBuf,
        /// In which way.
        #[source]
        source: Box<VerifyError>,
    },
    /// A blob that was just written is not what its sender promised.
    #[error("content that was sent as {digest} is something else")]
    Refused {
        /// What was promised.
        digest: Digest,
        /// In which way it differs.
        #[source]
        source: Box<VerifyError>,
    },
    /// A manifest or index is no valid JSON document of its type.
    #[error("{digest} in the cache `{}` is no valid {media_type}", directory.display())]
    Document {
        /// The blob.
        digest: Digest,
        /// What it should be.
        media_type: String,
        /// The cache directory.
        directory: PathBuf,
        /// The JSON mistake.
        #[source]
        source: serde_json::Error,
    },
    /// `index.json` is no valid index.
    #[error("`{}` is damaged", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// The JSON mistake.
        #[source]
        source: serde_json::Error,
    },
    /// A descriptor in `index.json` is of a form that is not known, so nothing may be deleted.
    #[error("entry {entry} of `{}` is not understood", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// From 1.
        entry: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The cache is known not to have a blob.
    #[error("the cache `{}` does not have {digest}", directory.display())]
    Missing {
        /// The blob.
        digest: Digest,
        /// The cache directory.
        directory: PathBuf,
    },
    /// A name was to be given to an image that is not whole.
    #[error("`{name}` cannot be written: {} of what it needs is missing, first {}", missing.len(), missing[0])]
    Incomplete {
        /// The name.
        name: String,
        /// What is missing; never empty.
        missing: Vec<Digest>,
    },
    /// An image that was to be read whole is not.
    #[error("`{name}` is not whole: {} of it is missing, first {}", missing.len(), missing[0])]
    Partial {
        /// The name.
        name: String,
        /// What is missing; never empty.
        missing: Vec<Digest>,
    },
    /// No image has this name.
    #[error("no image `{name}` in the cache `{}`", directory.display())]
    NoRoot {
        /// The name.
        name: String,
        /// The cache directory.
        directory: PathBuf,
        /// The name that was perhaps meant.
        nearest: Option<String>,
    },
    /// An image has no manifest for a platform.
    #[error("`{name}` has no image for {platform}")]
    NoPlatform {
        /// The name.
        name: String,
        /// The platform.
        platform: String,
        /// The platforms it has.
        has: Vec<String>,
    },
    /// An image could only be told apart by its platform, and none was given.
    #[error("`{name}` has images for several platforms: {}", has.join(", "))]
    ManyPlatforms {
        /// The name.
        name: String,
        /// The platforms it has.
        has: Vec<String>,
    },
    /// A directory holds something else than a cache.
    #[error("`{}` is no cache: it holds `{found}`", directory.display())]
    NotALayout {
        /// The directory.
        directory: PathBuf,
        /// One thing in it that no cache has.
        found: String,
    },
    /// Another process uses the cache.
    #[error("the cache `{}` is in use by {}", directory.display(), users.join(", "))]
    InUse {
        /// The cache directory.
        directory: PathBuf,
        /// Process numbers, as text.
        users: Vec<String>,
    },
    /// An image of an archive has no name, and none was given.
    #[error("image {digest} of the archive has no name")]
    Nameless {
        /// The image.
        digest: Digest,
    },
    /// One image was wanted and there are several, or none.
    #[error("{images} images cannot be treated as one")]
    ManyImages {
        /// How many.
        images: usize,
    },
    /// An archive could not be read or written.
    #[error("the archive cannot be used")]
    Archive(#[from] ArchiveError),
}

impl StoreError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Full { .. } | Self::Damaged { .. } | Self::Document { .. } | Self::Index { .. } => ErrorClass::Damaged,
            // The sender's bytes were wrong on the way; a cache that was collected in between is filled again.
            Self::Refused { .. } | Self::Incomplete { .. } => ErrorClass::Retryable,
            Self::InUse { .. } => ErrorClass::Conflict,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ErrorClass::Denied,
            Self::Io { source, .. } if source.raw_os_error() == Some(libc::EIO) => ErrorClass::Damaged,
            Self::Archive(error) => error.class(),
            Self::Io { .. }
            | Self::Entry { .. }
            | Self::Missing { .. }
            | Self::Partial { .. }
            | Self::NoRoot { .. }
            | Self::NoPlatform { .. }
            | Self::ManyPlatforms { .. }
            | Self::NotALayout { .. }
            | Self::ManyImages { .. }
            | Self::Nameless { .. } => ErrorClass::Permanent,
        }
    }

    /// Returns the error of the seam: `action` on `object` failed.
    pub(super) fn into_content(self, action: &'static str, object: String, directory: &Path) -> ContentError {
        let place = directory.display().to_string();
        match self {
            Self::Missing { digest, .. } => ContentError::Missing { place, digest },
            error => ContentError::Failed { action, object, place, class: error.class(), source: Box::new(error) },
        }
    }
}

/// Returns a function that turns an I/O error into the store's: a full disk is told apart.
pub(super) fn io_error(action: &'static str, directory: &Path) -> impl Fn(io::Error) -> StoreError {
    move |source| {
        let directory = directory.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { action, directory, source },
            _ => StoreError::Io { action, directory, source },
        }
    }
}
