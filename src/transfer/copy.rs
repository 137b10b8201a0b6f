//! Copying an image: everything below a descriptor, children before parents, each blob once.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::io::{AsyncRead, ReadBuf};

use crate::content::{BlobReader, ContentError, ContentSink, ContentSource, DOCUMENT_LIMIT, ErrorClass, from_bytes, read_whole};
use crate::oci::{Descriptor, Digest, Document, Index, Platform, Reference};

/// Which children of an index are meant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Platforms {
    /// All of them.
    #[default]
    All,
    /// The images for these platforms, and the attestations about them.
    Only(Vec<Platform>),
}

/// How far a copy is, in bytes; what the sink has already counts as done when it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Bytes that are there.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// How to copy.
#[derive(Clone)]
pub struct CopyOptions {
    /// What to copy of an index. The index itself is copied as it is, so a sink that wants all children of an index takes
    /// only `All`.
    pub platforms: Platforms,
    /// Blobs under way at once; at least 1.
    pub concurrency: usize,
    /// Whether a document that the sink has proves that everything below it is there, as registries promise.
    pub trust_parents: bool,
    /// Is told after each piece.
    pub progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { platforms: Platforms::All, concurrency: 4, trust_parents: false, progress: None }
    }
}

/// What a copy did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// Blobs and documents that were sent.
    pub sent: usize,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Blobs and documents that the sink had.
    pub found: usize,
    /// Their bytes.
    pub found_bytes: u64,
}

/// Why an image could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Source or sink failed.
    #[error("cannot copy {digest}")]
    Content {
        /// What was copied.
        digest: Digest,
        /// What failed.
        #[source]
        source: Box<ContentError>,
    },
    /// The source is known not to have the name.
    #[error("`{reference}` does not exist")]
    Absent {
        /// The name.
        reference: Box<Reference>,
    },
    /// A name could not be read or written.
    #[error("cannot copy `{reference}`")]
    Name {
        /// The name.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: Box<ContentError>,
    },
    /// A manifest or index is not what its media type says.
    #[error("{digest} is no valid {media_type}")]
    Document {
        /// The document.
        digest: Digest,
        /// Its media type.
        media_type: String,
        /// The mistake.
        #[source]
        source: serde_json::Error,
    },
    /// An index has no image for a platform that was asked for.
    #[error("{digest} has no image for {platform}")]
    NoPlatform {
        /// The index.
        digest: Digest,
        /// The platform.
        platform: Box<Platform>,
    },
}

impl TransferError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Content { source, .. } | Self::Name { source, .. } => source.class(),
            Self::Document { .. } => ErrorClass::Damaged,
            Self::Absent { .. } | Self::NoPlatform { .. } => ErrorClass::Permanent,
        }
    }
}

/// Copies what `from` names and then lets `to` name it in the sink.
///
/// # Errors
/// [`TransferError::Absent`] when the source does not have it; others as [`copy`].
pub async fn copy_named(
    source: &dyn ContentSource,
    from: &Reference,
    sink: &dyn ContentSink,
    to: &Reference,
    options: &CopyOptions,
) -> Result<(Descriptor, Copied), TransferError> {
    let name = |reference: &Reference| {
        let reference = Box::new(reference.clone());
        move |source| TransferError::Name { reference, source: Box::new(source) }
    };
    let root = source.resolve(from).await.map_err(name(from))?;
    let root = root.ok_or_else(|| TransferError::Absent { reference: Box::new(from.clone()) })?;
    let copied = copy(source, sink, &root, options).await?;
    sink.tag(to, &root).await.map_err(name(to))?;
    Ok((root, copied))
}

