//! Two images that should be one: what differs, by file and by the instruction that made it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use crate::archive::{ArchiveError, Compression, Member, Members};
use crate::oci::{Descriptor, Digest, Document, ImageConfig, Manifest};
use crate::store::{Store, StoreError};

/// Why two images cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The cache has no such image, or cannot be read.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// The manifest is none.
    #[error("{digest} is no image manifest")]
    Manifest {
        /// What it was taken for.
        digest: Digest,
    },
    /// The config is none.
    #[error("{digest} is no image config")]
    Config {
        /// The config.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A layer cannot be read.
    #[error("layer {digest} cannot be read")]
    Layer {
        /// The layer.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ArchiveError,
    },
}

impl From<StoreError> for CompareError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

/// Something that is not the same in two images.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Difference {
    /// A file of a layer.
    File {
        /// The instruction that made the layer, as the history has it; empty when it has none.
        step: String,
        /// Path in the layer, without a slash in front.
        path: String,
        /// What of it, in fixed order.
        what: Vec<Aspect>,
    },
    /// A layer that consists of the same files, but in another order or form.
    Packing {
        /// As in [`Self::File`].
        step: String,
    },
    /// The layers of two steps cannot be matched: there are more of one than of the other.
    LayerCount {
        /// Of the first.
        first: usize,
        /// Of the second.
        second: usize,
    },
    /// The config, by the path of the member in its JSON.
    Config {
        /// For example `config.Env`.
        member: String,
    },
    /// The manifest, apart from config and layers.
    Manifest,
}

/// What of a file differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Aspect {
    /// Only the first has it.
    OnlyFirst,
    /// Only the second has it.
    OnlySecond,
    /// File, directory, link, …
    Kind,
    /// The data.
    Content,
    /// Where a link leads.
    Link,
    /// Permissions.
    Mode,
    /// User or group.
    Owner,
    /// Modification time.
    Time,
    /// Extended attributes.
    Attributes,
    /// Numbers of a device.
    Device,
}

impl Aspect {
    /// Returns the word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::OnlyFirst => "only in the first",
            Self::OnlySecond => "only in the second",
            Self::Kind => "kind",
            Self::Content => "content",
            Self::Link => "link",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Time => "time",
            Self::Attributes => "attributes",
            Self::Device => "device",
        }
    }
}

/// An image in a cache.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// The cache.
    pub store: &'a Store,
    /// The image manifest.
    pub manifest: &'a Descriptor,
}

/// Returns what differs, layers in order and files by path; nothing when the manifests are the same bytes.
///
/// # Errors
/// When something of an image cannot be read, or is none.
pub fn differences(first: Side<'_>, second: Side<'_>) -> Result<Vec<Difference>, CompareError> {
    if first.manifest.digest == second.manifest.digest {
        return Ok(Vec::new());
    }
    let (one, two) = (read(first)?, read(second)?);
    let mut found = Vec::new();
    if one.manifest.layers.len() != two.manifest.layers.len() {
        let (first, second) = (one.manifest.layers.len(), two.manifest.layers.len());
        found.push(Difference::LayerCount { first, second });
    }
    let steps: Vec<&str> =
        one.config.history.iter().filter(|h| !h.empty_layer).map(|h| h.created_by.as_deref().unwrap_or_default()).collect();
    for (number, (a, b)) in one.manifest.layers.iter().zip(&two.manifest.layers).enumerate() {
        if a.digest == b.digest {
            continue;
        }
        let step = steps.get(number).copied().unwrap_or_default().to_owned();
        let files = files(&entries(first.store, a)?, &entries(second.store, b)?, &step);
        match files.is_empty() {
            true => found.push(Difference::Packing { step }),
            false => found.extend(files),
        }
    }
    let (mut a, mut b) = (one.members, two.members);
    // They follow from the layers.
    for members in [&mut a, &mut b] {
        members.retain(|path, _| !path.starts_with("rootfs."));
    }
    let paths: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for path in paths.into_iter().filter(|path| a.get(*path) != b.get(*path)) {
        found.push(Difference::Config { member: path.clone() });
    }
    if found.is_empty() {
        found.push(Difference::Manifest);
    }
    Ok(found)
}

struct Image {
    manifest: Manifest,
    config: ImageConfig,
    /// The config's JSON: members of the outermost objects, two deep.
    members: BTreeMap<String, serde_json::Value>,
}

