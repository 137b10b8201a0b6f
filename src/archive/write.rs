//! Writing archives of images: the same images give the same bytes.
//!
//! ```text
//! oci      oci-layout · index.json · blobs/sha256/<hex> …         as buildx and skopeo write and containerd reads
//! docker   manifest.json · <hex>.json (config) · <hex>.tar[.gz] … what `docker load` reads
//! ```
//! Every member is owned by 0:0, of mode 0644 or 0755, and of time 0; blobs come in the order of their digests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use super::{ArchiveError, Compression};
use crate::oci::{Descriptor, Digest, Index, Manifest, Raw, Reference};

/// The annotation by which containerd, Docker and linuxkit find an image's full name.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation that names a root of a layout; in archives it is the tag alone, as containerd writes it.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image of an archive: its full name and its index or manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The full name, for example `docker.io/org/image:tag`.
    pub name: String,
    /// The index or manifest.
    pub root: Descriptor,
}

/// One image of a `docker save` archive, an element of its `manifest.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerImage {
    /// Member that is the config.
    pub config: String,
    /// Names, in the short form where there is one.
    #[serde(default, deserialize_with = "null_default")]
    pub repo_tags: Vec<String>,
    /// Members that are the layers, lowest first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<String>,
}

fn null_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Opens the content of a descriptor, for a writer of archives.
pub type Open<'a, E> = &'a mut dyn FnMut(&Descriptor) -> Result<Box<dyn Read + Send>, E>;

/// The content of `oci-layout`.
pub const LAYOUT_FILE: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Returns the `index.json` of a layout of `images`.
pub fn layout_index(images: &[Named]) -> Raw<Index> {
    Raw::encode(Index::new(images.iter().map(layout_entry).collect()))
}

/// Writes an OCI layout of `images`; `blobs` is everything they consist of, roots included.
///
/// # Errors
/// When a blob cannot be opened or read, or `out` cannot be written.
pub fn write_oci<E: From<ArchiveError>>(
    out: impl Write,
    images: &[Named],
    blobs: &[Descriptor],
    open: Open<'_, E>,
) -> Result<(), E> {
    let mut writer = TarWriter::new(out);
    writer.bytes("oci-layout", LAYOUT_FILE)?;
    writer.bytes("index.json", layout_index(images).bytes())?;
    let sorted: BTreeMap<(&str, Digest), &Descriptor> = blobs.iter().map(|b| ((b.digest.algorithm(), b.digest), b)).collect();
    writer.directory("blobs")?;
    let mut directories = BTreeSet::new();
    for ((algorithm, digest), blob) in sorted {
        if directories.insert(algorithm) {
            writer.directory(&format!("blobs/{algorithm}"))?;
        }
        let path = format!("blobs/{algorithm}/{}", digest.hex());
        writer.file(&path, blob.size, open(blob)?)?;
    }
    Ok(writer.finish()?)
}

fn layout_entry(image: &Named) -> Descriptor {
    let mut root = image.root.clone();
    root.annotations.insert(CONTAINERD_NAME.to_owned(), image.name.clone());
    let tag = image.name.parse::<Reference>().ok().and_then(|reference| reference.tag);
    root.annotations.insert(REF_NAME.to_owned(), tag.map_or_else(|| image.name.clone(), |tag| tag.to_string()));
    root
}

