//! One repository as the rest of the program sees it: a source of content that may be mirrored, and a sink.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::content::{BlobReader, ContentError, ContentSink, ContentSource, DOCUMENT_LIMIT, ErrorClass, from_bytes, verifying};
use crate::oci::{Descriptor, Digest, Reference, Repository, Tag};

use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::manifests::{ManifestName, Place, RemoteManifest, is_document};
use super::mirrors::Beyond;
use super::transport::Transport;

/// Largest blob that is kept in memory while it is uploaded, so that it can be sent again.
const KEPT: u64 = 1 << 20;
/// Most bytes of manifests that are kept for being tagged.
const MANIFESTS_KEPT: usize = 16 << 20;

/// A repository in a registry. Cheap to clone; clones share what they know.
///
/// References given to it must be of this repository; only their tag or digest is looked at.
#[derive(Clone)]
pub struct RemoteRepository {
    name: Repository,
    /// Whom to read from, in this order.
    reads: Arc<[Place]>,
    /// Whether the last of `reads` is the registry itself, which alone knows what is absent.
    authority: bool,
    pub(super) upstream: Place,
    mount_from: Arc<[Repository]>,
    pub(super) memory: Arc<Memory>,
}

/// What this run has learned about the registry's content of one repository.
#[derive(Default)]
pub(super) struct Memory {
    present: Mutex<BTreeSet<Digest>>,
    /// Blobs that were just found to be absent: uploading need not ask again.
    absent: Mutex<BTreeSet<Digest>>,
    manifests: Mutex<BTreeMap<Digest, (String, Bytes)>>,
}

impl Memory {
    fn has(&self, digest: &Digest) -> bool {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    fn found(&self, digest: &Digest, present: bool) {
        if present {
            self.present.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
        } else {
            self.absent.lock().unwrap_or_else(PoisonError::into_inner).insert(*digest);
        }
    }

    fn take_absent(&self, digest: &Digest) -> bool {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner).remove(digest)
    }

    fn keep(&self, digest: Digest, media_type: &str, bytes: Bytes) {
        let mut manifests = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
        if manifests.values().map(|(_, bytes)| bytes.len()).sum::<usize>() + bytes.len() > MANIFESTS_KEPT {
            manifests.clear();
        }
        manifests.insert(digest, (media_type.to_owned(), bytes));
    }

    fn manifest(&self, digest: &Digest) -> Option<(String, Bytes)> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }
}

impl RemoteRepository {
    pub(super) fn new(transport: Arc<Transport>, name: &Repository, mirrors: Vec<Endpoint>, registry: Endpoint) -> Self {
        let place = |endpoint: Endpoint| {
            let path = endpoint.repository(&name.path);
            Place { transport: Arc::clone(&transport), endpoint, path }
        };
        let authority = mirrors.is_empty() || transport.settings.mirrors.beyond == Beyond::Registry;
        let mut reads: Vec<Place> = mirrors.into_iter().map(place).collect();
        let upstream = place(registry);
        if authority {
            reads.push(upstream.clone());
        }
        Self { name: name.clone(), reads: reads.into(), authority, upstream, mount_from: Arc::new([]), memory: Arc::default() }
    }

    /// Returns this repository with repositories that may already have what is put into it: the registry is asked to
    /// take blobs from them before they are uploaded. Those of other registries are left out.
    pub fn mounting_from(mut self, sources: impl IntoIterator<Item = Repository>) -> Self {
        let sources = sources.into_iter().filter(|source| source.registry == self.name.registry && *source != self.name);
        self.mount_from = sources.collect();
        self
    }

    /// Returns the repository's name.
    pub fn name(&self) -> &Repository {
        &self.name
    }

