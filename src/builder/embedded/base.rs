//! Base images: their config is read at once, their layers only when a step needs files, each at most once per process.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::Machine;
use super::image::oci_layer;
use super::snapshot::{Snapshot, SnapshotError};
use crate::builder::{Base, BuildError};
use crate::content::{BlobReader, ContentError, ContentSink, ContentSource, DOCUMENT_LIMIT, ErrorClass, read_whole};
use crate::oci::{Descriptor, DiffId, Digest, ImageConfig, Manifest, Platform, Reference};
use crate::store::{Store, StoreError};

/// How many layers of one image are fetched at once.
const DOWNLOADS: usize = 4;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// A base image, known by its manifest.
pub(super) struct BaseImage {
    /// What `FROM` inherits.
    pub(super) config: ImageConfig,
    /// The layers as our manifests name them, lowest first.
    pub(super) layers: Vec<Descriptor>,
    manifest: Digest,
    remote: Vec<Descriptor>,
    source: Arc<dyn ContentSource>,
    fetched: Vec<OnceCell<()>>,
    unpacked: OnceCell<Snapshot>,
}

/// Where nothing is.
struct Nowhere;

#[async_trait]
impl ContentSource for Nowhere {
    async fn resolve(&self, _: &Reference) -> Result<Option<Descriptor>, ContentError> {
        Ok(None)
    }

    async fn open(&self, descriptor: &Descriptor) -> Result<BlobReader, ContentError> {
        Err(ContentError::Missing { place: "nowhere".to_owned(), digest: descriptor.digest })
    }
}

/// Why a base image's documents make no image.
#[derive(Debug, thiserror::Error)]
enum BaseError {
    #[error("the manifest {0} is not JSON of an image manifest")]
    Manifest(Digest, #[source] serde_json::Error),
    #[error("the config {0} is not JSON of an image config")]
    Config(Digest, #[source] serde_json::Error),
    #[error("the image {manifest} has {layers} layers and {diff_ids} diff ids")]
    Count { manifest: Digest, layers: usize, diff_ids: usize },
}

/// The base images that this process has met.
#[derive(Default)]
pub(super) struct BaseImages {
    known: Mutex<HashMap<Digest, Arc<OnceCell<Arc<BaseImage>>>>>,
}

impl BaseImages {
    /// Returns the image that `base` names, reading manifest and config the first time.
    ///
    /// # Errors
    /// When they cannot be read, or are none.
    pub(super) async fn get(&self, base: &Base) -> Result<Arc<BaseImage>, BuildError> {
        let cell = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.entry(base.manifest.digest).or_default().clone()
        };
        cell.get_or_try_init(|| BaseImage::read(base)).await.cloned()
    }
}

/// Receives how many bytes of base images arrived, and of how many.
pub(super) type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

impl BaseImage {
    /// Returns an image of which nothing is known, for looking at a Dockerfile without asking anybody.
    pub(super) fn unknown(platform: Platform) -> Self {
        Self {
            config: ImageConfig::scratch(platform),
            layers: Vec::new(),
            manifest: Digest::of(b""),
            remote: Vec::new(),
            source: Arc::new(Nowhere),
            fetched: Vec::new(),
            unpacked: OnceCell::new(),
        }
    }

    async fn read(base: &Base) -> Result<Arc<Self>, BuildError> {
        let digest = base.manifest.digest;
        let bytes = read_whole(&*base.source, &base.manifest, DOCUMENT_LIMIT).await?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| damaged(BaseError::Manifest(digest, error)))?;
        let bytes = read_whole(&*base.source, &manifest.config, DOCUMENT_LIMIT).await?;
        let config: ImageConfig =
            serde_json::from_slice(&bytes).map_err(|error| damaged(BaseError::Config(manifest.config.digest, error)))?;
        let (layers, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
        if layers != diff_ids {
            return Err(damaged(BaseError::Count { manifest: digest, layers, diff_ids }));
        }
        Ok(Arc::new(Self {
            config,
            layers: manifest.layers.iter().map(oci_layer).collect(),
            manifest: digest,
            fetched: manifest.layers.iter().map(|_| OnceCell::new()).collect(),
            remote: manifest.layers,
            source: base.source.clone(),
            unpacked: OnceCell::new(),
        }))
    }

    /// Returns the digest of the manifest.
    pub(super) fn digest(&self) -> Digest {
        self.manifest
    }