/// Copies everything below `root`, and `root` last. What the sink has is not sent again; an interrupted copy can be
/// repeated and goes on where it was.
///
/// # Errors
/// The first failure; nothing that was complete is taken back. What is worth repeating was repeated.
pub async fn copy(
    source: &dyn ContentSource,
    sink: &dyn ContentSink,
    root: &Descriptor,
    options: &CopyOptions,
) -> Result<Copied, TransferError> {
    if options.trust_parents && sink.contains(root).await.map_err(content(root))? {
        let found = Copied { found: 1, found_bytes: root.size, ..Copied::default() };
        return Ok(found);
    }
    let plan = Plan::read(source, root, options).await?;
    let meter = Arc::new(Meter { done: AtomicU64::new(0), total: plan.bytes(), progress: options.progress.clone() });
    let copying = Copying { source, sink, meter };
    let width = options.concurrency.max(1);
    let mut copied = copying.all(&plan.blobs, width).await?;
    // A registry refuses a parent whose children it does not have, so each level waits for the one below.
    for level in plan.levels.iter().rev() {
        let level = copying.all(level, width).await?;
        copied = copied.and(level);
    }
    Ok(copied)
}

fn content(descriptor: &Descriptor) -> impl FnOnce(ContentError) -> TransferError {
    let digest = descriptor.digest;
    move |source| TransferError::Content { digest, source: Box::new(source) }
}

/// One thing to copy; documents were read to find their children, and are sent from memory.
#[derive(Clone)]
struct Item {
    descriptor: Descriptor,
    bytes: Option<Bytes>,
}

/// What there is to copy: blobs in any order, then documents from the deepest level up.
struct Plan {
    blobs: Vec<Item>,
    levels: Vec<Vec<Item>>,
}

impl Plan {
    async fn read(source: &dyn ContentSource, root: &Descriptor, options: &CopyOptions) -> Result<Self, TransferError> {
        let mut plan = Self { blobs: Vec::new(), levels: Vec::new() };
        let mut seen = BTreeSet::new();
        let mut level = vec![root.clone()];
        while !level.is_empty() {
            level.retain(|descriptor| seen.insert(descriptor.digest));
            let (documents, blobs): (Vec<_>, Vec<_>) = level.into_iter().partition(Descriptor::is_document);
            plan.blobs.extend(blobs.into_iter().map(|descriptor| Item { descriptor, bytes: None }));
            let reads: Vec<_> =
                documents.into_iter().map(|descriptor| read_document(source, descriptor, &options.platforms)).collect();
            let read: Vec<(Item, Vec<Descriptor>)> =
                stream::iter(reads).buffered(options.concurrency.max(1)).try_collect().await?;
            let (items, children): (Vec<_>, Vec<_>) = read.into_iter().unzip();
            plan.levels.push(items);
            level = children.into_iter().flatten().collect();
        }
        Ok(plan)
    }

    fn bytes(&self) -> u64 {
        self.blobs.iter().chain(self.levels.iter().flatten()).map(|item| item.descriptor.size).sum()
    }
}

async fn read_document(
    source: &dyn ContentSource,
    descriptor: Descriptor,
    platforms: &Platforms,
) -> Result<(Item, Vec<Descriptor>), TransferError> {
    let bytes = retrying(|| read_whole(source, &descriptor, DOCUMENT_LIMIT)).await.map_err(content(&descriptor))?;
    let document = Document::parse(&descriptor.media_type, &bytes).map_err(|source| TransferError::Document {
        digest: descriptor.digest,
        media_type: descriptor.media_type.clone(),
        source,
    })?;
    let children = match (document, platforms) {
        (Some(Document::Index(index)), Platforms::Only(wanted)) => chosen(&descriptor, &index, wanted)?,
        (document, _) => document.iter().flat_map(Document::children).cloned().collect(),
    };
    Ok((Item { descriptor, bytes: Some(bytes) }, children))
}

/// Returns the images for `wanted`, each with what attests to it, in index order.
fn chosen(root: &Descriptor, index: &Index, wanted: &[Platform]) -> Result<Vec<Descriptor>, TransferError> {
    let mut images = BTreeSet::new();
    for platform in wanted {
        let image = index.image_for(platform);
        let image =
            image.ok_or_else(|| TransferError::NoPlatform { digest: root.digest, platform: Box::new(platform.clone()) })?;
        images.insert(image.digest);
    }
    let about = |child: &Descriptor| {
        let subject = child.annotations.get(SUBJECT).and_then(|digest| digest.parse::<Digest>().ok());
        child.is_attestation() && subject.is_some_and(|digest| images.contains(&digest))
    };
    Ok(index.manifests.iter().filter(|child| images.contains(&child.digest) || about(child)).cloned().collect())
}

