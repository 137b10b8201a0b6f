//! The HTTP clients: one of our own for each scheme, and oci-client's for blobs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use oci_client::client::{Certificate as OciCertificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use reqwest::redirect::Policy;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::auth::Authorization;
use super::endpoint::Endpoint;
use super::error::RegistryError;

/// What we call ourselves to registries.
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long a registry may say nothing before the connection counts as broken.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// The clients of one run, made when first needed.
pub(super) struct Channels {
    certificates: Vec<CertificateDer<'static>>,
    plain: OnceLock<reqwest::Client>,
    encrypted: OnceLock<reqwest::Client>,
    blobs: Mutex<Vec<BlobClient>>,
}

/// An oci-client for one host and one authorization.
///
/// oci-client has a cache of tokens of its own, which drops those it takes for a JWT and cannot read (Google's are) and
/// those that are over by this machine's clock, and then goes on anonymously. A client that was given a fixed token
/// sends just that, so each token has its client.
struct BlobClient {
    host: String,
    authorization: Option<Authorization>,
    client: oci_client::Client,
}

/// Clients for blobs that are kept; each holds its own connections.
const BLOB_CLIENTS: usize = 32;

impl Channels {
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Self {
        Self { certificates, plain: OnceLock::new(), encrypted: OnceLock::new(), blobs: Mutex::default() }
    }

    /// Returns the client for `plain` or encrypted addresses. It follows no redirect: who may be led where, and with
    /// what, is decided for each.
    pub fn client(&self, plain: bool) -> Result<&reqwest::Client, RegistryError> {
        let cell = if plain { &self.plain } else { &self.encrypted };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        let builder = || {
            reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .connect_timeout(CONNECT_LIMIT)
                .read_timeout(SILENCE_LIMIT)
                .redirect(Policy::none())
        };
        let certificates = self.certificates.iter().map(|der| reqwest::Certificate::from_der(der));
        let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(|e| RegistryError::Client(e.into()))?;
        // Without a single CA certificate on the machine no client can be made; plain HTTP needs none.
        let builder = if plain { builder().tls_certs_only(certificates) } else { builder().tls_certs_merge(certificates) };
        let client = builder.build().map_err(|e| RegistryError::Client(e.into()))?;
        Ok(cell.get_or_init(|| client))
    }

    /// Returns oci-client for the blobs on `endpoint` under `authorization`.
    pub async fn blobs(
        &self,
        endpoint: &Endpoint,
        authorization: Option<&Authorization>,
    ) -> Result<oci_client::Client, RegistryError> {
        let kept = {
            let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = |known: &&BlobClient| known.host == endpoint.host && known.authorization.as_ref() == authorization;
            blobs.iter().find(fits).map(|known| known.client.clone())
        };
        if let Some(client) = kept {
            return Ok(client);
        }
        let client = self.blob_client(endpoint)?;
        let auth = match authorization {
            Some(Authorization::Bearer(token)) => Some(RegistryAuth::Bearer(token.reveal().to_owned())),
            // Only makes it look at its cache, where the login is put for each request.
            Some(Authorization::Basic { .. }) => Some(RegistryAuth::Anonymous),
            None => None,
        };
        if let Some(auth) = auth {
            client.store_auth_if_needed(&endpoint.host, &auth).await;
        }
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        if blobs.len() == BLOB_CLIENTS {
            blobs.remove(0);
        }
        blobs.push(BlobClient { host: endpoint.host.clone(), authorization: authorization.cloned(), client: client.clone() });
        Ok(client)
    }

    fn blob_client(&self, endpoint: &Endpoint) -> Result<oci_client::Client, RegistryError> {
        let certificates = || {
            let certificate =
                |der: &CertificateDer<'_>| OciCertificate { encoding: CertificateEncoding::Der, data: der.to_vec() };
            self.certificates.iter().map(certificate).collect()
        };
        let config = |protocol, only_ours: bool| ClientConfig {
            protocol,
            use_monolithic_push: true,
            user_agent: USER_AGENT,
            // Not `read_timeout`: it would also end an upload that takes longer.
            connect_timeout: Some(CONNECT_LIMIT),
            extra_root_certificates: certificates(),
            tls_certs_only: if only_ours { certificates() } else { Vec::new() },
            ..ClientConfig::default()
        };
        let made = if endpoint.plain {
            // Blobs may be led to encrypted storage, so the machine's CA certificates serve if there are any.
            oci_client::Client::try_from(config(ClientProtocol::Http, false))
                .or_else(|_| oci_client::Client::try_from(config(ClientProtocol::Http, true)))
        } else {
            oci_client::Client::try_from(config(ClientProtocol::Https, false))
        };
        made.map_err(|error| RegistryError::Client(error.into()))
    }
}

/// Returns the certificates in the PEM files `paths`.
pub(super) fn read_certificates(paths: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
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
