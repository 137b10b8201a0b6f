//! Blobs of one repository on one host: asked for, downloaded with resumption, mounted, uploaded.
//!
//! The bytes go through oci-client. Its errors hold neither the headers of a refusal nor, for some, its status, so
//! whatever it reports as refused is asked again by a small request of our own, which renews tokens, waits as long as
//! the registry wants, or returns the error in full.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use oci_client::client::BlobResponse;
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::token_cache::{RegistryOperation, RegistryTokenType};
use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, StatusCode};
use tokio::time::timeout;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::content::{BlobReader, ErrorClass, verifying};
use crate::oci::{Descriptor, Digest};

use super::auth::{Authorization, Scope};
use super::clients::SILENCE_LIMIT;
use super::counters::Counters;
use super::error::{RegistryError, Request, Said};
use super::manifests::Place;
use super::transport::location;

/// Bytes that are read from a source at once: larger than a TLS record, small beside any limit on memory.
const PIECE: usize = 256 << 10;
/// How long a registry may take to store an upload that it has received whole.
const COMMIT_LIMIT: Duration = Duration::from_secs(600);
/// Bytes after which a download that broke off counts as new, with all its attempts.
const PROGRESS: u64 = 1 << 20;

impl Place {
    /// Returns whether the registry has the blob, of this size.
    pub async fn head_blob(&self, descriptor: &Descriptor) -> Result<bool, RegistryError> {
        let call = self.call(Method::HEAD, &format!("blobs/{}", descriptor.digest), &[404])?;
        let response = self.transport.send(&call).await?;
        let size = response.headers().get(CONTENT_LENGTH).and_then(|size| size.to_str().ok()?.parse::<u64>().ok());
        Ok(response.status().is_success() && size.is_none_or(|size| size == descriptor.size))
    }

    fn reference(&self, digest: &Digest) -> oci_client::Reference {
        oci_client::Reference::with_digest(self.endpoint.host.clone(), self.path.clone(), digest.to_string())
    }

    /// Returns oci-client, ready to do `operation` here.
    async fn client(&self, scope: &Scope, operation: RegistryOperation) -> Result<oci_client::Client, RegistryError> {
        let authorization = self.transport.keyring.authorization(&self.endpoint, &self.path, scope).await?;
        let client = self.transport.channels.blobs(&self.endpoint, authorization.as_ref()).await?;
        if let Some(Authorization::Basic { user, password }) = authorization {
            let login = RegistryTokenType::Basic(user, password.reveal().to_owned());
            let reference = oci_client::Reference::with_tag(self.endpoint.host.clone(), self.path.clone(), String::new());
            client.tokens.insert(&reference, operation, login).await;
        }
        Ok(client)
    }

    /// Begins to download from `offset`; `None` when the registry does not have the blob.
    async fn download(&self, descriptor: &Descriptor, offset: u64) -> Result<Option<Pieces>, RegistryError> {
        let rest = format!("blobs/{}", descriptor.digest);
        let request = Request::new(Method::GET, &self.url(&rest)?, &self.path);
        self.transport.allowed(&request)?;
        let host = self.transport.host(&self.endpoint);
        let mut attempts = self.transport.attempts(&host);
        let mut consulted = false;
        loop {
            attempts.ready().await;
            let error = {
                let _permit = host.permit(&Method::GET).await;
                match self.download_once(descriptor, offset, &request).await {
                    Ok(pieces) => return Ok(Some(pieces)),
                    Err(error) => error,
                }
            };
            if let RegistryError::Refused { .. } = error {
                if !self.head_blob(descriptor).await? {
                    return Ok(None);
                }
                if error.class() != ErrorClass::Retryable && !std::mem::replace(&mut consulted, true) {
                    continue;
                }
            }
            attempts.failed(error).await?;
        }
    }

