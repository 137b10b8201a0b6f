//! HTTP: addresses checked at every turn, redirects followed by hand, failures repeated.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use super::address::{AddressError, CheckedNames, check_host};
use super::error::RemoteError;
use super::location::shown_url;
use super::{RemoteAccess, RemoteSettings};
use crate::diagnostic::ErrorClass;
use crate::registry::{Backoff, Clients, RegistryError, RetryPolicy, retry_after};

/// Most redirects that are followed for one request.
const REDIRECTS: usize = 10;

/// Whether a redirect may leave TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Downgrade {
    /// Never: nothing else says that what comes is what is meant.
    Refused,
    /// It may: a checksum says what is meant.
    Allowed,
}

/// What is asked.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) downgrade: Downgrade,
}

impl Question {
    pub(super) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Vec::new(), downgrade: Downgrade::Refused }
    }
}

/// The HTTP side of remote sources.
pub(super) struct Web {
    clients: Clients,
    policy: RetryPolicy,
    silence: Duration,
    access: RemoteAccess,
}

impl Web {
    pub(super) fn new(settings: &RemoteSettings) -> Result<Self, RegistryError> {
        let clients = Clients::new(&settings.certificate_files)?.with_names(Arc::new(CheckedNames));
        let clients = clients.with_silence(settings.silence);
        Ok(Self { clients, policy: settings.retry, silence: settings.silence, access: settings.access })
    }

    /// Returns `inner` as a reader that fails when nothing comes for as long as a server may say nothing.
    pub(super) fn patient<R>(&self, inner: R) -> Patient<R> {
        Patient { inner, silence: self.silence, until: None }
    }

    pub(super) fn is_offline(&self) -> bool {
        self.access == RemoteAccess::Offline
    }

    /// Does `attempt` until it succeeds, fails for good, or failed often enough.
    ///
    /// # Errors
    /// The last failure, or that it was cancelled.
    pub(super) async fn repeated<T, F: Future<Output = Result<T, RemoteError>>>(
        &self,
        cancel: &CancellationToken,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, RemoteError> {
        let mut backoff = Backoff::new(self.policy);
        loop {
            let ended = tokio::select! {
                result = attempt() => result,
                () = cancel.cancelled() => return Err(RemoteError::Cancelled),
            };
            let error = match ended {
                Err(error) if error.class() == ErrorClass::Retryable => error,
                result => return result,
            };
            let Some(pause) = backoff.next(error.retry_after()) else { return Err(error) };
            tracing::info!(why = %error, ?pause, "asking again");
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return Err(RemoteError::Cancelled),
            }
        }
    }

    /// Sends `question` once, following redirects of what is read, and returns the answer if its status is a success or
    /// 304.
    ///
    /// # Errors
    /// As [`RemoteError`].
    pub(super) async fn ask(&self, question: &Question) -> Result<Response, RemoteError> {
        let mut url = question.url.clone();
        for _ in 0..=REDIRECTS {
            let from = shown_url(&url);
            if self.is_offline() {
                return Err(RemoteError::Offline { from });
            }
            check_host(url.host_str().unwrap_or_default())
                .map_err(|source| RemoteError::Forbidden { from: from.clone(), source })?;
            let client = self.clients.client(url.scheme() == "http").map_err(|error| RemoteError::Client(Box::new(error)))?;
            let request = client.request(question.method.clone(), url.clone()).headers(question.headers.clone());
            let request = if question.body.is_empty() { request } else { request.body(question.body.clone()) };
            let response = request.send().await.map_err(|error| no_answer(from.clone(), error))?;
            let status = response.status();
            if status.is_success() || status == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            let reads = question.method == Method::GET;
            let Some(next) = location(&response).filter(|_| reads && status.is_redirection()) else {
                let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = asked.and_then(|value| retry_after(value, SystemTime::now()));
                return Err(RemoteError::Refused { from, status, retry_after });
            };
            let refused = |why| RemoteError::Redirect { from, to: shown_url(&next), why };
            if !matches!(next.scheme(), "http" | "https") {
                return Err(refused("no address that is fetched"));
            }
            if url.scheme() == "https" && next.scheme() == "http" && question.downgrade == Downgrade::Refused {
                return Err(refused("not encrypted"));
            }
            url = next;
        }
        Err(RemoteError::Redirects { from: shown_url(&question.url), limit: REDIRECTS })
    }
}

/// Returns where `response` points, without a user part.
fn location(response: &Response) -> Option<Url> {
    let mut url = response.url().join(response.headers().get(LOCATION)?.to_str().ok()?).ok()?;
    // Both fail only for addresses without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(url)
}

/// Returns the error of a request that got no answer.
fn no_answer(from: String, error: reqwest::Error) -> RemoteError {
    let error = error.without_url();
    if let Some(refused) = cause::<AddressError>(&error) {
        return RemoteError::Forbidden { from, source: refused.clone() };
    }
    let certificate = matches!(cause::<rustls::Error>(&error), Some(rustls::Error::InvalidCertificate(_)));
    RemoteError::NoAnswer { from, source: error.into(), lasting: certificate }
}

/// Returns the cause of an error that is a `T`.
fn cause<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        // An `io::Error` names the source of what it wraps, not what it wraps; so does a transparent error of ours.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let checked = match error.downcast_ref::<super::address::LookupError>() {
            Some(super::address::LookupError::Refused(refused)) => Some(refused as &(dyn std::error::Error + 'static)),
            _ => None,
        };
        next = match (wrapped, checked) {
            (Some(inner), _) => Some(inner as &(dyn std::error::Error + 'static)),
            (None, Some(refused)) => Some(refused),
            (None, None) => error.source(),
        };
    }
    None
}

/// A reader that does not wait forever.
pub(super) struct Patient<R> {
    inner: R,
    silence: Duration,
    until: Option<Pin<Box<Sleep>>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Patient<R> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Poll::Ready(result) = Pin::new(&mut this.inner).poll_read(context, buffer) {
            this.until = None;
            return Poll::Ready(result);
        }
        let silence = this.silence;
        let until = this.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence)));
        until.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}
