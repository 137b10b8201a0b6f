//! Authorization: what a registry asks for, and the tokens and logins that answer it (distribution's token
//! specification, RFC 6750, RFC 7617).
//!
//! A registry is asked `GET /v2/` once; its challenge says whether it wants a login, a token, or nothing. Tokens are
//! fetched when a request needs them and kept until shortly before they end or the registry refuses them. A token
//! service that fails is an error: going on without a token would turn an outage into "denied" or "absent".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_auth::parser::ChallengeParser;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::channel::Channels;
use super::counters::Counters;
use super::credentials::{CredentialSources, Login, Secret};
use super::endpoint::Endpoint;
use super::error::{REFUSAL_LIMIT, RegistryError, Request, Said, redacted};
use super::helper::Answers;
use super::retry;

/// What a request needs to be allowed, in the token specification's words, for example `repository:a/b:pull,push`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Scope(BTreeSet<String>);

impl Scope {
    pub fn pull(repository: &str) -> Self {
        Self([format!("repository:{repository}:pull")].into())
    }

    pub fn push(repository: &str) -> Self {
        Self([format!("repository:{repository}:pull,push")].into())
    }

    /// Adds the right to read `repository`, for mounting its blobs.
    pub fn and_pull(mut self, repository: &str) -> Self {
        self.0.insert(format!("repository:{repository}:pull"));
        self
    }
}

/// The value of an `Authorization` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Authorization {
    Bearer(Secret),
    Basic { user: String, password: Secret },
}

impl Authorization {
    pub fn header(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::Bearer(token) => format!("Bearer {}", token.reveal()),
            Self::Basic { user, password } => format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal()))),
        };
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// What a registry asks for.
#[derive(Clone, Debug)]
enum Challenge {
    Basic,
    Bearer { realm: Url, service: Option<String>, scopes: Vec<String> },
}

/// What is known about one host.
#[derive(Default)]
struct Host {
    door: Mutex<Door>,
    /// One lock for each scope: many repositories' tokens are fetched at once, each only once.
    tokens: std::sync::Mutex<BTreeMap<Scope, Arc<Mutex<Slot>>>>,
}

#[derive(Default)]
struct Door {
    /// Whether the host was asked for its challenge.
    asked: bool,
    challenge: Option<Challenge>,
    /// What credential helpers answered.
    answers: Answers,
}

#[derive(Default)]
struct Slot {
    token: Option<Token>,
    /// Scopes that the host named when it refused a token of ours.
    named: BTreeSet<String>,
}

struct Token {
    value: Secret,
    until: Instant,
}

/// The authorizations of one run.
pub(super) struct Keyring {
    sources: CredentialSources,
    channels: Arc<Channels>,
    counters: Arc<Counters>,
    hosts: std::sync::Mutex<BTreeMap<String, Arc<Host>>>,
}

impl Keyring {
    pub fn new(sources: CredentialSources, channels: Arc<Channels>, counters: Arc<Counters>) -> Self {
        Self { sources, channels, counters, hosts: std::sync::Mutex::default() }
    }

    fn host(&self, endpoint: &Endpoint) -> Arc<Host> {
        let mut hosts = self.hosts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(hosts.entry(endpoint.host.clone()).or_default())
    }