    async fn download_once(&self, descriptor: &Descriptor, offset: u64, request: &Request) -> Result<Pieces, RegistryError> {
        let client = self.client(&Scope::pull(&self.path), RegistryOperation::Pull).await?;
        let reference = self.reference(&descriptor.digest);
        let layer = OciDescriptor { digest: descriptor.digest.to_string(), ..OciDescriptor::default() };
        self.transport.counters.requested(1);
        let begun = async {
            if offset == 0 {
                return client.pull_blob_stream(&reference, &layer).await.map(BlobResponse::Full);
            }
            client.pull_blob_stream_partial(&reference, &layer, offset, None).await
        };
        let begun = timeout(SILENCE_LIMIT, begun).await.map_err(|_| silent(request))?;
        match begun.map_err(|error| translate(error, request))? {
            // A registry that knows no ranges sends all of it again.
            BlobResponse::Full(stream) => Ok(Pieces { stream: stream.boxed(), skip: offset }),
            BlobResponse::Partial(stream) => Ok(Pieces { stream: stream.boxed(), skip: 0 }),
        }
    }

    /// Asks the registry to take the blob from its own repository `source`. Returns whether it did: when it did not,
    /// for whatever reason, uploading will tell.
    pub async fn mount(&self, descriptor: &Descriptor, source: &str) -> bool {
        let scope = Scope::push(&self.path).and_pull(source);
        let Ok(client) = self.client(&scope, RegistryOperation::Push).await else { return false };
        let host = self.transport.host(&self.endpoint);
        let _permit = host.permit(&Method::POST).await;
        self.transport.counters.requested(1);
        let digest = descriptor.digest.to_string();
        let source = oci_client::Reference::with_tag(self.endpoint.host.clone(), source.to_owned(), String::new());
        let target = self.reference(&descriptor.digest);
        let mounted = timeout(SILENCE_LIMIT, client.mount_blob(&target, &source, &digest)).await;
        let mounted = matches!(mounted, Ok(Ok(())));
        if mounted {
            self.transport.counters.mounted();
        }
        mounted
    }

    /// Returns the request of an upload, as errors name it.
    pub fn upload_request(&self) -> Result<Request, RegistryError> {
        Ok(Request::new(Method::PUT, &self.url("blobs/uploads/")?, &self.path))
    }

    /// Uploads the blob once.
    pub async fn upload(&self, descriptor: &Descriptor, blob: BlobReader) -> Result<(), UploadError> {
        let whole = |error| UploadError { error, began: false };
        let request = self.upload_request().map_err(whole)?;
        self.transport.allowed(&request).map_err(whole)?;
        let host = self.transport.host(&self.endpoint);
        let _permit = host.permit(&Method::POST).await;
        let client = self.client(&Scope::push(&self.path), RegistryOperation::Push).await.map_err(whole)?;
        let watched = Arc::new(Watched::default());
        let pieces = watched.pieces(blob, Arc::clone(&self.transport.counters));
        // A session is opened, then the bytes are sent.
        self.transport.counters.requested(2);
        let reference = self.reference(&descriptor.digest);
        let digest = descriptor.digest.to_string();
        let pushed = client.push_blob_stream(&reference, pieces, &digest, Some(descriptor.size));
        let pushed = tokio::select! {
            pushed = pushed => pushed.map(drop).map_err(|error| translate(error, &request)),
            () = watched.stalled() => Err(silent(&request)),
        };
        let began = watched.taken.load(Ordering::Relaxed) > 0;
        let failed = watched.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let error = match (failed, pushed) {
            (Some(source), _) => RegistryError::Source { request: Box::new(request), source },
            (None, Err(error)) => error,
            (None, Ok(())) => {
                self.transport.counters.uploaded();
                return Ok(());
            }
        };
        Err(UploadError { error, began })
    }

    /// Opens an upload and gives it up again, to hear why uploads are refused: renews tokens, waits as long as the
    /// registry wants, or returns the refusal in full.
    pub async fn consult_about_upload(&self) -> Result<(), RegistryError> {
        let response = self.transport.send(&self.call(Method::POST, "blobs/uploads/", &[])?).await?;
        if let Some(session) = location(&response).filter(|url| self.endpoint.owns(url)) {
            let call = self.call(Method::DELETE, "blobs/uploads/", &[400, 404, 405])?;
            // The session would end by itself, only later.
            let _ = self.transport.send(&super::transport::Call { url: session, ..call }).await;
        }
        Ok(())
    }
}