fn read(side: Side<'_>) -> Result<Image, CompareError> {
    let digest = side.manifest.digest;
    let Some(Document::Manifest(manifest)) = side.store.document(side.manifest)? else {
        return Err(CompareError::Manifest { digest });
    };
    let no_config = |source| CompareError::Config { digest: manifest.config.digest, source };
    let bytes = side.store.read(&manifest.config)?;
    let config = serde_json::from_slice(&bytes).map_err(no_config)?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(no_config)?;
    let mut members = BTreeMap::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(inner) => members.extend(inner.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone()))),
            None => drop(members.insert(name.clone(), value.clone())),
        }
    }
    Ok(Image { manifest, config, members })
}

/// A member of a layer, as far as it is compared.
#[derive(PartialEq, Eq)]
struct Entry {
    kind: u8,
    content: blake3::Hash,
    link: Vec<u8>,
    mode: u32,
    owner: (u64, u64),
    time: u64,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    device: (u32, u32),
}

type Entries = BTreeMap<Vec<u8>, Entry>;

fn entries(store: &Store, layer: &Descriptor) -> Result<Entries, CompareError> {
    let archive = |source: ArchiveError| CompareError::Layer { digest: layer.digest, source };
    let compression = Compression::of_media_type(&layer.media_type).unwrap_or(Compression::None);
    let unreadable = |source| archive(ArchiveError::Content { path: layer.digest.to_string(), source });
    let reader = compression.decode(store.open_blob(&layer.digest)?).map_err(unreadable)?;
    let mut members = Members::new(reader);
    let mut found = Entries::new();
    while let Some(member) = members.next_member().map_err(archive)? {
        let content = hash(&mut members).map_err(unreadable)?;
        let path = member.path.strip_suffix(b"/").unwrap_or(&member.path).to_vec();
        found.insert(path, entry(&member, content));
    }
    Ok(found)
}

fn hash(data: &mut impl Read) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    io::copy(data, &mut hasher)?;
    Ok(hasher.finalize())
}

fn entry(member: &Member, content: blake3::Hash) -> Entry {
    let header = &member.header;
    let record = |name: &[u8]| {
        let value = member.records.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(&value.1).ok()?.parse::<f64>().ok().map(|number| number as u64)
    };
    let number = |name: &[u8], value: io::Result<u64>| record(name).unwrap_or_else(|| value.unwrap_or_default());
    let device = |value: io::Result<Option<u32>>| value.ok().flatten().unwrap_or_default();
    Entry {
        kind: member.kind.as_byte(),
        content,
        link: member.link.clone(),
        mode: header.mode().unwrap_or_default(),
        owner: (number(b"uid", header.uid()), number(b"gid", header.gid())),
        time: number(b"mtime", header.mtime()),
        attributes: member.records.iter().filter(|(key, _)| key.starts_with(b"SCHILY.xattr.")).cloned().collect(),
        device: (device(header.device_major()), device(header.device_minor())),
    }
}

fn files(first: &Entries, second: &Entries, step: &str) -> Vec<Difference> {
    let paths: BTreeSet<&Vec<u8>> = first.keys().chain(second.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let what = match (first.get(path), second.get(path)) {
            (Some(_), None) => vec![Aspect::OnlyFirst],
            (None, Some(_)) => vec![Aspect::OnlySecond],
            (Some(a), Some(b)) => aspects(a, b),
            (None, None) => Vec::new(),
        };
        if !what.is_empty() {
            found.push(Difference::File { step: step.to_owned(), path: String::from_utf8_lossy(path).into_owned(), what });
        }
    }
    found
}

fn aspects(a: &Entry, b: &Entry) -> Vec<Aspect> {
    let compared = [
        (a.kind != b.kind, Aspect::Kind),
        (a.content != b.content, Aspect::Content),
        (a.link != b.link, Aspect::Link),
        (a.mode != b.mode, Aspect::Mode),
        (a.owner != b.owner, Aspect::Owner),
        (a.time != b.time, Aspect::Time),
        (a.attributes != b.attributes, Aspect::Attributes),
        (a.device != b.device, Aspect::Device),
    ];
    compared.into_iter().filter(|(differs, _)| *differs).map(|(_, aspect)| aspect).collect()
}