    /// Returns what to send to `endpoint` for `scope` in `repository`, or `None` when it wants nothing or we have
    /// nothing. At most one caller at a time asks for the same token; the others use the answer.
    pub async fn authorization(
        &self,
        endpoint: &Endpoint,
        repository: &str,
        scope: &Scope,
    ) -> Result<Option<Authorization>, RegistryError> {
        let host = self.host(endpoint);
        let challenge = {
            let mut door = host.door.lock().await;
            if !door.asked {
                door.challenge = self.ask(endpoint).await?;
                door.asked = true;
            }
            door.challenge.clone()
        };
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.login(&host, endpoint, repository).await? {
                Some(Login::Password { user, password }) => Ok(Some(Authorization::Basic { user, password })),
                Some(Login::Bearer(token)) => Ok(Some(Authorization::Bearer(token))),
                Some(Login::Identity(_)) | None => Ok(None),
            },
            Some(Challenge::Bearer { realm, service, .. }) => {
                let slot = host.slot(scope);
                let mut slot = slot.lock().await;
                if let Some(token) = slot.token.as_ref().filter(|token| token.until > Instant::now()) {
                    return Ok(Some(Authorization::Bearer(token.value.clone())));
                }
                let login = self.login(&host, endpoint, repository).await?;
                if let Some(Login::Bearer(token)) = login {
                    return Ok(Some(Authorization::Bearer(token)));
                }
                let scopes = scope.0.union(&slot.named).cloned().collect();
                let token = self.exchange(Exchange { endpoint, realm, service, scopes }, login).await?;
                let value = token.value.clone();
                slot.token = Some(token);
                Ok(Some(Authorization::Bearer(value)))
            }
        }
    }

    /// Takes note that `endpoint` refused `sent`, with the challenge in `headers`: what is sent next is fetched anew.
    pub async fn refused(&self, endpoint: &Endpoint, scope: &Scope, sent: Option<&Authorization>, headers: &HeaderMap) {
        let host = self.host(endpoint);
        let slot = host.slot(scope);
        let mut slot = slot.lock().await;
        let mut door = host.door.lock().await;
        if let Some(challenge) = read_challenge(headers) {
            if let Challenge::Bearer { scopes, .. } = &challenge {
                slot.named.extend(scopes.iter().cloned());
            }
            door.challenge = Some(challenge);
        }
        door.answers.clear();
        // Somebody else may have fetched a new one since ours was sent.
        if let Some(Authorization::Bearer(sent)) = sent {
            slot.token = slot.token.take().filter(|token| token.value != *sent);
        }
    }

    async fn login(&self, host: &Host, endpoint: &Endpoint, repository: &str) -> Result<Option<Login>, RegistryError> {
        let mut door = host.door.lock().await;
        let found = self.sources.find(&endpoint.host, repository, &mut door.answers).await;
        found.map_err(|source| RegistryError::Credentials { host: endpoint.host.clone(), source })
    }

    /// Asks for the challenge, and finds out whether this is a registry at all.
    async fn ask(&self, endpoint: &Endpoint) -> Result<Option<Challenge>, RegistryError> {
        let url = endpoint.base().ok_or_else(|| RegistryError::Redirect { host: endpoint.host.clone() })?;
        let request = Request::new(Method::GET, &url, "");
        self.counters.requested(1);
        let sent = self.channels.client(endpoint.plain)?.get(url.clone()).send().await;
        let response = sent.map_err(|error| RegistryError::no_answer(request.clone(), error))?;
        let status = response.status();
        match status.as_u16() {
            401 => Ok(read_challenge(response.headers())),
            404 => Err(RegistryError::NotARegistry { host: endpoint.host.clone(), url: redacted(&url), status }),
            408 | 425 | 429 | 500..=599 => Err(refusal(request, response).await),
            // Some refuse this one address to everybody and still serve what is below it.
            _ => Ok(None),
        }
    }

    async fn exchange(&self, exchange: Exchange<'_>, login: Option<Login>) -> Result<Token, RegistryError> {
        let Exchange { endpoint, realm, service, scopes } = exchange;
        if !endpoint.may_lead_to(&realm) {
            return Err(RegistryError::PlainHttp { host: endpoint.host.clone(), url: redacted(&realm) });
        }
        let client = self.channels.client(realm.scheme() == "http")?;
        let (request, builder) = match login {
            Some(Login::Identity(token)) => {
                let scopes = scopes.into_iter().collect::<Vec<_>>().join(" ");
                // A query and a form are written alike.
                let mut form = realm.clone();
                form.set_query(None);
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("refresh_token", token.reveal())
                    .append_pair("client_id", env!("CARGO_PKG_NAME"))
                    .append_pair("service", service.as_deref().unwrap_or_default())
                    .append_pair("scope", &scopes);
                let builder = client
                    .post(realm.clone())
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned());
                (Request::new(Method::POST, &realm, ""), builder)
            }
            login => {
                let mut url = realm.clone();
                {
                    let mut query = url.query_pairs_mut();
                    if let Some(service) = &service {
                        query.append_pair("service", service);
                    }
                    for scope in &scopes {
                        query.append_pair("scope", scope);
                    }
                }
                let request = Request::new(Method::GET, &url, "");
                let mut builder = client.get(url);
                if let Some(Login::Password { user, password }) = login
                    && let Some(value) = (Authorization::Basic { user, password }).header()
                {
                    builder = builder.header(AUTHORIZATION, value);
                }
                (request, builder)
            }
        };
        self.counters.requested(1);
        let response = builder.send().await.map_err(|error| RegistryError::no_answer(request.clone(), error))?;
        read_token(endpoint, request, response).await
    }
}

