//! The oracle: reads everything below a descriptor and recomputes what can be recomputed.

use std::collections::BTreeSet;
use std::io::{self, Read};

use bytes::Bytes;
use tokio_util::io::SyncIoBridge;

use crate::archive::Compression;
use crate::content::{BlobReader, ContentError, ContentSource, DOCUMENT_LIMIT, read_whole};
use crate::oci::{Descriptor, DiffId, Digest, Document, Hasher, ImageConfig, Manifest, MediaType, Platform, VerifyError};

/// What was found to be right.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Valid {
    /// Platforms of the images, sorted.
    pub platforms: Vec<Platform>,
    /// Attestation manifests.
    pub attestations: usize,
    /// Documents and blobs that were read.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What is wrong with one piece of content.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// It is not there.
    #[error("{0} is missing")]
    Missing(Digest),
    /// Its bytes are not what the descriptor says.
    #[error("{0} is damaged: {1}")]
    Damaged(Digest, VerifyError),
    /// It is no document of its media type.
    #[error("{0} is no valid {1}: {2}")]
    Document(Digest, String, serde_json::Error),
    /// The document says it is something else than its descriptor does.
    #[error("{digest} is called `{descriptor}` and calls itself `{own}`")]
    MediaType {
        /// The document.
        digest: Digest,
        /// Media type in the descriptor.
        descriptor: String,
        /// Media type in the document.
        own: String,
    },
    /// An image's config names more or fewer layers than its manifest.
    #[error("image {digest} has {layers} layers and {diff_ids} diff ids")]
    LayerCount {
        /// The manifest.
        digest: Digest,
        /// Layers of the manifest.
        layers: usize,
        /// Diff ids of the config.
        diff_ids: usize,
    },
    /// An image's history tells of more or fewer layers than there are.
    #[error("image {digest} has {layers} layers and a history of {history}")]
    History {
        /// The manifest.
        digest: Digest,
        /// Layers of the manifest.
        layers: usize,
        /// Steps of the history that made a layer.
        history: usize,
    },
    /// A layer decompresses to something else than the config says.
    #[error("layer {layer} decompresses to {actual} where {expected} was promised")]
    DiffId {
        /// The layer.
        layer: Digest,
        /// Diff id in the config.
        expected: DiffId,
        /// Diff id of the bytes.
        actual: DiffId,
    },
    /// A layer is not in the compression that its media type says, or not a tar.
    #[error("layer {0} is no valid {1}: {2}")]
    Layer(Digest, String, io::Error),
    /// An index says another platform than the image's config.
    #[error("image {digest} is listed as {listed} and is {own}")]
    Platform {
        /// The manifest.
        digest: Digest,
        /// Platform in the index.
        listed: Platform,
        /// Platform in the config.
        own: Platform,
    },
    /// An attestation is about an image that its index does not list.
    #[error("attestation {digest} is about {subject}, which is not listed")]
    Subject {
        /// The attestation manifest.
        digest: Digest,
        /// What it says it is about.
        subject: String,
    },
    /// The same platform is listed twice.
    #[error("index {digest} lists {platform} more than once")]
    Twice {
        /// The index.
        digest: Digest,
        /// The platform.
        platform: Platform,
    },
}

/// Why an image is not valid, or could not be validated.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// It could be read, and this is wrong with it; never empty.
    #[error("{root} is not valid: {}", list(.problems))]
    Invalid {
        /// The root.
        root: Digest,
        /// All problems, in the order of reading.
        problems: Vec<Invalid>,
    },
    /// It could not be told.
    #[error("{root} cannot be read")]
    Content {
        /// The root.
        root: Digest,
        /// What failed.
        #[source]
        source: Box<ContentError>,
    },
}

fn list(problems: &[Invalid]) -> String {
    problems.iter().map(Invalid::to_string).collect::<Vec<_>>().join("; ")
}

