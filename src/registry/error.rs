//! What can go wrong with a registry, with the evidence: what was asked, of whom, and what was answered.
//!
//! [`ErrorClass`] is decided here, once, from the status or the cause. Texts never hold a secret: addresses lose their
//! query and user part before they get here.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, StatusCode, Url};

use crate::content::{ContentError, ErrorClass};
use crate::oci::{Digest, VerifyError};

use super::credentials::CredentialError;

/// Longest body of a refusal that is looked at; a registry's own are a few hundred bytes.
pub const REFUSAL_LIMIT: usize = 64 << 10;
/// Longest message of a registry that is shown.
const SHOWN: usize = 300;

/// One HTTP request, as errors name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The HTTP method.
    pub method: Method,
    /// The address without query, fragment and user part.
    pub url: String,
    /// Host with an optional port.
    pub host: String,
    /// Path of the repository on that host; empty when the request is about none.
    pub repository: String,
}

impl Request {
    pub(super) fn new(method: Method, url: &Url, repository: &str) -> Self {
        Self { method, url: redacted(url), host: host_of(url), repository: repository.to_owned() }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// Returns `url` without what may be secret: signed addresses carry their signature in the query.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Both fail only for addresses without a host, which hold no user part either.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.into()
}

pub(super) fn host_of(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => String::new(),
    }
}

/// What a registry said beside the status (distribution-spec, "Error Codes").
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Said {
    /// The code, for example `TOOMANYREQUESTS`; empty when the body was not of the specified form.
    pub code: String,
    /// The message, or the beginning of the body.
    pub message: String,
}

impl Said {
    pub(super) fn new(code: &str, message: &str) -> Self {
        Self { code: plain(code), message: plain(message) }
    }

    /// Reads the body of a refusal.
    pub(super) fn read(body: &[u8]) -> Self {
        #[derive(serde::Deserialize)]
        struct Envelope {
            errors: Vec<Entry>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            code: Option<String>,
            message: Option<String>,
        }
        let body = &body[..body.len().min(REFUSAL_LIMIT)];
        if let Some(entry) = serde_json::from_slice::<Envelope>(body).ok().and_then(|e| e.errors.into_iter().next()) {
            return Self::new(&entry.code.unwrap_or_default(), &entry.message.unwrap_or_default());
        }
        Self::new("", &String::from_utf8_lossy(body))
    }
}

/// Returns the beginning of `text` on one line: it comes from elsewhere and goes to a terminal.
fn plain(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => Ok(()),
            ("", text) | (text, "") => write!(f, ": {text}"),
            (code, message) => write!(f, ": {code}: {message}"),
        }
    }
}

