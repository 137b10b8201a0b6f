//! The HTTP clients: one of our own for each scheme, and oci-client's for blobs.

use std::sync::{Mutex, PoisonError};

use oci_client::client::{Certificate as OciCertificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use rustls::pki_types::CertificateDer;

use super::auth::Authorization;
use super::clients::{CONNECT_LIMIT, Clients, USER_AGENT};
use super::endpoint::Endpoint;
use super::error::RegistryError;

/// The clients of one run, made when first needed.
pub(super) struct Channels {
    clients: Clients,
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
    pub fn new(clients: Clients) -> Self {
        Self { clients, blobs: Mutex::default() }
    }

    /// Returns the client for `plain` or encrypted addresses. It follows no redirect.
    pub fn client(&self, plain: bool) -> Result<&reqwest::Client, RegistryError> {
        self.clients.client(plain)
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
            self.clients.certificates().iter().map(certificate).collect()
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