impl Host {
    fn slot(&self, scope: &Scope) -> Arc<Mutex<Slot>> {
        let mut tokens = self.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Arc::clone(tokens.entry(scope.clone()).or_default())
    }
}

/// A request for a token.
struct Exchange<'a> {
    endpoint: &'a Endpoint,
    realm: Url,
    service: Option<String>,
    scopes: BTreeSet<String>,
}

async fn read_token(endpoint: &Endpoint, request: Request, response: Response) -> Result<Token, RegistryError> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<Secret>,
        access_token: Option<Secret>,
        expires_in: Option<u64>,
    }
    let host = endpoint.host.clone();
    let (status, retry_after) = (response.status(), pause_of(response.headers()));
    let body = read_body(response, REFUSAL_LIMIT * 4).await.map_err(|e| RegistryError::no_answer(request.clone(), e))?;
    if status != StatusCode::OK {
        // A redirect lands here too: it could lead the login anywhere.
        return Err(RegistryError::Token { host, request: Box::new(request), status, said: Said::read(&body), retry_after });
    }
    let answer = serde_json::from_slice::<Answer>(&body).ok();
    let seconds = answer.as_ref().and_then(|answer| answer.expires_in).unwrap_or(60).max(60);
    let value = answer.and_then(|answer| answer.token.or(answer.access_token)).filter(|token| !token.reveal().is_empty());
    let value = value.ok_or(RegistryError::NoToken { host, request: Box::new(request) })?;
    // A tenth less than promised, so that a token does not end between here and the registry.
    Ok(Token { value, until: Instant::now() + Duration::from_secs(seconds.min(86_400) * 9 / 10) })
}

/// Returns the challenge to be met: a token before a login, as registries that offer both want it.
fn read_challenge(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        for challenge in ChallengeParser::new(value).map_while(Result::ok) {
            let parameter = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("Bearer")
                && let Some(mut realm) = parameter("realm").and_then(|realm| Url::parse(&realm).ok())
            {
                // Both fail only for addresses without a host.
                let _ = realm.set_username("");
                let _ = realm.set_password(None);
                let scopes = parameter("scope").map(|s| s.split_whitespace().map(str::to_owned).collect()).unwrap_or_default();
                return Some(Challenge::Bearer { realm, service: parameter("service"), scopes });
            }
            if challenge.scheme.eq_ignore_ascii_case("Basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// Returns the error that `response` is.
pub(super) async fn refusal(request: Request, response: Response) -> RegistryError {
    let (status, retry_after) = (response.status(), pause_of(response.headers()));
    // A body that breaks off still had its status.
    let said = read_body(response, REFUSAL_LIMIT).await.map(|body| Said::read(&body)).unwrap_or_default();
    RegistryError::Refused { request: Box::new(request), status, said, retry_after }
}

fn pause_of(headers: &HeaderMap) -> Option<Duration> {
    retry::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?, std::time::SystemTime::now())
}

/// Reads at most `limit` bytes of a body.
pub(super) async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while body.len() < limit
        && let Some(chunk) = response.chunk().await?
    {
        body.extend_from_slice(&chunk[..chunk.len().min(limit - body.len())]);
    }
    Ok(body)
}