    /// Returns the manifest or index that `reference` names, byte for byte, or `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be told whether there is one, or its bytes are not what its digest says.
    pub async fn manifest(&self, reference: &Reference) -> Result<Option<RemoteManifest>, RegistryError> {
        let name = ManifestName::of(reference);
        let mut verdict = Verdict::default();
        for place in self.reads.iter() {
            match place.get_manifest(&name).await {
                Ok(Some(manifest)) => return Ok(Some(manifest)),
                other => verdict.add(other.map(drop), place),
            }
        }
        verdict.none(self.authority)
    }

    async fn head(&self, name: &ManifestName) -> Result<Option<Descriptor>, RegistryError> {
        let mut verdict = Verdict::default();
        for place in self.reads.iter() {
            match place.head_manifest(name).await {
                Ok(Some(descriptor)) => return Ok(Some(descriptor)),
                other => verdict.add(other.map(drop), place),
            }
        }
        verdict.none(self.authority)
    }

    /// Returns all tags, sorted; none when there is no such repository. Asks the registry itself.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn tags(&self) -> Result<Vec<Tag>, RegistryError> {
        self.upstream.tags().await
    }

    async fn open_blob(&self, descriptor: &Descriptor) -> Result<Option<BlobReader>, RegistryError> {
        let mut verdict = Verdict::default();
        for (n, place) in self.reads.iter().enumerate() {
            match place.open(descriptor, &self.reads[n + 1..]).await {
                Ok(Some(reader)) => return Ok(Some(reader)),
                other => verdict.add(other.map(drop), place),
            }
        }
        verdict.none(self.authority)
    }

    /// Returns whether the registry itself has the manifest or blob, whole.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn has(&self, descriptor: &Descriptor) -> Result<bool, RegistryError> {
        if self.memory.has(&descriptor.digest) {
            return Ok(true);
        }
        let present = if is_document(&descriptor.media_type) {
            let found = self.upstream.head_manifest(&ManifestName::Digest(descriptor.digest)).await?;
            found.is_some_and(|found| found.size == descriptor.size)
        } else {
            self.upstream.head_blob(descriptor).await?
        };
        self.memory.found(&descriptor.digest, present);
        Ok(present)
    }

    /// Uploads a blob unless the registry has it or takes it from another repository. `open` is called for each
    /// attempt, so that a broken upload can be repeated from the beginning.
    ///
    /// # Errors
    /// When the source cannot be read or the registry does not take it.
    pub async fn push_blob<F>(&self, descriptor: &Descriptor, mut open: impl FnMut() -> F + Send) -> Result<Pushed, RegistryError>
    where
        F: Future<Output = io::Result<BlobReader>> + Send,
    {
        self.push(descriptor, &mut open, Source::Again).await
    }

    async fn push<F>(
        &self,
        descriptor: &Descriptor,
        mut open: impl FnMut() -> F + Send,
        source: Source,
    ) -> Result<Pushed, RegistryError>
    where
        F: Future<Output = io::Result<BlobReader>> + Send,
    {
        if let Some(already) = self.push_without_upload(descriptor).await? {
            return Ok(already);
        }
        let host = self.upstream.transport.host(&self.upstream.endpoint);
        let mut attempts = self.upstream.transport.attempts(&host);
        let mut consulted = false;
        loop {
            attempts.ready().await;
            let request = self.upstream.upload_request()?;
            let blob = open().await.map_err(|source| RegistryError::Source { request: Box::new(request), source })?;
            let error = match self.upstream.upload(descriptor, blob).await {
                Ok(()) => break,
                Err(failed) if failed.began && source == Source::Once => return Err(failed.error),
                Err(failed) => failed.error,
            };
            if self.consult(&error, &mut consulted).await? {
                continue;
            }
            attempts.failed(error).await?;
        }
        self.memory.found(&descriptor.digest, true);
        Ok(Pushed::Uploaded)
    }

    /// After a refused upload, hears why; returns whether another attempt may succeed at once.
    async fn consult(&self, error: &RegistryError, consulted: &mut bool) -> Result<bool, RegistryError> {
        let RegistryError::Refused { status, .. } = error else { return Ok(false) };
        if !matches!(status.as_u16(), 401 | 403 | 429 | 503) {
            return Ok(false);
        }
        self.upstream.consult_about_upload().await?;
        Ok(error.class() == ErrorClass::Denied && !std::mem::replace(consulted, true))
    }

    async fn push_without_upload(&self, descriptor: &Descriptor) -> Result<Option<Pushed>, RegistryError> {
        if !self.memory.take_absent(&descriptor.digest) && self.has(descriptor).await? {
            return Ok(Some(Pushed::Present));
        }
        self.memory.take_absent(&descriptor.digest);
        for source in self.mount_from.iter() {
            if self.upstream.mount(descriptor, &source.path).await {
                self.memory.found(&descriptor.digest, true);
                return Ok(Some(Pushed::Mounted));
            }
        }
        Ok(None)
    }

    /// Writes a manifest or index under its own digest.
    ///
    /// # Errors
    /// When the registry does not take it, for example because it lacks what the manifest names.
    pub async fn push_manifest(&self, media_type: &str, bytes: Bytes) -> Result<Descriptor, RegistryError> {
        let descriptor = Descriptor::of(media_type, &bytes);
        if !self.has(&descriptor).await? {
            let name = ManifestName::Digest(descriptor.digest);
            self.upstream.put_manifest(&name, media_type, bytes.clone(), None).await?;
        }
        self.memory.found(&descriptor.digest, true);
        self.memory.keep(descriptor.digest, media_type, bytes);
        Ok(descriptor)
    }

    /// Returns media type and bytes of a manifest that the registry itself has.
    pub(super) async fn stored_manifest(&self, digest: &Digest) -> Result<Option<(String, Bytes)>, RegistryError> {
        if let Some(kept) = self.memory.manifest(digest) {
            return Ok(Some(kept));
        }
        let Some(manifest) = self.upstream.get_manifest(&ManifestName::Digest(*digest)).await? else { return Ok(None) };
        self.memory.keep(*digest, &manifest.descriptor.media_type, manifest.bytes.clone());
        Ok(Some((manifest.descriptor.media_type, manifest.bytes)))
    }

    fn place(&self) -> String {
        self.name.to_string()
    }

    async fn put_blob(&self, descriptor: &Descriptor, blob: BlobReader) -> Result<(), RegistryError> {
        let request = self.upstream.upload_request()?;
        if descriptor.size <= KEPT {
            let mut bytes = Vec::with_capacity(descriptor.size as usize);
            let read = blob.take(descriptor.size + 1).read_to_end(&mut bytes).await;
            read.map_err(|source| RegistryError::Source { request: Box::new(request), source })?;
            let bytes = Bytes::from(bytes);
            let open = || std::future::ready(Ok(verifying(from_bytes(bytes.clone()), descriptor)));
            self.push_blob(descriptor, open).await?;
            return Ok(());
        }
        let lent = Lent(Arc::new(Mutex::new(blob)));
        self.push(descriptor, || std::future::ready(Ok(Box::pin(lent.clone()) as BlobReader)), Source::Once).await.map(drop)
    }
}

