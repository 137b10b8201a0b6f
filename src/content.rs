//! The seam for every place that holds content: registries, the cache, archives. What is content-addressed is read and
//! written through two traits; copying between places is one function over them (`transfer`).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

pub use crate::diagnostic::ErrorClass;
use crate::oci::digest::{Hasher, check_chunk};
use crate::oci::{Descriptor, Digest, Reference};

/// The bytes of one blob. Reading fails with `InvalidData` when size or digest are not the descriptor's.
pub type BlobReader = Pin<Box<dyn AsyncRead + Send>>;

/// A place that content can be read from.
#[async_trait]
pub trait ContentSource: Send + Sync {
    /// Returns the root that `reference` names, or `None` when the place is known not to have it.
    ///
    /// # Errors
    /// When it cannot be told whether the place has it; never for absence.
    async fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, ContentError>;

    /// Opens content. The reader verifies, and fails at its end when the bytes are not what `descriptor` says.
    ///
    /// # Errors
    /// [`ContentError::Missing`] when the place does not have it, others when it cannot be read.
    async fn open(&self, descriptor: &Descriptor) -> Result<BlobReader, ContentError>;
}

/// A place that content can be written to.
#[async_trait]
pub trait ContentSink: Send + Sync {
    /// Returns whether the place has the content, whole.
    ///
    /// # Errors
    /// When it cannot be told.
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool, ContentError>;

    /// Stores content under its digest: verified before it appears, at once or not at all; repeating is harmless.
    ///
    /// # Errors
    /// When the bytes are not what `descriptor` says, or cannot be stored.
    async fn put(&self, descriptor: &Descriptor, blob: BlobReader) -> Result<(), ContentError>;

    /// Lets `reference` name `root`, whose content the place must already have.
    ///
    /// # Errors
    /// When the name cannot be written.
    async fn tag(&self, reference: &Reference, root: &Descriptor) -> Result<(), ContentError>;
}

/// Why content could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The place is known not to have this content.
    #[error("{place} does not have {digest}")]
    Missing {
        /// The registry repository, cache directory or archive.
        place: String,
        /// The content.
        digest: Digest,
    },
    /// Something failed while doing something to something.
    #[error("cannot {action} {object} in {place}")]
    Failed {
        /// A verb, for example `read`, `write`, `resolve`, `tag`.
        action: &'static str,
        /// A digest or reference.
        object: String,
        /// The registry repository, cache directory or archive.
        place: String,
        /// What can be done about it.
        class: ErrorClass,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ContentError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } => ErrorClass::Permanent,
            Self::Failed { class, .. } => *class,
        }
    }
}

/// Reads small content (a manifest, index or config) whole.
///
/// # Errors
/// As [`ContentSource::open`], and `Damaged` when the content is larger than `limit` bytes or is not what `descriptor` says.
pub async fn read_whole(source: &dyn ContentSource, descriptor: &Descriptor, limit: u64) -> Result<Bytes, ContentError> {
    let failed = |error: io::Error| ContentError::Failed {
        action: "read",
        object: descriptor.digest.to_string(),
        place: "its source".to_owned(),
        class: ErrorClass::Damaged,
        source: error.into(),
    };
    if descriptor.size > limit {
        return Err(failed(io::Error::other(format!("{} bytes where at most {limit} are expected", descriptor.size))));
    }
    let mut bytes = Vec::with_capacity(descriptor.size as usize);
    source.open(descriptor).await?.take(limit + 1).read_to_end(&mut bytes).await.map_err(failed)?;
    Ok(bytes.into())
}

/// Largest manifest, index or config that is read into memory (distribution-spec asks registries to take 4 MiB).
pub const DOCUMENT_LIMIT: u64 = 8 << 20;

/// Wraps `inner` so that it fails at its end unless it yields exactly the content of `descriptor`.
pub fn verifying(inner: impl AsyncRead + Send + 'static, descriptor: &Descriptor) -> BlobReader {
    Box::pin(VerifyingAsyncReader {
        inner: Box::pin(inner),
        hasher: Some(Hasher::like(&descriptor.digest)),
        expected: descriptor.digest,
        size: descriptor.size,
        seen: 0,
    })
}

/// Returns a reader of `bytes`, for content that is in memory.
pub fn from_bytes(bytes: Bytes) -> BlobReader {
    Box::pin(io::Cursor::new(bytes))
}

struct VerifyingAsyncReader {
    inner: BlobReader,
    hasher: Option<Hasher>,
    expected: Digest,
    size: u64,
    seen: u64,
}

impl AsyncRead for VerifyingAsyncReader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let (before, asked_nothing) = (buffer.filled().len(), buffer.remaining() == 0);
        ready!(this.inner.as_mut().poll_read(context, buffer))?;
        let chunk = &buffer.filled()[before..];
        let checked = check_chunk(&mut this.hasher, &this.expected, this.size, &mut this.seen, chunk, asked_nothing);
        if checked.is_err() {
            // Nobody may use bytes that were refused; tokio's own readers insist on it.
            buffer.set_filled(before);
        }
        Poll::Ready(checked)
    }
}

#[async_trait]
impl<S: ContentSource + ?Sized> ContentSource for Arc<S> {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, ContentError> {
        (**self).resolve(reference).await
    }

    async fn open(&self, descriptor: &Descriptor) -> Result<BlobReader, ContentError> {
        (**self).open(descriptor).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_verifying_blob_reader_refuses_what_its_descriptor_does_not_say() {
        let descriptor = Descriptor::of("text/plain", b"hello");
        for (bytes, ok) in [(&b"hello"[..], true), (b"hell", false), (b"hello!", false), (b"HELLO", false)] {
            let mut read = Vec::new();
            let result = verifying(bytes, &descriptor).read_to_end(&mut read).await;
            assert_eq!(result.is_ok(), ok, "{bytes:?}");
        }
    }
}
