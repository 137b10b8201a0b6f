//! Why an archive could not be read or written.

use std::io;

use crate::diagnostic::ErrorClass;
use crate::oci::VerifyError;

/// Why an archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream could not be read or written.
    #[error("cannot {action} the archive")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The operating system's answer, or a decompressor's.
        #[source]
        source: io::Error,
    },
    /// The archive ends in the middle of something.
    #[error("the archive is cut off: it ends after {offset} bytes, in the middle of {part}")]
    Truncated {
        /// Bytes that were there, after decompression.
        offset: u64,
        /// What was being read.
        part: String,
    },
    /// The stream is no tar archive, or not from here on.
    #[error("this is no tar archive: {reason} at byte {offset}")]
    Malformed {
        /// Where, after decompression.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A member that no archive of images has.
    #[error("member `{path}` of the archive is refused: {reason}")]
    Refused {
        /// The member.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A member is larger than what can be meant.
    #[error("{part} of the archive is larger than {limit} bytes")]
    TooLarge {
        /// A member or header.
        part: String,
        /// The limit.
        limit: u64,
    },
    /// A JSON member is not what its name says.
    #[error("`{path}` in the archive is damaged")]
    Document {
        /// The member.
        path: String,
        /// The mistake.
        #[source]
        source: serde_json::Error,
    },
    /// The archive is a tar, and holds no images.
    #[error("the archive has neither `index.json` nor `manifest.json`: it is no archive of images")]
    NoImages,
    /// The archive names a member that it does not have.
    #[error("the archive lacks `{path}`, which `{wanted_by}` names")]
    Lacks {
        /// The member.
        path: String,
        /// Who wants it.
        wanted_by: String,
    },
    /// A blob that was to go into the archive could not be read.
    #[error("cannot read `{path}` for the archive")]
    Content {
        /// Its name in the archive.
        path: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// An archive of this form cannot hold the image.
    #[error("layer {layer} of type {media_type} cannot be put into such an archive")]
    Layer {
        /// Digest of the layer.
        layer: String,
        /// Its media type.
        media_type: String,
    },
}

impl ArchiveError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io { source, .. } if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                ErrorClass::Damaged
            }
            Self::Content { source, .. } if source.get_ref().is_some_and(|inner| inner.is::<VerifyError>()) => {
                ErrorClass::Damaged
            }
            _ => ErrorClass::Permanent,
        }
    }

    pub(crate) fn io(action: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}