/// Why an upload failed, and whether bytes were taken from its source.
pub(super) struct UploadError {
    pub error: RegistryError,
    pub began: bool,
}

/// A download under way.
struct Pieces {
    stream: BoxStream<'static, io::Result<Bytes>>,
    /// Bytes to leave out, because they were received before.
    skip: u64,
}

impl Place {
    /// Opens the blob, or returns `None` when it is not here. Reading goes on where it broke off: here, then in
    /// `others`.
    pub async fn open(&self, descriptor: &Descriptor, others: &[Self]) -> Result<Option<BlobReader>, RegistryError> {
        let Some(pieces) = self.download(descriptor, 0).await? else { return Ok(None) };
        let download = Download {
            place: self.clone(),
            others: others.iter().cloned().collect(),
            descriptor: descriptor.clone(),
            pieces: Some(pieces),
            offset: 0,
            resumed_at: 0,
            resumptions: 0,
        };
        let stream = stream::try_unfold(download, |mut download| async move {
            let piece = download.next().await?;
            Ok::<_, io::Error>(piece.map(|piece| (piece, download)))
        });
        Ok(Some(verifying(StreamReader::new(Box::pin(stream)), descriptor)))
    }
}

/// A download that survives broken connections.
struct Download {
    place: Place,
    others: VecDeque<Place>,
    descriptor: Descriptor,
    pieces: Option<Pieces>,
    offset: u64,
    /// Where it was last resumed, and how often without progress since.
    resumed_at: u64,
    resumptions: u32,
}

impl Download {
    /// Returns the next bytes, or `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let broke = match &mut self.pieces {
                None => None,
                Some(pieces) => match timeout(SILENCE_LIMIT, pieces.stream.next()).await {
                    Ok(Some(Ok(piece))) => match self.take(piece) {
                        Some(piece) => return Ok(Some(piece)),
                        None => continue,
                    },
                    // Whether what came is right is for the verifying reader to say.
                    _ if self.offset >= self.descriptor.size => return Ok(None),
                    Ok(Some(Err(error))) => Some(error),
                    Ok(None) => Some(io::ErrorKind::UnexpectedEof.into()),
                    Err(_) => Some(io::ErrorKind::TimedOut.into()),
                },
            };
            self.pieces = None;
            self.resume(broke.unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into())).await?;
        }
    }

    fn take(&mut self, mut piece: Bytes) -> Option<Bytes> {
        let pieces = self.pieces.as_mut()?;
        self.place.transport.counters.received(piece.len() as u64);
        let skipped = pieces.skip.min(piece.len() as u64);
        pieces.skip -= skipped;
        let piece = piece.split_off(skipped as usize);
        self.offset += piece.len() as u64;
        (!piece.is_empty()).then_some(piece)
    }

    async fn resume(&mut self, broke: io::Error) -> io::Result<()> {
        if self.offset >= self.resumed_at + PROGRESS {
            self.resumptions = 0;
        }
        (self.resumed_at, self.resumptions) = (self.offset, self.resumptions + 1);
        let tried = self.resumptions >= self.place.transport.settings.retry.attempts;
        let url = self.place.url(&format!("blobs/{}", self.descriptor.digest)).map_err(io::Error::other)?;
        let request = Request::new(Method::GET, &url, &self.place.path);
        tracing::info!(%request, error = %broke, offset = self.offset, "a download broke off");
        let again = if tried { None } else { Some(self.place.download(&self.descriptor, self.offset).await) };
        let error = match again {
            Some(Ok(Some(pieces))) => {
                self.place.transport.counters.retried();
                self.pieces = Some(pieces);
                return Ok(());
            }
            Some(Err(error)) => error,
            Some(Ok(None)) | None => RegistryError::BrokeOff { request: Box::new(request), source: broke },
        };
        let Some(next) = self.others.pop_front() else { return Err(io::Error::other(error)) };
        tracing::warn!(%error, "going on at {}", next.endpoint);
        (self.place, self.resumptions) = (next, 0);
        Ok(())
    }
}

