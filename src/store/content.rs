//! The asynchronous face of the store: the traits that copying speaks.

use std::io::Write;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::{Result, Store, StoreError};
use crate::content::{BlobReader, ContentError, ContentSink, ContentSource, ErrorClass, verifying};
use crate::oci::{Descriptor, Document, Index, Manifest, MediaType, Reference};

/// Bytes that are handed from the reading task to the writing thread at once, and how many such pieces may wait.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

impl Store {
    /// Runs blocking code on a thread for it.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(Self) -> T + Send + 'static) -> T {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(store)).await {
            Ok(value) => value,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Returns the name under which `reference` is kept: linuxkit's full name, with `:latest` where nothing was said.
    pub fn name_of(reference: &Reference) -> String {
        match (&reference.tag, &reference.digest) {
            (None, None) => format!("{reference}:latest"),
            _ => reference.to_string(),
        }
    }

    /// Returns what `reference` means here: the digest decides over the tag, and needs no name.
    ///
    /// # Errors
    /// When it cannot be told; never for absence.
    pub fn find(&self, reference: &Reference) -> Result<Option<Descriptor>> {
        let roots = self.roots()?;
        let Some(digest) = reference.digest else { return Ok(roots.get(&Self::name_of(reference)).cloned()) };
        if let Some(root) = roots.iter().find(|root| root.descriptor.digest == digest) {
            return Ok(Some(root.descriptor.clone()));
        }
        let file = match self.open_blob(&digest) {
            Ok(file) => file,
            Err(StoreError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = file.metadata().map_err(self.io("open a blob"))?.len();
        if size > crate::content::DOCUMENT_LIMIT {
            return Ok(None);
        }
        let bytes = match self.read(&Descriptor::new(MediaType::MANIFEST, size, digest)) {
            Ok(bytes) => bytes,
            Err(StoreError::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(document_type(&bytes).map(|media_type| Descriptor::new(&media_type, size, digest)))
    }
}

/// Returns the media type of a document whose descriptor is not at hand, or `None` when it is none.
pub(super) fn document_type(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Own {
        media_type: Option<String>,
    }
    let own: Own = serde_json::from_slice(bytes).ok()?;
    let document = match own.media_type {
        Some(media_type) => return Document::parse(&media_type, bytes).ok().flatten().map(|_| media_type),
        None if serde_json::from_slice::<Manifest>(bytes).is_ok() => MediaType::MANIFEST,
        None => {
            serde_json::from_slice::<Index>(bytes).ok().filter(|index| !index.manifests.is_empty()).map(|_| MediaType::INDEX)?
        }
    };
    Some(document.to_owned())
}

#[async_trait]
impl ContentSource for Store {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, ContentError> {
        let wanted = reference.clone();
        self.blocking(move |store| store.find(&wanted))
            .await
            .map_err(|error| error.into_content("resolve", reference.to_string(), self.directory()))
    }

    async fn open(&self, descriptor: &Descriptor) -> Result<BlobReader, ContentError> {
        let wanted = descriptor.clone();
        let file = self
            .blocking(move |store| {
                // The size is checked now, so that a truncated blob fails before anybody has used half of it.
                store.open_verified(&wanted)?;
                store.open_blob(&wanted.digest)
            })
            .await
            .map_err(|error| error.into_content("open", descriptor.digest.to_string(), self.directory()))?;
        let (file, _) = file.into_parts();
        Ok(verifying(tokio::fs::File::from_std(file), descriptor))
    }
}

#[async_trait]
impl ContentSink for Store {
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool, ContentError> {
        let wanted = descriptor.clone();
        self.blocking(move |store| store.has_intact(&wanted))
            .await
            .map_err(|error| error.into_content("look for", descriptor.digest.to_string(), self.directory()))
    }

    async fn put(&self, descriptor: &Descriptor, blob: BlobReader) -> Result<(), ContentError> {
        if self.contains(descriptor).await? {
            return Ok(());
        }
        let (sender, receiver) = mpsc::channel(PIECES);
        let expected = descriptor.clone();
        // When this future is dropped, the channel ends without the last word and the thread leaves nothing behind.
        let store = self.clone();
        let writing = tokio::task::spawn_blocking(move || store.receive(&expected, receiver));
        let read = send(blob, sender).await;
        let written = match writing.await {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let object = || descriptor.digest.to_string();
        match (read, written) {
            // The writer's own failure ends the channel and is the cause of the reader's.
            (_, Err(error)) => Err(error.into_content("write", object(), self.directory())),
            (Err(error), Ok(())) => Err(ContentError::Failed {
                action: "receive",
                object: object(),
                place: self.directory().display().to_string(),
                // Half of a blob arrived, or wrong bytes did: both pass when asked again.
                class: ErrorClass::Retryable,
                source: error.into(),
            }),
            (Ok(()), Ok(())) => Ok(()),
        }
    }

    async fn tag(&self, reference: &Reference, root: &Descriptor) -> Result<(), ContentError> {
        let name = Self::name_of(reference);
        let roots = [(name.clone(), root.clone())];
        self.blocking(move |store| store.set_roots(&roots))
            .await
            .map_err(|error| error.into_content("tag", name, self.directory()))
    }
}

/// A piece of a blob, or its end; a channel that ends without an end was given up.
enum Piece {
    Bytes(Bytes),
    End,
}

impl Store {
    fn receive(&self, expected: &Descriptor, mut pieces: mpsc::Receiver<Piece>) -> Result<()> {
        let mut writer = self.writer_like(&expected.digest)?;
        while let Some(piece) = pieces.blocking_recv() {
            match piece {
                Piece::Bytes(bytes) => writer.write_all(&bytes).map_err(self.io("write a blob"))?,
                Piece::End => return writer.commit_as(expected),
            }
        }
        Ok(())
    }
}

async fn send(mut blob: BlobReader, sender: mpsc::Sender<Piece>) -> std::io::Result<()> {
    loop {
        let mut buffer = BytesMut::with_capacity(PIECE);
        // Small reads are gathered: a network yields a few KiB at a time, and each piece costs a wake-up of the writer.
        while buffer.len() < PIECE && blob.read_buf(&mut buffer).await? > 0 {}
        let piece = if buffer.is_empty() { Piece::End } else { Piece::Bytes(buffer.freeze()) };
        let last = matches!(piece, Piece::End);
        if sender.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}