/// Reads everything below `root` and checks digests, sizes, media types, diff ids, platforms and attestation subjects.
///
/// # Errors
/// [`ValidateError::Invalid`] with every problem.
pub async fn validate(source: &dyn ContentSource, root: &Descriptor) -> Result<Valid, ValidateError> {
    let mut run = Run { source, problems: Vec::new(), valid: Valid::default(), seen: BTreeSet::new() };
    run.document(root).await.map_err(|source| ValidateError::Content { root: root.digest, source: Box::new(source) })?;
    if !run.problems.is_empty() {
        return Err(ValidateError::Invalid { root: root.digest, problems: run.problems });
    }
    run.valid.platforms.sort();
    Ok(run.valid)
}

struct Run<'a> {
    source: &'a dyn ContentSource,
    problems: Vec<Invalid>,
    valid: Valid,
    seen: BTreeSet<Digest>,
}

impl Run<'_> {
    /// Walks from `root` with a list of its own instead of recursion: an index may be nested as deep as it likes.
    async fn document(&mut self, root: &Descriptor) -> Result<(), ContentError> {
        let mut pending = vec![root.clone()];
        while let Some(descriptor) = pending.pop() {
            if !self.seen.insert(descriptor.digest) {
                continue;
            }
            let Some(bytes) = self.read(&descriptor).await? else { continue };
            match Document::parse(&descriptor.media_type, &bytes) {
                Err(error) => self.problems.push(Invalid::Document(descriptor.digest, descriptor.media_type.clone(), error)),
                Ok(Some(Document::Index(index))) => {
                    self.check_media_type(&descriptor, index.media_type.as_deref());
                    self.check_children(&descriptor, &index.manifests);
                    pending.extend(index.manifests.into_iter().rev());
                }
                Ok(Some(Document::Manifest(manifest))) => {
                    self.check_media_type(&descriptor, manifest.media_type.as_deref());
                    self.image(&descriptor, &manifest).await?;
                }
                Ok(None) => {}
            }
        }
        Ok(())
    }

    fn check_media_type(&mut self, descriptor: &Descriptor, own: Option<&str>) {
        if let Some(own) = own.filter(|own| *own != descriptor.media_type) {
            let (digest, own) = (descriptor.digest, own.to_owned());
            self.problems.push(Invalid::MediaType { digest, descriptor: descriptor.media_type.clone(), own });
        }
    }

    fn check_children(&mut self, index: &Descriptor, children: &[Descriptor]) {
        let mut platforms = BTreeSet::new();
        for child in children {
            if child.is_attestation() {
                let subject = child.annotations.get("vnd.docker.reference.digest").cloned().unwrap_or_default();
                if !children.iter().any(|other| other.digest.to_string() == subject) {
                    self.problems.push(Invalid::Subject { digest: child.digest, subject });
                }
            } else if let Some(platform) = child.platform.clone().filter(|p| !p.is_unknown())
                && !platforms.insert(platform.clone())
            {
                self.problems.push(Invalid::Twice { digest: index.digest, platform });
            }
        }
    }

    async fn image(&mut self, descriptor: &Descriptor, manifest: &Manifest) -> Result<(), ContentError> {
        let Some(bytes) = self.read(&manifest.config).await? else { return Ok(()) };
        let is_image = matches!(manifest.config.media_type.as_str(), MediaType::CONFIG | MediaType::DOCKER_CONFIG);
        let config = match serde_json::from_slice::<ImageConfig>(&bytes) {
            Ok(config) => config,
            // Artifacts have configs of their own, often `{}`.
            Err(_) if !is_image => return self.blobs(&manifest.layers).await,
            Err(error) => {
                let media_type = manifest.config.media_type.clone();
                self.problems.push(Invalid::Document(manifest.config.digest, media_type, error));
                return self.blobs(&manifest.layers).await;
            }
        };
        self.check_config(descriptor, manifest, &config);
        for (n, layer) in manifest.layers.iter().enumerate() {
            self.layer(layer, config.rootfs.diff_ids.get(n).copied()).await?;
        }
        Ok(())
    }

    fn check_config(&mut self, descriptor: &Descriptor, manifest: &Manifest, config: &ImageConfig) {
        let (digest, layers) = (descriptor.digest, manifest.layers.len());
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids != layers {
            self.problems.push(Invalid::LayerCount { digest, layers, diff_ids });
        }
        let history = config.history.iter().filter(|step| !step.empty_layer).count();
        if !config.history.is_empty() && history != layers {
            self.problems.push(Invalid::History { digest, layers, history });
        }
        if descriptor.is_attestation() {
            self.valid.attestations += 1;
            return;
        }
        let own = &config.platform;
        let own =
            Platform { os_version: own.os_version.clone(), ..Platform::new(&own.os, &own.architecture, own.variant.as_deref()) };
        match &descriptor.platform {
            // An index may leave the variant out, and then means the least one.
            Some(listed) if !own.satisfies(listed) => {
                self.problems.push(Invalid::Platform { digest, listed: listed.clone(), own: own.clone() });
            }
            _ => self.valid.platforms.push(own),
        }
    }

    async fn blobs(&mut self, blobs: &[Descriptor]) -> Result<(), ContentError> {
        for blob in blobs {
            self.layer(blob, None).await?;
        }
        Ok(())
    }

    async fn layer(&mut self, layer: &Descriptor, expected: Option<DiffId>) -> Result<(), ContentError> {
        // One layer may stand twice in an image, and in several; each use has a diff id of its own to agree with.
        let Some(blob) = self.open(layer).await? else { return Ok(()) };
        let compression = Compression::of_media_type(&layer.media_type);
        let handle = tokio::runtime::Handle::current();
        let reading =
            tokio::task::spawn_blocking(move || digest_through(SyncIoBridge::new_with_handle(blob, handle), compression));
        let outcome = reading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        match outcome {
            Ok(actual) => {
                if let Some(expected) = expected.filter(|expected| *expected != actual) {
                    self.problems.push(Invalid::DiffId { layer: layer.digest, expected, actual });
                }
                self.count(layer);
            }
            Err(error) => match damage(&error) {
                Some(damage) => self.problems.push(Invalid::Damaged(layer.digest, damage)),
                None => self.problems.push(Invalid::Layer(layer.digest, layer.media_type.clone(), error)),
            },
        }
        Ok(())
    }

    fn count(&mut self, descriptor: &Descriptor) {
        self.valid.blobs += 1;
        self.valid.bytes += descriptor.size;
    }

    async fn open(&mut self, descriptor: &Descriptor) -> Result<Option<BlobReader>, ContentError> {
        match self.source.open(descriptor).await {
            Ok(reader) => Ok(Some(reader)),
            Err(ContentError::Missing { digest, .. }) => {
                self.problems.push(Invalid::Missing(digest));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&mut self, descriptor: &Descriptor) -> Result<Option<Bytes>, ContentError> {
        match read_whole(self.source, descriptor, DOCUMENT_LIMIT).await {
            Ok(bytes) => {
                self.count(descriptor);
                Ok(Some(bytes))
            }
            Err(ContentError::Missing { digest, .. }) => {
                self.problems.push(Invalid::Missing(digest));
                Ok(None)
            }
            Err(error) => match std::error::Error::source(&error).and_then(|e| e.downcast_ref::<io::Error>()).and_then(damage) {
                Some(damage) => {
                    self.problems.push(Invalid::Damaged(descriptor.digest, damage));
                    Ok(None)
                }
                None => Err(error),
            },
        }
    }
}

fn damage(error: &io::Error) -> Option<VerifyError> {
    error.get_ref()?.downcast_ref::<VerifyError>().cloned()
}

/// Reads `blob` to its end and returns the digest of what it decompresses to; of the blob itself when it is no layer.
fn digest_through(mut blob: impl Read + Send, compression: Option<Compression>) -> io::Result<DiffId> {
    let result = compression.unwrap_or(Compression::None).decode(&mut blob).and_then(hash);
    if result.is_err() {
        // Damage shows itself first as a decoder's complaint; the blob's own end tells whether it was that.
        io::copy(&mut blob, &mut io::sink())?;
    }
    result
}

fn hash(mut reader: impl Read) -> io::Result<DiffId> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(DiffId(hasher.finish())),
            count => hasher.update(&buffer[..count]),
        }
    }
}
