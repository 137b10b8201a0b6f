//! Registries: the verbs of the OCI distribution specification that we need, as a [`ContentSource`] and a
//! [`ContentSink`] for each repository.
//!
//! ```text
//! let registry = Registry::new(Settings::default())?;      // one for a run
//! registry.repository(&repository)                          // reads through mirrors, writes to the registry
//! registry.upstream(&repository)                            // only the registry: for deciding what to push
//! ```
//!
//! # What oci-client does, and what is done beside it
//! Blobs go through `oci-client`: download (also from an offset), upload in one `PUT` fed from a stream, and mounting.
//! Beside it, by `reqwest` directly, is done what its interface has no room for:
//!
//! - manifests: it returns neither media type nor `ETag`, sends no precondition, and reads bodies of any size;
//! - `HEAD` of manifests and blobs: it drops size and media type;
//! - lists of tags: it does not follow `Link`;
//! - tokens: it goes on anonymously when the token service fails, knows no identity tokens, and asks for one repository
//!   where a mount needs two;
//! - `Retry-After` and challenges: its errors hold no headers, so after a refusal that repeating may cure, the same is
//!   asked by a `HEAD` whose headers we see.
//!
//! The type [`RemoteRepository`] is all that the rest of the program sees of either.
//!
//! # Not knowing is not absence
//! Only the answer 404 of a host that has shown itself to be a registry means absence. Everything else that is not an
//! answer is an error with its class, after repetitions where they may help.
//!
//! [`ContentSource`]: crate::content::ContentSource
//! [`ContentSink`]: crate::content::ContentSink

mod auth;
mod blobs;
mod channel;
mod clients;
mod conditional;
mod counters;
mod credentials;
mod endpoint;
mod error;
mod helper;
mod manifests;
mod mirrors;
mod repository;
mod retry;
mod transport;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::oci::Repository;

pub use clients::Clients;
pub use conditional::TagOutcome;
pub use counters::{Counters, Traffic};
pub use credentials::{CredentialError, CredentialSources, Login, Secret};
pub use error::{RegistryError, Request, Said};
pub use helper::HelperError;
pub use manifests::RemoteManifest;
pub use mirrors::{Beyond, MirrorUrl, Mirrors};
pub use repository::{Pushed, RemoteRepository};
pub use retry::{Backoff, RetryPolicy, Retrying, retry_after};

use endpoint::Endpoint;
use transport::Transport;

/// How registries are reached in one run.
#[derive(Clone, Default)]
pub struct Settings {
    /// Who is read before the registry itself.
    pub mirrors: Mirrors,
    /// PEM files with further CA certificates, for reads and writes alike.
    pub certificate_files: Vec<PathBuf>,
    /// Registries (host with port) that may be asked by plain HTTP, beside those on this machine.
    pub insecure: Vec<String>,
    /// Where credentials come from.
    pub credentials: CredentialSources,
    /// Whether anything may be sent at all.
    pub access: Access,
    /// How much is asked of one host at a time.
    pub limits: Limits,
    /// How persistently a host is asked.
    pub retry: RetryPolicy,
    /// How long a tag is watched after it was written; see [`RemoteRepository::tag_if`].
    pub settle: Settle,
    /// Told of each repetition, from whatever task makes it.
    pub on_retry: Option<RetryObserver>,
}

/// What is told of repetitions.
pub type RetryObserver = Arc<dyn Fn(&Retrying) + Send + Sync>;

/// Whether registries may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// They may.
    #[default]
    Online,
    /// Each request is an error.
    Offline,
}

/// How many requests one host gets at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Questions and downloads, counted until the answer begins.
    pub reads: usize,
    /// Writes, uploads included, counted until they are answered.
    pub writes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reads: 16, writes: 6 }
    }
}

/// How long a tag is watched after it was written, at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settle(pub Duration);

impl Default for Settle {
    fn default() -> Self {
        Self(Duration::from_millis(500))
    }
}

/// All registries of one run: connections, tokens, limits and counts are shared by its repositories.
#[derive(Clone)]
pub struct Registry {
    transport: Arc<Transport>,
}

impl Registry {
    /// Prepares to reach registries; sends nothing. A TLS provider must be installed: [`install_tls_provider`].
    ///
    /// # Errors
    /// When a file of certificates cannot be read.
    pub fn new(settings: Settings) -> Result<Self, RegistryError> {
        Ok(Self { transport: Arc::new(Transport::new(settings)?) })
    }

    /// Returns `repository`, read through its mirrors if it has any, and written to the registry itself.
    pub fn repository(&self, repository: &Repository) -> RemoteRepository {
        let mirrors = self.transport.settings.mirrors.of(&repository.registry);
        RemoteRepository::new(Arc::clone(&self.transport), repository, mirrors, self.endpoint(repository))
    }

    /// Returns `repository` without mirrors: what the registry itself has decides what is pushed.
    pub fn upstream(&self, repository: &Repository) -> RemoteRepository {
        RemoteRepository::new(Arc::clone(&self.transport), repository, Vec::new(), self.endpoint(repository))
    }

    fn endpoint(&self, repository: &Repository) -> Endpoint {
        Endpoint::of_registry(&repository.registry, &self.transport.settings.insecure)
    }

    /// Returns how much was asked so far.
    pub fn traffic(&self) -> Traffic {
        self.transport.counters.traffic()
    }
}

/// Makes ring the process' TLS provider; call it once before the first [`Registry`]. A second call changes nothing.
pub fn install_tls_provider() {
    // Fails only when there is one already, which then serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
