//! What a name means in a registry: a document and the images it leads to.

use std::sync::Arc;

use crate::builder::BuiltImage;
use crate::content::{ContentError, ContentSource, DOCUMENT_LIMIT, read_whole};
use crate::oci::{Descriptor, Document, ImageConfig, Index, MediaType, Platform, Reference};
use crate::registry::{RegistryError, RemoteManifest, RemoteRepository};

use super::index;

/// Why the meaning of a name in a registry cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The registry could not be asked.
    #[error("cannot read `{reference}`")]
    Registry {
        /// The name.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: Box<RegistryError>,
    },
    /// A config could not be read.
    #[error("cannot read the config of `{reference}`")]
    Config {
        /// The name.
        reference: Box<Reference>,
        /// What failed.
        #[source]
        source: Box<ContentError>,
    },
    /// The document is not what its media type says.
    #[error("`{reference}` is no valid {media_type}")]
    Document {
        /// The name.
        reference: Box<Reference>,
        /// The media type.
        media_type: String,
        /// The mistake.
        #[source]
        source: serde_json::Error,
    },
    /// It is something else than an image.
    #[error("`{reference}` is no image but {media_type}")]
    NoImage {
        /// The name.
        reference: Box<Reference>,
        /// The media type.
        media_type: String,
    },
}

impl RemoteError {
    /// Returns whether no registry could be reached at all, as apart from one that refused.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Registry { source, .. } if source.is_unreachable())
    }

    /// Returns what can be done about it.
    pub fn class(&self) -> crate::content::ErrorClass {
        match self {
            Self::Registry { source, .. } => source.class(),
            Self::Config { source, .. } => source.class(),
            Self::Document { .. } => crate::content::ErrorClass::Damaged,
            Self::NoImage { .. } => crate::content::ErrorClass::Permanent,
        }
    }
}

/// What a name means in a registry.
#[derive(Clone)]
pub struct RemoteRoot {
    /// The document, as received.
    pub manifest: RemoteManifest,
    /// What it lists; of a single image, itself.
    pub index: Index,
    /// Where everything below it can be read.
    pub source: Arc<RemoteRepository>,
}

impl RemoteRoot {
    /// Reads what `reference` means in `repository`, or returns `None` when it is known to mean nothing.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn read(repository: RemoteRepository, reference: &Reference) -> Result<Option<Self>, RemoteError> {
        let named = || Box::new(reference.clone());
        let manifest = repository.manifest(reference).await;
        let manifest = manifest.map_err(|source| RemoteError::Registry { reference: named(), source: Box::new(source) })?;
        let Some(manifest) = manifest else { return Ok(None) };
        let media_type = manifest.descriptor.media_type.clone();
        let document = Document::parse(&media_type, &manifest.bytes).map_err(|source| RemoteError::Document {
            reference: named(),
            media_type: media_type.clone(),
            source,
        })?;
        let index = match document {
            Some(Document::Index(index)) => index,
            Some(Document::Manifest(image)) => {
                let config = |source| RemoteError::Config { reference: named(), source: Box::new(source) };
                let bytes = read_whole(&repository, &image.config, DOCUMENT_LIMIT).await.map_err(config)?;
                let read: ImageConfig = serde_json::from_slice(&bytes).map_err(|source| RemoteError::Document {
                    reference: named(),
                    media_type: MediaType::CONFIG.to_owned(),
                    source,
                })?;
                let mut child = manifest.descriptor.clone();
                child.platform = Some(read.platform);
                Index::new(vec![child])
            }
            None => return Err(RemoteError::NoImage { reference: named(), media_type }),
        };
        Ok(Some(Self { manifest, index, source: Arc::new(repository) }))
    }

    /// Returns the image for `platform` with what attests to it.
    pub fn image(&self, platform: &Platform) -> Option<BuiltImage> {
        let wanted = self.index.image_for(platform)?;
        index::images(&self.index).into_iter().find(|image| image.manifest.digest == wanted.digest)
    }

    /// Returns the platforms that have an image.
    pub fn platforms(&self) -> Vec<Platform> {
        index::images(&self.index).into_iter().filter_map(|image| image.manifest.platform).collect()
    }

    /// Returns the descriptor of the document.
    pub fn descriptor(&self) -> &Descriptor {
        &self.manifest.descriptor
    }
}

/// Anything that content can be read from, shared.
pub(crate) type SharedSource = Arc<dyn ContentSource>;
