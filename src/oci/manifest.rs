//! Descriptors, manifests and indexes as JSON documents, and `Raw`, which keeps the bytes that a digest was taken of.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::platform::Platform;

/// Names of media types; constants for those that are written, predicates for those that are read.
pub struct MediaType;

impl MediaType {
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer as an uncompressed tar.
    pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A layer as a gzipped tar.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A layer as a tar compressed by zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// An in-toto statement, the layer of an attestation manifest.
    pub const IN_TOTO: &str = "application/vnd.in-toto+json";
    /// Docker's manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's gzipped layer.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    /// Returns whether `media_type` is an index of manifests, OCI's or Docker's.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, Self::INDEX | Self::DOCKER_LIST)
    }

    /// Returns whether `media_type` is a manifest of one image, OCI's or Docker's.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, Self::MANIFEST | Self::DOCKER_MANIFEST)
    }
}

/// A pointer to content: what it is, how long, and its digest (OCI image-spec, "Content Descriptors").
///
/// Fields are in the order linuxkit writes them, so that equal indexes have equal bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content.
    pub media_type: String,
    /// Length of the content in bytes.
    pub size: u64,
    /// Digest of the content.
    pub digest: Digest,
    /// The content itself, base64, for small content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Other places that have the content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations, sorted by key.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform, for children of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Type of the artifact that the content is a manifest of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Returns a descriptor with nothing but type, size and digest.
    pub fn new(media_type: &str, size: u64, digest: Digest) -> Self {
        Self {
            media_type: media_type.to_owned(),
            size,
            digest,
            data: None,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }

    /// Returns the descriptor of `bytes`.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, bytes.len() as u64, Digest::of(bytes))
    }

    /// Returns whether the content is an index or a manifest, and so refers to other content.
    pub fn is_document(&self) -> bool {
        MediaType::is_index(&self.media_type) || MediaType::is_manifest(&self.media_type)
    }

    /// Returns whether this is an attestation beside an image, as BuildKit and linuxkit mark it.
    pub fn is_attestation(&self) -> bool {
        self.annotations.get("vnd.docker.reference.type").is_some_and(|t| t == "attestation-manifest")
    }
}

/// The manifest of one image (OCI image-spec, "Image Manifest").
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Own media type; may be absent in what is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Type of the artifact, when this is not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// Layers, lowest first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// What this manifest refers to, for attached artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Annotations, sorted by key.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests, one for each platform (OCI image-spec, "Image Index").
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Own media type; may be absent in what is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Type of the artifact, when this is no list of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The children. `null`, which linuxkit writes for none, reads as empty.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// What this index refers to, for attached artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Annotations, sorted by key.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// Returns an OCI index of `manifests`, in this order.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(MediaType::INDEX.to_owned()),
            artifact_type: None,
            manifests,
            subject: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Returns the first image manifest for `platform` in index order. Attestations and children without a platform
    /// never match.
    pub fn image_for(&self, platform: &Platform) -> Option<&Descriptor> {
        self.manifests.iter().find(|child| {
            !child.is_attestation() && child.platform.as_ref().is_some_and(|p| !p.is_unknown() && p.satisfies(platform))
        })
    }
}

/// A document that refers to other content, as its media type says.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "a document is looked at and dropped, never kept in numbers")]
pub enum Document {
    /// A list of manifests.
    Index(Index),
    /// The manifest of one image.
    Manifest(Manifest),
}

impl Document {
    /// Parses `bytes` as what `media_type` says, or returns `None` for content that refers to nothing.
    ///
    /// # Errors
    /// When the bytes are not a document of that type.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        if MediaType::is_index(media_type) {
            serde_json::from_slice(bytes).map(Self::Index).map(Some)
        } else if MediaType::is_manifest(media_type) {
            serde_json::from_slice(bytes).map(Self::Manifest).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Returns what the document refers to, in its order: an index its manifests, a manifest its config and its layers.
    pub fn children(&self) -> Vec<&Descriptor> {
        match self {
            Self::Index(index) => index.manifests.iter().collect(),
            Self::Manifest(manifest) => std::iter::once(&manifest.config).chain(&manifest.layers).collect(),
        }
    }
}

fn null_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A document together with the bytes it came as: a digest is of bytes, and writing a value again may change them.
#[derive(Clone, Debug)]
pub struct Raw<T> {
    bytes: Bytes,
    digest: Digest,
    value: T,
}

impl<T> Raw<T> {
    /// Parses `bytes`.
    ///
    /// # Errors
    /// When the bytes are not JSON of this document's form.
    pub fn parse(bytes: Bytes) -> Result<Self, serde_json::Error>
    where
        T: DeserializeOwned,
    {
        let value = serde_json::from_slice(&bytes)?;
        Ok(Self { digest: Digest::of(&bytes), bytes, value })
    }

    /// Writes `value` as compact JSON in field order.
    pub fn encode(value: T) -> Self
    where
        T: Serialize,
    {
        let bytes = Bytes::from(serde_json::to_vec(&value).expect("our own documents have string keys and no failing parts"));
        Self { digest: Digest::of(&bytes), bytes, value }
    }

    /// Returns the bytes as received or written.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the SHA-256 digest of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the parsed document.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Returns the descriptor of the bytes.
    pub fn descriptor(&self, media_type: &str) -> Descriptor {
        Descriptor::new(media_type, self.bytes.len() as u64, self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_written_in_linuxkits_key_order() {
        let mut child = Descriptor::of(MediaType::MANIFEST, b"{}");
        child.platform = Some(Platform::linux("amd64"));
        let raw = Raw::encode(Index::new(vec![child]));
        assert_eq!(
            std::str::from_utf8(raw.bytes()).expect("utf-8"),
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","platform":{"architecture":"amd64","os":"linux"}}]}"#
        );
    }

    #[test]
    fn a_null_list_of_manifests_reads_as_empty() {
        let index: Index = serde_json::from_str(r#"{"schemaVersion":2,"manifests":null}"#).expect("valid");
        assert!(index.manifests.is_empty());
    }

    #[test]
    fn an_attestation_or_a_child_without_platform_is_never_an_image() {
        let mut attestation = Descriptor::of(MediaType::MANIFEST, b"a");
        attestation.platform = Some(Platform::linux("amd64"));
        attestation.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
        let bare = Descriptor::of(MediaType::MANIFEST, b"b");
        assert_eq!(Index::new(vec![attestation, bare]).image_for(&Platform::linux("amd64")), None);
    }
}