/// Why a registry could not be asked, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The run is offline.
    #[error("{request} was not sent: the run is offline")]
    Offline {
        /// What was to be asked.
        request: Box<Request>,
    },
    /// The registry answered with a status other than what was asked for.
    #[error("{request} was answered with {status}{said}{}", after(.retry_after))]
    Refused {
        /// What was asked.
        request: Box<Request>,
        /// The HTTP status.
        status: StatusCode,
        /// Code and message.
        said: Said,
        /// How long the registry wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// No answer: name not found, connection refused or broken, time limit.
    #[error("{request} got no answer")]
    NoAnswer {
        /// What was asked.
        request: Box<Request>,
        /// What failed, without the address.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
        /// Whether the server's certificate is the reason, which repeating cannot change.
        certificate: bool,
    },
    /// The answer broke off, and could not be resumed.
    #[error("the answer to {request} broke off")]
    BrokeOff {
        /// What was asked.
        request: Box<Request>,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The source of an upload failed, not the registry.
    #[error("the content for {request} cannot be read")]
    Source {
        /// What was being sent.
        request: Box<Request>,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The bytes are not what their digest says.
    #[error("the answer to {request} is damaged")]
    Damaged {
        /// What was asked.
        request: Box<Request>,
        /// How they differ.
        #[source]
        source: Box<VerifyError>,
    },
    /// A document larger than any manifest may be.
    #[error("the answer to {request} is larger than {limit} bytes")]
    TooLarge {
        /// What was asked.
        request: Box<Request>,
        /// The most that is read.
        limit: u64,
    },
    /// A success that lacks what the specification demands, such as a `Location`.
    #[error("the answer to {request} breaks the distribution specification: {rule}")]
    Specification {
        /// What was asked.
        request: Box<Request>,
        /// The rule, in a few words.
        rule: &'static str,
    },
    /// What answers there is no registry: nothing it says about absence can be trusted.
    #[error("{host} answered {url} with {status}: it is not a registry")]
    NotARegistry {
        /// The host.
        host: String,
        /// The address that every registry answers.
        url: String,
        /// The HTTP status.
        status: StatusCode,
    },
    /// The token service gave no token.
    #[error("{host} wants a token, and {request} was answered with {status}{said}")]
    Token {
        /// The registry that wants the token.
        host: String,
        /// The request to the token service.
        request: Box<Request>,
        /// The HTTP status.
        status: StatusCode,
        /// Code and message.
        said: Said,
        /// How long the service wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// A success of the token service without a token in it.
    #[error("{host} wants a token, and the answer to {request} holds none")]
    NoToken {
        /// The registry that wants the token.
        host: String,
        /// The request to the token service.
        request: Box<Request>,
    },
    /// Following this would send credentials or tags in the clear.
    #[error("{host} leads to {url}, which is not encrypted")]
    PlainHttp {
        /// The registry that led there.
        host: String,
        /// Where it leads, redacted.
        url: String,
    },
    /// An address that is none, or too many redirects.
    #[error("{host} leads to an address that cannot be followed")]
    Redirect {
        /// The registry that led there.
        host: String,
    },
    /// Credentials are configured and cannot be read.
    #[error("cannot get the credentials for {host}")]
    Credentials {
        /// The registry.
        host: String,
        /// What failed.
        #[source]
        source: CredentialError,
    },
    /// The descriptor's document is in no known form.
    #[error("the answer to {request} is no manifest and no index")]
    Document {
        /// What was asked.
        request: Box<Request>,
    },
    /// A name cannot be given to what is not there.
    #[error("{repository} does not have {digest}")]
    NoRoot {
        /// The repository.
        repository: String,
        /// What was to be named.
        digest: Box<Digest>,
    },
    /// A mirror setting that is not `[REGISTRY=]URL`.
    #[error("mirror `{0}` is not `[REGISTRY=]URL` with a URL that starts with `http://` or `https://`")]
    MirrorSetting(String),
    /// A file of certificates cannot be read.
    #[error("cannot read certificates from `{}`", path.display())]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A file of certificates holds none.
    #[error("`{}` holds no PEM certificate", .0.display())]
    NoCertificate(PathBuf),
    /// The HTTP client cannot be made, for example because the system has no CA certificates.
    #[error("cannot prepare encrypted connections; are CA certificates installed?")]
    Client(#[source] Box<dyn StdError + Send + Sync>),
}

fn after(pause: &Option<Duration>) -> String {
    pause.map(|pause| format!(" (wants to be left alone for {} s)", pause.as_secs())).unwrap_or_default()
}

impl RegistryError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Refused { said, .. } if matches!(said.code.as_str(), "DIGEST_INVALID" | "SIZE_INVALID") => ErrorClass::Damaged,
            Self::Refused { status, .. } | Self::Token { status, .. } => class_of(*status),
            Self::NoAnswer { certificate, .. } => {
                if *certificate {
                    ErrorClass::Permanent
                } else {
                    ErrorClass::Retryable
                }
            }
            Self::BrokeOff { .. } => ErrorClass::Retryable,
            Self::Damaged { .. } => ErrorClass::Damaged,
            Self::Source { source, .. } => class_of_source(source),
            Self::Credentials { source, .. } => source.class(),
            Self::NoToken { .. } => ErrorClass::Denied,
            Self::Offline { .. }
            | Self::TooLarge { .. }
            | Self::Specification { .. }
            | Self::NotARegistry { .. }
            | Self::PlainHttp { .. }
            | Self::Redirect { .. }
            | Self::Document { .. }
            | Self::NoRoot { .. }
            | Self::MirrorSetting(_)
            | Self::CertificateFile { .. }
            | Self::NoCertificate(_)
            | Self::Client(_) => ErrorClass::Permanent,
        }
    }

    /// Returns whether the registry refused with this code.
    pub(super) fn said(&self, code: &str) -> bool {
        matches!(self, Self::Refused { said, .. } if said.code == code)
    }

    /// Returns whether no registry could be reached at all, as apart from one that refused.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::NotARegistry { .. } | Self::Client(_))
    }

    /// Returns whether it was not even tried because the run is offline.
    pub fn is_offline(&self) -> bool {
        matches!(self, Self::Offline { .. })
    }

    /// Returns the request that it is about, if one was made or meant.
    pub fn request(&self) -> Option<&Request> {
        match self {
            Self::Offline { request }
            | Self::Refused { request, .. }
            | Self::NoAnswer { request, .. }
            | Self::BrokeOff { request, .. }
            | Self::Source { request, .. }
            | Self::Damaged { request, .. }
            | Self::TooLarge { request, .. }
            | Self::Specification { request, .. }
            | Self::Token { request, .. }
            | Self::NoToken { request, .. }
            | Self::Document { request } => Some(request),
            _ => None,
        }
    }

    /// Returns how long the registry or its token service wants to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } | Self::Token { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Returns this as the error of a place that holds content, telling what was done to what.
    pub fn doing(self, action: &'static str, object: impl ToString, place: impl ToString) -> ContentError {
        ContentError::Failed {
            action,
            object: object.to_string(),
            place: place.to_string(),
            class: self.class(),
            source: Box::new(self),
        }
    }

    /// Returns the error of `source`, a request that got no answer.
    pub(super) fn no_answer(request: Request, source: reqwest::Error) -> Self {
        let source = source.without_url();
        let certificate = is_certificate(&source);
        Self::NoAnswer { request: Box::new(request), source: Box::new(source), certificate }
    }
}