/// How often a source can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// From its beginning for each attempt.
    Again,
    /// Once: an attempt that has taken bytes from it is the last.
    Once,
}

/// A source that outlives an attempt which has not begun to read it.
#[derive(Clone)]
struct Lent(Arc<Mutex<BlobReader>>);

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut().poll_read(context, buffer)
    }
}

/// How a blob came to be in a registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// It was there.
    Present,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was uploaded.
    Uploaded,
}

impl fmt::Debug for RemoteRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RemoteRepository").field(&self.place()).finish()
    }
}

/// What several places said of content that none of them gave.
#[derive(Default)]
struct Verdict {
    last: Option<Result<(), RegistryError>>,
    failure: Option<RegistryError>,
}

impl Verdict {
    fn add(&mut self, answer: Result<(), RegistryError>, place: &Place) {
        if let Some(Err(error)) = self.last.replace(answer) {
            self.failure.get_or_insert(error);
        }
        if let Some(Err(error)) = &self.last {
            tracing::warn!(%error, "{} gave no answer", place.endpoint);
        }
    }

    /// Returns `None` when that is known. The registry itself knows; of mirrors that stand for it, all must agree.
    fn none<T>(self, authority: bool) -> Result<Option<T>, RegistryError> {
        match (self.last, self.failure) {
            (Some(Err(error)), _) => Err(error),
            (_, Some(error)) if !authority => Err(error),
            _ => Ok(None),
        }
    }
}

