//! The HTTP clients of a run: which certificates they trust, how long they wait, whose addresses they take.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::Resolve;
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::error::RegistryError;

/// What we call ourselves to servers.
pub(super) const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
/// How long a connection may take to be made.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long a server may say nothing before the connection counts as broken.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// One client for plain and one for encrypted addresses, made when first needed.
///
/// They follow no redirect: who may be led where, and with what, is decided for each. They use the proxies that the
/// environment names.
pub struct Clients {
    certificates: Vec<CertificateDer<'static>>,
    silence: Duration,
    names: Option<Arc<dyn Resolve>>,
    plain: OnceLock<reqwest::Client>,
    encrypted: OnceLock<reqwest::Client>,
}

impl Clients {
    /// Prepares clients that trust the certificates in the PEM files `paths`, too.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn new(paths: &[PathBuf]) -> Result<Self, RegistryError> {
        let certificates = read_certificates(paths)?;
        Ok(Self { certificates, silence: SILENCE_LIMIT, names: None, plain: OnceLock::new(), encrypted: OnceLock::new() })
    }

    /// Sets how long a server may say nothing before the connection counts as broken.
    #[must_use]
    pub fn with_silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// Sets who finds the addresses of names.
    #[must_use]
    pub fn with_names(self, names: Arc<dyn Resolve>) -> Self {
        Self { names: Some(names), ..self }
    }

    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Returns the client for `plain` or encrypted addresses.
    ///
    /// # Errors
    /// When the machine has nothing to make it from.
    pub fn client(&self, plain: bool) -> Result<&reqwest::Client, RegistryError> {
        let cell = if plain { &self.plain } else { &self.encrypted };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        // reqwest panics without one.
        super::install_tls_provider();
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(self.silence)
            .redirect(Policy::none());
        if let Some(names) = &self.names {
            builder = builder.dns_resolver(names.clone());
        }
        let certificates = self.certificates.iter().map(|der| reqwest::Certificate::from_der(der));
        let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|e| RegistryError::Client(e.into()))?;
        // Without a single CA certificate on the machine no client can be made; plain HTTP needs none.
        let builder = if plain { builder.tls_certs_only(certificates) } else { builder.tls_certs_merge(certificates) };
        let client = builder.build().map_err(|e| RegistryError::Client(e.into()))?;
        Ok(cell.get_or_init(|| client))
    }
}

/// Returns the certificates in the PEM files `paths`.
fn read_certificates(paths: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let mut certificates = Vec::new();
    for path in paths {
        let before = certificates.len();
        let failed = |source: io::Error| RegistryError::CertificateFile { path: path.clone(), source };
        for certificate in CertificateDer::pem_slice_iter(&fs_err::read(path as &Path).map_err(failed)?) {
            certificates.push(certificate.map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))?);
        }
        if certificates.len() == before {
            return Err(RegistryError::NoCertificate(path.clone()));
        }
    }
    Ok(certificates)
}