/// The annotation of an attestation that says what it is about, as BuildKit writes it.
const SUBJECT: &str = "vnd.docker.reference.digest";

struct Copying<'a> {
    source: &'a dyn ContentSource,
    sink: &'a dyn ContentSink,
    meter: Arc<Meter>,
}

impl Copying<'_> {
    async fn all(&self, items: &[Item], width: usize) -> Result<Copied, TransferError> {
        // Largest first: the longest transfer decides when the last one ends.
        let mut items: Vec<&Item> = items.iter().collect();
        items.sort_by_key(|item| std::cmp::Reverse(item.descriptor.size));
        // Made before the stream: a stream that holds a closure over borrowed items is not `Send` for every lifetime.
        let copies: Vec<_> = items.into_iter().map(|item| self.one(item)).collect();
        stream::iter(copies)
            .buffer_unordered(width)
            .try_fold(Copied::default(), |sum, one| std::future::ready(Ok(sum.and(one))))
            .await
    }

    async fn one(&self, item: &Item) -> Result<Copied, TransferError> {
        let (descriptor, size) = (&item.descriptor, item.descriptor.size);
        if retrying(|| self.sink.contains(descriptor)).await.map_err(content(descriptor))? {
            self.meter.add(size);
            return Ok(Copied { found: 1, found_bytes: size, ..Copied::default() });
        }
        match retrying(|| self.send(item)).await {
            Ok(()) => Ok(Copied { sent: 1, sent_bytes: size, ..Copied::default() }),
            // Such layers are fetched from elsewhere by whoever may have them; a registry need not hold them.
            Err(ContentError::Missing { .. }) if is_foreign(descriptor) => {
                self.meter.add(size);
                Ok(Copied::default())
            }
            Err(error) => Err(content(descriptor)(error)),
        }
    }

    async fn send(&self, item: &Item) -> Result<(), ContentError> {
        let blob = match &item.bytes {
            Some(bytes) => from_bytes(bytes.clone()),
            None => self.source.open(&item.descriptor).await?,
        };
        let counted = Arc::new(AtomicU64::new(0));
        let blob = Box::pin(CountingReader { inner: blob, meter: self.meter.clone(), counted: counted.clone() });
        let result = self.sink.put(&item.descriptor, blob).await;
        let read = counted.load(Ordering::Relaxed);
        match &result {
            // A sink that found the content in the meantime does not read to the end.
            Ok(()) => self.meter.add(item.descriptor.size.saturating_sub(read)),
            Err(_) => self.meter.take_back(read),
        }
        result
    }
}

fn is_foreign(descriptor: &Descriptor) -> bool {
    descriptor.media_type.contains("nondistributable") || descriptor.media_type.contains("rootfs.foreign")
}

impl Copied {
    fn and(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            found: self.found + other.found,
            found_bytes: self.found_bytes + other.found_bytes,
        }
    }
}

/// Waits between attempts. The registry client repeats single requests itself; this is for a stream that broke half-way.
const WAITS: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2)];

async fn retrying<T, F: Future<Output = Result<T, ContentError>>>(attempt: impl Fn() -> F) -> Result<T, ContentError> {
    for wait in WAITS {
        match attempt().await {
            Err(error) if error.class() == ErrorClass::Retryable => {
                tracing::debug!(error = &error as &dyn std::error::Error, "repeating");
                tokio::time::sleep(wait).await;
            }
            result => return result,
        }
    }
    attempt().await
}

struct Meter {
    done: AtomicU64,
    total: u64,
    progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl Meter {
    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(progress) = &self.progress {
            progress(Progress { done, total: self.total });
        }
    }

    fn take_back(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }
}

struct CountingReader {
    inner: BlobReader,
    meter: Arc<Meter>,
    counted: Arc<AtomicU64>,
}

impl AsyncRead for CountingReader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.inner.as_mut().poll_read(context, buffer))?;
        let count = (buffer.filled().len() - before) as u64;
        if count > 0 {
            self.counted.fetch_add(count, Ordering::Relaxed);
            self.meter.add(count);
        }
        Poll::Ready(Ok(()))
    }
}