#[async_trait]
impl ContentSource for RemoteRepository {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, ContentError> {
        let found = self.head(&ManifestName::of(reference)).await;
        found.map_err(|error| error.doing("resolve", reference, self.place()))
    }

    async fn open(&self, descriptor: &Descriptor) -> Result<BlobReader, ContentError> {
        let opened = if is_document(&descriptor.media_type) {
            let manifest = self.manifest(&self.name.with_digest(descriptor.digest)).await;
            manifest.map(|found| found.map(|manifest| verifying(from_bytes(manifest.bytes), descriptor)))
        } else {
            self.open_blob(descriptor).await
        };
        match opened {
            Ok(Some(reader)) => Ok(reader),
            Ok(None) => Err(ContentError::Missing { place: self.place(), digest: descriptor.digest }),
            Err(error) => Err(error.doing("read", descriptor.digest, self.place())),
        }
    }
}

#[async_trait]
impl ContentSink for RemoteRepository {
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool, ContentError> {
        self.has(descriptor).await.map_err(|error| error.doing("find", descriptor.digest, self.place()))
    }

    /// A blob of more than a mebibyte is sent once, because it can be read only once; use
    /// [`RemoteRepository::push_blob`] where the source can be opened again.
    async fn put(&self, descriptor: &Descriptor, blob: BlobReader) -> Result<(), ContentError> {
        let doing = |error: RegistryError| error.doing("write", descriptor.digest, self.place());
        if !is_document(&descriptor.media_type) {
            return self.put_blob(descriptor, blob).await.map_err(doing);
        }
        let mut bytes = Vec::new();
        let request = || self.upstream.upload_request().map_err(doing);
        if let Err(source) = blob.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes).await {
            return Err(doing(RegistryError::Source { request: Box::new(request()?), source }));
        }
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            return Err(doing(RegistryError::TooLarge { request: Box::new(request()?), limit: DOCUMENT_LIMIT }));
        }
        let actual = Descriptor::of(&descriptor.media_type, &bytes);
        if actual.digest.algorithm() == descriptor.digest.algorithm() && actual.digest != descriptor.digest {
            let source = crate::oci::VerifyError::Digest { expected: descriptor.digest, actual: actual.digest };
            return Err(doing(RegistryError::Damaged { request: Box::new(request()?), source: Box::new(source) }));
        }
        self.push_manifest(&descriptor.media_type, bytes.into()).await.map(drop).map_err(doing)
    }

    async fn tag(&self, reference: &Reference, root: &Descriptor) -> Result<(), ContentError> {
        let doing = |error: RegistryError| error.doing("tag", reference, self.place());
        let Some((media_type, bytes)) = self.stored_manifest(&root.digest).await.map_err(doing)? else {
            return Err(ContentError::Missing { place: self.place(), digest: root.digest });
        };
        let name = ManifestName::of(reference);
        if self.upstream.head_manifest(&name).await.map_err(doing)?.is_some_and(|now| now.digest == root.digest) {
            return Ok(());
        }
        self.upstream.put_manifest(&name, &media_type, bytes, None).await.map(drop).map_err(doing)
    }
}
