//! Sends requests: authorization, redirects, limits for each host, pauses and repetitions, counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::content::ErrorClass;

use super::auth::{Authorization, Keyring, Scope, read_body, refusal};
use super::channel::Channels;
use super::clients::Clients;
use super::counters::Counters;
use super::endpoint::Endpoint;
use super::error::{RegistryError, Request, redacted};
use super::retry::{Backoff, Retrying};
use super::{Access, Settings};

/// Most redirects that are followed for one request.
const REDIRECTS: usize = 5;

/// One request, as often as it must be sent.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub endpoint: &'a Endpoint,
    /// The repository's path on that host.
    pub repository: &'a str,
    pub scope: Scope,
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Statuses beside successes that are answers to this question.
    pub answers: &'static [u16],
}

/// A whole answer.
pub(super) struct Answer {
    /// What was asked, after redirects.
    pub request: Request,
    pub status: StatusCode,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What all requests of one run share.
pub(super) struct Transport {
    pub settings: Settings,
    pub channels: Arc<Channels>,
    pub keyring: Keyring,
    pub counters: Arc<Counters>,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
}

/// The limits of one host.
///
/// Reads and writes have permits of their own: an upload may be fed by a download from the same host, which must be
/// able to go on.
pub(super) struct Host {
    reads: Semaphore,
    writes: Semaphore,
    /// Until when the host wants to be left alone.
    paused: Mutex<Option<Instant>>,
}

impl Host {
    /// Waits for a permit; the request must be over when it is dropped.
    pub async fn permit(&self, method: &Method) -> SemaphorePermit<'_> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let permits = if reads { &self.reads } else { &self.writes };
        permits.acquire().await.expect("these semaphores are never closed")
    }

    fn paused(&self) -> Option<Instant> {
        let paused = *self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.filter(|until| *until > Instant::now())
    }

    fn pause(&self, until: Instant) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |earlier| earlier.max(until)));
    }
}

/// The attempts at one request.
pub(super) struct Attempts<'a> {
    transport: &'a Transport,
    host: &'a Host,
    backoff: Backoff,
}

impl Attempts<'_> {
    /// Waits until the host may be asked.
    pub async fn ready(&self) {
        while let Some(until) = self.host.paused() {
            tokio::time::sleep_until(until.into()).await;
        }
    }

    /// Takes note of a failure and waits, or returns the failure when another attempt is useless or too many were made.
    pub async fn failed(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        if error.class() == ErrorClass::Retryable { self.again(error).await } else { Err(error) }
    }

    /// As [`Attempts::failed`], for a failure that another attempt is known to cure whatever its class.
    pub async fn again(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let asked = error.retry_after();
        let Some(after) = self.backoff.next(asked) else { return Err(error) };
        if let Some(asked) = asked {
            // A limit is the host's, not the request's: the others need not run into it.
            self.host.pause(Instant::now() + asked);
        }
        let (request, why) = match error.request() {
            Some(request) => (request.to_string(), error.to_string()),
            None => (String::new(), error.to_string()),
        };
        tracing::info!(%why, ?after, "asking again");
        if let Some(observer) = &self.transport.settings.on_retry {
            observer(&Retrying { request, why, after });
        }
        self.transport.counters.retried();
        tokio::time::sleep(after).await;
        Ok(())
    }
}