    /// Brings all layers into `store`, several at a time.
    ///
    /// # Errors
    /// When one cannot be fetched or stored, or when cancelled.
    pub(super) async fn fetch(
        &self,
        store: &Store,
        progress: Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<(), BuildError> {
        let total = self.remote.iter().map(|layer| layer.size).sum();
        let done = AtomicU64::new(0);
        let arrived = |bytes| progress(done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        let layers = stream::iter(0..self.remote.len()).map(|index| self.fetch_layer(index, store, (&arrived, cancel)));
        layers.buffer_unordered(DOWNLOADS).try_collect().await
    }

    async fn fetch_layer(
        &self,
        index: usize,
        store: &Store,
        (arrived, cancel): (&(dyn Fn(u64) + Send + Sync), &CancellationToken),
    ) -> Result<(), BuildError> {
        let layer = &self.remote[index];
        let fetch = async || {
            if store.contains(layer).await? {
                return Ok(());
            }
            let (count, blob) = counted(self.source.open(layer).await?);
            let mut put = store.put(layer, blob);
            let mut tick = tokio::time::interval(TICK);
            let mut reported = 0;
            loop {
                let ended = tokio::select! {
                    result = &mut put => Some(result),
                    _ = tick.tick() => None,
                    () = cancel.cancelled() => return Err(BuildError::Cancelled),
                };
                let seen = count.load(Ordering::Relaxed);
                arrived(seen - reported);
                reported = seen;
                if let Some(result) = ended {
                    return result.map_err(BuildError::from);
                }
            }
        };
        self.fetched[index].get_or_try_init(fetch).await.map(drop)
    }

    /// Returns the image's files, fetching and unpacking what is not there yet.
    ///
    /// # Errors
    /// When a layer cannot be fetched or unpacked, or when cancelled.
    pub(super) async fn snapshot(
        &self,
        machine: &Arc<Machine>,
        progress: Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Snapshot, BuildError> {
        self.unpacked.get_or_try_init(|| self.unpack(machine, progress, cancel)).await.cloned()
    }

    async fn unpack(
        &self,
        machine: &Arc<Machine>,
        progress: Progress<'_>,
        cancel: &CancellationToken,
    ) -> Result<Snapshot, BuildError> {
        if let Some(snapshot) = self.found(machine).await? {
            return Ok(snapshot);
        }
        // Layers are unpacked in order; all downloads run meanwhile.
        let unpack = async {
            let mut snapshot = machine.snapshots.scratch();
            for (index, layer) in self.remote.iter().enumerate() {
                self.fetch_layer(index, &machine.store, (&|_| {}, cancel)).await?;
                if cancel.is_cancelled() {
                    return Err(BuildError::Cancelled);
                }
                let (machine, parent) = (machine.clone(), snapshot);
                let (diff_id, digest) = (self.config.rootfs.diff_ids[index], layer.digest);
                snapshot = blocking(move || unpack_layer(&machine, &parent, (diff_id, digest))).await?;
            }
            Ok(snapshot)
        };
        let (snapshot, fetched) = join(unpack, self.fetch(&machine.store, progress, cancel)).await;
        fetched.and(snapshot)
    }

    async fn found(&self, machine: &Arc<Machine>) -> Result<Option<Snapshot>, BuildError> {
        let (machine, diff_ids) = (machine.clone(), self.config.rootfs.diff_ids.clone());
        blocking(move || {
            let mut snapshot = machine.snapshots.scratch();
            for diff_id in &diff_ids {
                match machine.snapshots.unpacked(&snapshot, diff_id)? {
                    Some(known) => snapshot = known,
                    None => return Ok(None),
                }
            }
            Ok(Some(snapshot))
        })
        .await
    }
}

fn unpack_layer(machine: &Machine, parent: &Snapshot, (diff_id, digest): (DiffId, Digest)) -> Result<Snapshot, BuildError> {
    if let Some(known) = machine.snapshots.unpacked(parent, &diff_id)? {
        return Ok(known);
    }
    machine.begins_to_write();
    let blob = machine.store.open_blob(&digest).map_err(store_error)?;
    machine.snapshots.unpack(parent, &diff_id, blob).map_err(|error| BuildError::Builder {
        action: format!("unpack the base image's layer {digest}"),
        class: error.class(),
        source: error.into(),
    })
}

/// Returns the error of a cache that content cannot be written to or read from.
pub(super) fn store_error(error: StoreError) -> BuildError {
    BuildError::Builder { action: "use the cache".to_owned(), class: error.class(), source: error.into() }
}

impl From<SnapshotError> for BuildError {
    fn from(error: SnapshotError) -> Self {
        Self::Builder { action: "keep the files of steps".to_owned(), class: error.class(), source: error.into() }
    }
}

fn damaged(error: BaseError) -> BuildError {
    BuildError::Builder { action: "use the base image".to_owned(), class: ErrorClass::Damaged, source: error.into() }
}

/// Runs `work` on a thread that may block.
pub(super) async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a runtime that shuts down cancels blocking work, and then nobody is left to hear of it.
        Err(error) => std::panic::resume_unwind(error.try_into_panic().unwrap_or_else(|error| Box::new(error.to_string()))),
    }
}

/// A reader that counts what passes.
struct Counting {
    inner: BlobReader,
    count: Arc<AtomicU64>,
}

fn counted(inner: BlobReader) -> (Arc<AtomicU64>, BlobReader) {
    let count = Arc::new(AtomicU64::new(0));
    (count.clone(), Box::pin(Counting { inner, count }))
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = self.inner.as_mut().poll_read(context, buffer);
        self.count.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}