/// Writes an archive for `docker load` of `images`, each with its manifest document. Layers keep their compression, except
/// for zstd, which older engines do not read: those are decompressed.
///
/// # Errors
/// [`ArchiveError::Layer`] for layers that are no file system; others as [`write_oci`].
pub fn write_docker<E: From<ArchiveError>>(
    out: impl Write,
    images: &[(Named, Manifest)],
    diff_sizes: &mut dyn FnMut(&Descriptor) -> Result<u64, E>,
    open: Open<'_, E>,
) -> Result<(), E> {
    let mut listed: Vec<DockerImage> = Vec::new();
    let mut members = BTreeMap::new();
    for (image, manifest) in images {
        let config = format!("{}.json", manifest.config.digest.hex());
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let path = layer_path(layer)?;
            members.insert(path.clone(), layer);
            layers.push(path);
        }
        members.insert(config.clone(), &manifest.config);
        let tag = docker_name(&image.name);
        match listed.iter_mut().find(|other| other.config == config && other.layers == layers) {
            Some(same) => same.repo_tags.extend(tag),
            None => listed.push(DockerImage { config, repo_tags: tag.into_iter().collect(), layers }),
        }
    }
    let mut writer = TarWriter::new(out);
    writer.bytes("manifest.json", Raw::encode(listed).bytes())?;
    for (path, blob) in members {
        if Compression::of_media_type(&blob.media_type) == Some(Compression::Zstd) {
            let size = diff_sizes(blob)?;
            let reader = Compression::Zstd.decode(open(blob)?).map_err(ArchiveError::io("decompress a layer for"))?;
            writer.file(&path, size, reader)?;
        } else {
            writer.file(&path, blob.size, open(blob)?)?;
        }
    }
    Ok(writer.finish()?)
}

/// Returns the name by which an engine knows an image. It knows none by a digest.
fn docker_name(name: &str) -> Option<String> {
    match name.parse::<Reference>() {
        Err(_) => Some(name.to_owned()),
        Ok(reference) if reference.tag.is_none() && reference.digest.is_some() => None,
        Ok(reference) => Some(Reference { digest: None, ..reference }.familiar()),
    }
}

fn layer_path(layer: &Descriptor) -> Result<String, ArchiveError> {
    let hex = layer.digest.hex();
    match Compression::of_media_type(&layer.media_type) {
        Some(Compression::Gzip) => Ok(format!("{hex}.tar.gz")),
        Some(Compression::None | Compression::Zstd) => Ok(format!("{hex}.tar")),
        None => Err(ArchiveError::Layer { layer: layer.digest.to_string(), media_type: layer.media_type.clone() }),
    }
}

/// Writes members with nothing in their headers that could differ between two runs.
pub(super) struct TarWriter<W: Write> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    fn header(&mut self, path: &str, kind: EntryType, size: u64) -> Result<(), ArchiveError> {
        let mut header = Header::new_ustar();
        // Only our own short names come here, so that none needs an extension.
        header.set_path(path).expect("names of archives are short and relative");
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn directory(&mut self, path: &str) -> Result<(), ArchiveError> {
        self.header(&format!("{path}/"), EntryType::Directory, 0)
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.file(path, bytes.len() as u64, bytes)
    }

    pub(super) fn file(&mut self, path: &str, size: u64, data: impl Read) -> Result<(), ArchiveError> {
        self.header(path, EntryType::Regular, size)?;
        self.data(path, size, data)
    }

    /// Writes exactly `size` bytes of `data`, and the zeros after them.
    pub(super) fn data(&mut self, path: &str, size: u64, mut data: impl Read) -> Result<(), ArchiveError> {
        let content = |source| ArchiveError::Content { path: path.to_owned(), source };
        let mut buffer = vec![0; 128 << 10];
        let mut left = size;
        loop {
            let count = match data.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(content(error)),
            };
            left = left.checked_sub(count as u64).ok_or_else(|| content(io::ErrorKind::FileTooLarge.into()))?;
            self.write(&buffer[..count])?;
        }
        if left > 0 {
            return Err(content(io::ErrorKind::UnexpectedEof.into()));
        }
        self.write(&[0; 512][..(size.wrapping_neg() % 512) as usize])
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        self.out.write_all(bytes).map_err(ArchiveError::io("write"))
    }

    pub(super) fn finish(mut self) -> Result<(), ArchiveError> {
        self.write(&[0; 1024])?;
        self.out.flush().map_err(ArchiveError::io("write"))
    }
}