impl Transport {
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        let channels = Arc::new(Channels::new(Clients::new(&settings.certificate_files)?));
        let counters = Arc::new(Counters::default());
        let keyring = Keyring::new(settings.credentials.clone(), Arc::clone(&channels), Arc::clone(&counters));
        Ok(Self { settings, channels, keyring, counters, hosts: Mutex::default() })
    }

    pub fn host(&self, endpoint: &Endpoint) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = self.settings.limits;
        let host = hosts.entry(endpoint.host.clone()).or_insert_with(|| {
            Arc::new(Host {
                reads: Semaphore::new(limits.reads.max(1)),
                writes: Semaphore::new(limits.writes.max(1)),
                paused: Mutex::default(),
            })
        });
        Arc::clone(host)
    }

    pub fn attempts<'a>(&'a self, host: &'a Host) -> Attempts<'a> {
        Attempts { transport: self, host, backoff: Backoff::new(self.settings.retry) }
    }

    /// Returns an error when the run is offline.
    pub fn allowed(&self, request: &Request) -> Result<(), RegistryError> {
        match self.settings.access {
            Access::Online => Ok(()),
            Access::Offline => Err(RegistryError::Offline { request: Box::new(request.clone()) }),
        }
    }

    /// Sends `call` until it is answered with a success or one of `call.answers`.
    pub async fn send(&self, call: &Call<'_>) -> Result<Response, RegistryError> {
        self.allowed(&Request::new(call.method.clone(), &call.url, call.repository))?;
        let host = self.host(call.endpoint);
        let mut attempts = self.attempts(&host);
        loop {
            attempts.ready().await;
            let permit = host.permit(&call.method).await;
            let error = match self.attempt(call).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            drop(permit);
            attempts.failed(error).await?;
        }
    }

    /// Sends `call` as [`Transport::send`], and reads the whole answer, of at most `limit` bytes.
    pub async fn fetch(&self, call: &Call<'_>, limit: u64) -> Result<Answer, RegistryError> {
        self.allowed(&Request::new(call.method.clone(), &call.url, call.repository))?;
        let host = self.host(call.endpoint);
        let mut attempts = self.attempts(&host);
        loop {
            attempts.ready().await;
            let permit = host.permit(&call.method).await;
            let error = match self.fetch_once(call, limit).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            drop(permit);
            attempts.failed(error).await?;
        }
    }

    async fn fetch_once(&self, call: &Call<'_>, limit: u64) -> Result<Answer, RegistryError> {
        let response = self.attempt(call).await?;
        let request = Request::new(call.method.clone(), response.url(), call.repository);
        let (status, url, headers) = (response.status(), response.url().clone(), response.headers().clone());
        let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
        let body = match read_body(response, most).await {
            Ok(body) => body,
            Err(error) => return Err(RegistryError::no_answer(request, error)),
        };
        if body.len() as u64 > limit {
            return Err(RegistryError::TooLarge { request: Box::new(request), limit });
        }
        self.counters.received(body.len() as u64);
        Ok(Answer { request, status, url, headers, body: body.into() })
    }

    async fn attempt(&self, call: &Call<'_>) -> Result<Response, RegistryError> {
        let sent = self.keyring.authorization(call.endpoint, call.repository, &call.scope).await?;
        let mut response = self.exchange(call, sent.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED && call.endpoint.owns(response.url()) {
            // A token may have ended early, a login may be new: both are fetched anew, once.
            self.keyring.refused(call.endpoint, &call.scope, sent.as_ref(), response.headers()).await;
            let anew = self.keyring.authorization(call.endpoint, call.repository, &call.scope).await?;
            if anew != sent {
                response = self.exchange(call, anew.as_ref()).await?;
            }
        }
        let status = response.status();
        if status.is_success() || call.answers.contains(&status.as_u16()) {
            return Ok(response);
        }
        let request = Request::new(call.method.clone(), response.url(), call.repository);
        let error = refusal(request, response).await;
        if call.method == Method::HEAD && error.class() != ErrorClass::Retryable {
            // A HEAD response has no body; the reason is in the answer to a GET.
            let sent = self.keyring.authorization(call.endpoint, call.repository, &call.scope).await?;
            let response = self.exchange(&Call { method: Method::GET, ..call.clone() }, sent.as_ref()).await?;
            if response.status() == status {
                return Err(refusal(Request::new(Method::GET, response.url(), call.repository), response).await);
            }
        }
        Err(error)
    }

    /// Sends once, following redirects of reads. Credentials go to the registry's own host and scheme only.
    async fn exchange(&self, call: &Call<'_>, authorization: Option<&Authorization>) -> Result<Response, RegistryError> {
        let mut url = call.url.clone();
        for _ in 0..=REDIRECTS {
            let request = Request::new(call.method.clone(), &url, call.repository);
            let client = self.channels.client(url.scheme() == "http")?;
            let mut builder = client.request(call.method.clone(), url.clone()).headers(call.headers.clone());
            if let Some(value) = authorization.filter(|_| call.endpoint.owns(&url)).and_then(Authorization::header) {
                builder = builder.header(AUTHORIZATION, value);
            }
            if !call.body.is_empty() || matches!(call.method, Method::POST | Method::PUT) {
                builder = builder.body(call.body.clone());
            }
            self.counters.requested(1);
            self.counters.sent(call.body.len() as u64);
            let response = builder.send().await.map_err(|error| RegistryError::no_answer(request, error))?;
            let reads = matches!(call.method, Method::GET | Method::HEAD);
            let Some(next) = location(&response).filter(|_| reads && response.status().is_redirection()) else {
                return Ok(response);
            };
            if !call.endpoint.may_lead_to(&next) {
                return Err(RegistryError::PlainHttp { host: call.endpoint.host.clone(), url: redacted(&next) });
            }
            url = next;
        }
        Err(RegistryError::Redirect { host: call.endpoint.host.clone() })
    }
}

/// Returns where `response` points, without a user part.
pub(super) fn location(response: &Response) -> Option<Url> {
    let mut url = response.url().join(response.headers().get(LOCATION)?.to_str().ok()?).ok()?;
    // Both fail only for addresses without a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some(url)
}