/// What an upload has taken from its source.
#[derive(Default)]
struct Watched {
    taken: AtomicU64,
    ended: AtomicBool,
    /// How the source failed: an upload that ends for it is not the registry's fault.
    failed: Mutex<Option<io::Error>>,
}

impl Watched {
    /// Returns the bytes of `blob` in pieces. The last is held back until the source has ended well: a registry never
    /// has all of a blob whose source turns out not to be what was promised.
    fn pieces(
        self: &Arc<Self>,
        blob: BlobReader,
        counters: Arc<Counters>,
    ) -> impl futures_util::Stream<Item = Result<Bytes, OciDistributionError>> + Send + 'static {
        let state = (Arc::clone(self), ReaderStream::with_capacity(blob, PIECE), None::<Bytes>);
        stream::try_unfold(state, move |(watched, mut source, mut held)| {
            let counters = Arc::clone(&counters);
            async move {
                loop {
                    let next = source.next().await.transpose().map_err(|error| watched.fail(error))?;
                    watched.taken.fetch_add(next.as_ref().map_or(0, Bytes::len) as u64, Ordering::Relaxed);
                    watched.ended.store(next.is_none(), Ordering::Relaxed);
                    let ended = next.is_none();
                    if let Some(piece) = std::mem::replace(&mut held, next) {
                        counters.sent(piece.len() as u64);
                        return Ok(Some((piece, (watched, source, held))));
                    }
                    if ended {
                        return Ok(None);
                    }
                }
            }
        })
    }

    fn fail(&self, error: io::Error) -> OciDistributionError {
        let kind = error.kind();
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        OciDistributionError::IoError(kind.into())
    }

    /// Ends when nothing was taken for too long.
    async fn stalled(&self) {
        let mut before = None;
        loop {
            let now = (self.taken.load(Ordering::Relaxed), self.ended.load(Ordering::Relaxed));
            if before == Some(now) {
                return;
            }
            before = Some(now);
            tokio::time::sleep(if now.1 { COMMIT_LIMIT } else { SILENCE_LIMIT }).await;
        }
    }
}

/// Returns the error of a request that got no answer in time.
fn silent(request: &Request) -> RegistryError {
    let source = Box::new(io::Error::from(io::ErrorKind::TimedOut));
    RegistryError::NoAnswer { request: Box::new(request.clone()), source, certificate: false }
}

/// Returns oci-client's `error` as ours.
fn translate(error: OciDistributionError, request: &Request) -> RegistryError {
    let request = Box::new(request.clone());
    let refused = |request, status: u16, said| RegistryError::Refused {
        request,
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST),
        said,
        retry_after: None,
    };
    match error {
        OciDistributionError::ServerError { code, message, .. } => refused(request, code, Said::read(message.as_bytes())),
        OciDistributionError::UnauthorizedError { .. } => refused(request, 401, Said::default()),
        OciDistributionError::RegistryError { envelope, .. } => {
            // The status is lost; these codes stand for one (distribution-spec, "Error Codes").
            let first = envelope.errors.into_iter().next();
            let status = match first.as_ref().map(|error| &error.code) {
                Some(OciErrorCode::Toomanyrequests) => 429,
                Some(OciErrorCode::Unauthorized) => 401,
                Some(OciErrorCode::Denied) => 403,
                Some(OciErrorCode::BlobUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound) => 404,
                _ => 400,
            };
            refused(request, status, first.map(|error| Said::new("", &error.message)).unwrap_or_default())
        }
        OciDistributionError::RequestError(error) => match error.status() {
            Some(status) => refused(request, status.as_u16(), Said::default()),
            None => RegistryError::no_answer(*request, error),
        },
        OciDistributionError::IoError(source) => RegistryError::BrokeOff { request, source },
        OciDistributionError::RegistryNoLocationError => {
            RegistryError::Specification { request, rule: "an upload has a Location" }
        }
        OciDistributionError::SpecViolationError(_) => {
            RegistryError::Specification { request, rule: "this success has another status" }
        }
        _ => RegistryError::Specification { request, rule: "oci-client cannot read the answer" },
    }
}