/// Returns what can be done about a source that failed while it was read: it may be another registry.
fn class_of_source(error: &io::Error) -> ErrorClass {
    let inner = error.get_ref();
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<RegistryError>()) {
        return error.class();
    }
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<ContentError>()) {
        return error.class();
    }
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorClass::Damaged,
        io::ErrorKind::TimedOut | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => ErrorClass::Retryable,
        _ => ErrorClass::Permanent,
    }
}

/// Returns what can be done about an HTTP status.
fn class_of(status: StatusCode) -> ErrorClass {
    match status.as_u16() {
        401 | 403 | 407 => ErrorClass::Denied,
        408 | 425 | 429 => ErrorClass::Retryable,
        409 | 412 => ErrorClass::Conflict,
        501 | 505 => ErrorClass::Permanent,
        500..=599 => ErrorClass::Retryable,
        _ => ErrorClass::Permanent,
    }
}

fn is_certificate(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(error.downcast_ref::<rustls::Error>(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        // An `io::Error` names the source of what it wraps, not what it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_one_class() {
        for (status, class) in [
            (401, ErrorClass::Denied),
            (403, ErrorClass::Denied),
            (404, ErrorClass::Permanent),
            (409, ErrorClass::Conflict),
            (412, ErrorClass::Conflict),
            (429, ErrorClass::Retryable),
            (500, ErrorClass::Retryable),
            (501, ErrorClass::Permanent),
            (503, ErrorClass::Retryable),
        ] {
            assert_eq!(class_of(StatusCode::from_u16(status).expect("a status")), class, "{status}");
        }
    }

    #[test]
    fn addresses_in_errors_hold_no_user_and_no_query() {
        let url = Url::parse("https://user:secret@h.example:8443/v2/a/blobs/uploads/1?_state=secret#x").expect("a url");
        assert_eq!(redacted(&url), "https://h.example:8443/v2/a/blobs/uploads/1");
        assert_eq!(host_of(&url), "h.example:8443");
    }

    #[test]
    fn a_refusal_is_read_in_the_specified_form_or_shown_as_it_is() {
        let said = Said::read(br#"{"errors":[{"code":"DENIED","message":"no\n\u001b[31mway","detail":{"x":1}}]}"#);
        assert_eq!(said.to_string(), ": DENIED: no [31mway");
        assert_eq!(Said::read(b"<html>\n oops</html>").to_string(), ": <html> oops</html>");
        assert_eq!(Said::read(b"").to_string(), "");
        assert_eq!(Said::read(&[b'x'; 100_000]).message.len(), SHOWN);
    }
}
