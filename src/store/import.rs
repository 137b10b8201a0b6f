//! Taking images out of archives: OCI layouts as buildx, skopeo, Docker and linuxkit write them, `docker save` archives old
//! and new, compressed or not, from a file or a pipe.
//!
//! Blobs go straight to the cache, verified; names are written last and all at once. What an interrupted import leaves is
//! content without a name, which the collector takes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use bytes::Bytes;

use super::{BlobWriter, Result, Root, Store, StoreError};
use crate::archive::{ArchiveError, CONTAINERD_NAME, Compression, DockerImage, ImageArchive, Part, REF_NAME, decode_any};
use crate::content::DOCUMENT_LIMIT;
use crate::oci::{Descriptor, DiffId, Digest, Document, Hasher, ImageConfig, Index, Manifest, MediaType, Raw, Reference};

/// Members up to this size stay in memory until it is known what they are, as long as all of them fit into `MEMORY`.
const SMALL: u64 = 1 << 20;
const MEMORY: u64 = 32 << 20;

impl Store {
    /// Reads an archive and returns the names it gave to images, sorted. `name` is for an archive of one image, and goes
    /// before the name in it.
    ///
    /// # Errors
    /// [`StoreError::Nameless`] when an image has no name; [`StoreError::Archive`] when the archive is none, is cut off or
    /// lacks something; [`StoreError::Refused`] when a blob is not what its name says. No name is written then.
    pub fn import(&self, input: impl Read + Send, name: Option<&str>) -> Result<Vec<Root>> {
        let (_, reader) = decode_any(input).map_err(|source| ArchiveError::Io { action: "read", source })?;
        let members = Received::read(self, ImageArchive::new(reader))?;
        let images = match (members.find("index.json"), members.find("manifest.json")) {
            (Some(_), _) => self.layout_images(&members)?,
            (None, Some(_)) => self.docker_images(&members)?,
            (None, None) => return Err(ArchiveError::NoImages.into()),
        };
        let mut roots = self.named(images, name)?;
        roots.sort_by(|a, b| a.name.cmp(&b.name));
        let pairs: Vec<_> = roots.iter().map(|root| (root.name.clone(), root.descriptor.clone())).collect();
        for root in &roots {
            if let Some(missing) = self.missing_from(&root.descriptor)?.first() {
                return Err(lacks(&blob_member(missing), &root.name));
            }
        }
        self.set_roots(&pairs)?;
        Ok(roots)
    }

    /// Gives each image its names. A name of the caller's is for the only image, or for all platforms of one.
    fn named(&self, images: Vec<Unnamed>, name: Option<&str>) -> Result<Vec<Root>> {
        let root = |name: &str, image: &Unnamed| Root { name: name.to_owned(), descriptor: image.root.clone() };
        if let Some(name) = name {
            let name = name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| Self::name_of(&reference));
            return match &images[..] {
                [only] => Ok(vec![root(&name, only)]),
                several => Ok(vec![Root { name, descriptor: self.join(several)? }]),
            };
        }
        let mut roots = Vec::new();
        for image in &images {
            if image.names.is_empty() {
                return Err(StoreError::Nameless { digest: image.root.digest });
            }
            roots.extend(image.names.iter().map(|name| root(name, image)));
        }
        Ok(roots)
    }

    /// Some tools list the platforms of one image as roots; those make an index.
    fn join(&self, images: &[Unnamed]) -> Result<Descriptor> {
        let mut children: Vec<Descriptor> = images.iter().map(|image| image.root.clone()).collect();
        let mut platforms: Vec<_> = children.iter().map(|child| child.platform.clone()).collect();
        platforms.sort();
        platforms.dedup();
        if platforms.len() != children.len() || children.is_empty() || children.iter().any(|child| child.platform.is_none()) {
            return Err(StoreError::ManyImages { images: images.len() });
        }
        for child in &mut children {
            child.annotations.retain(|key, _| key != CONTAINERD_NAME && key != REF_NAME);
        }
        children.sort_by(|a, b| a.platform.cmp(&b.platform));
        self.write(MediaType::INDEX, Raw::encode(Index::new(children)).bytes())
    }

    fn layout_images(&self, members: &Received) -> Result<Vec<Unnamed>> {
        let index: Index = members.json("index.json")?;
        let mut images = Vec::new();
        for entry in index.manifests {
            let mut names: Vec<String> = entry.annotations.get(CONTAINERD_NAME).cloned().into_iter().collect();
            if let (true, Some(name)) = (names.is_empty(), entry.annotations.get(REF_NAME)) {
                // Here people write the full name or the tag alone; a tag is no name.
                let full = name.contains(['/', ':']).then(|| name.parse::<Reference>().ok()).flatten();
                names.extend(full.map(|reference| Self::name_of(&reference)));
            }
            let root = self.root_of(entry)?;
            match images.iter_mut().find(|other: &&mut Unnamed| other.root == root) {
                Some(same) => same.names.extend(names),
                None => images.push(Unnamed { names, root }),
            }
        }
        Ok(images)
    }

    /// Returns the entry with the media type that its content has: linuxkit calls an image in its archives an index.
    fn root_of(&self, mut entry: Descriptor) -> Result<Descriptor> {
        entry.annotations.retain(|key, _| key != CONTAINERD_NAME && key != REF_NAME);
        if entry.size > DOCUMENT_LIMIT {
            return Err(ArchiveError::TooLarge { part: entry.digest.to_string(), limit: DOCUMENT_LIMIT }.into());
        }
        let bytes = match self.read(&entry) {
            Err(StoreError::Missing { digest, .. }) => return Err(lacks(&blob_member(&digest), "index.json")),
            bytes => bytes?,
        };
        if let Some(media_type) = super::content::document_type(&bytes) {
            entry.media_type = media_type;
        }
        match Document::parse(&entry.media_type, &bytes) {
            // An index of which nothing is there would be a name for nothing.
            Ok(Some(Document::Index(index))) => self.refuse_empty(&index)?,
            Ok(Some(Document::Manifest(_))) if entry.platform.is_none() && self.missing_of_image(&entry)?.is_empty() => {
                entry.platform = Some(self.platform_of(&entry)?).filter(|platform| !platform.is_unknown());
            }
            Ok(Some(Document::Manifest(_))) => {}
            Ok(None) => {
                let document = ArchiveError::Lacks { path: "an image".to_owned(), wanted_by: "index.json".to_owned() };
                return Err(document.into());
            }
            Err(source) => return Err(self.no_document(&entry, source)),
        }
        Ok(entry)
    }

    fn refuse_empty(&self, index: &Index) -> Result<()> {
        for child in &index.manifests {
            if self.sees(child)? {
                return Ok(());
            }
        }
        match index.manifests.first() {
            Some(child) => Err(lacks(&blob_member(&child.digest), "its index")),
            None => Ok(()),
        }
    }

    fn docker_images(&self, members: &Received) -> Result<Vec<Unnamed>> {
        let listed: Vec<DockerImage> = members.json("manifest.json")?;
        let mut images = Vec::new();
        for image in listed {
            let names = image
                .repo_tags
                .iter()
                .map(|tag| tag.parse::<Reference>().map_or_else(|_| tag.clone(), |reference| Self::name_of(&reference)))
                .collect();
            images.push(Unnamed { names, root: self.docker_image(members, &image)? });
        }
        Ok(images)
    }

    fn docker_image(&self, members: &Received, image: &DockerImage) -> Result<Descriptor> {
        let bytes = match members.require(&image.config)? {
            Found::Memory(bytes) => bytes.clone(),
            Found::Stored(descriptor) if descriptor.size <= DOCUMENT_LIMIT => self.read(descriptor)?,
            Found::Stored(_) => {
                return Err(ArchiveError::TooLarge { part: image.config.clone(), limit: DOCUMENT_LIMIT }.into());
            }
        };
        let damaged = |source| ArchiveError::Document { path: image.config.clone(), source };
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(damaged)?;
        let mut layers = Vec::new();
        for path in &image.layers {
            layers.push(match members.require(path)? {
                Found::Memory(bytes) => self.write("", bytes)?,
                Found::Stored(descriptor) => (**descriptor).clone(),
            });
        }
        for (n, layer) in layers.iter_mut().enumerate() {
            let expected = config.rootfs.diff_ids.get(n);
            self.check_layer(layer, expected.ok_or_else(|| lacks(&format!("diff id {}", n + 1), &image.config))?)?;
        }
        if let Some(diff_id) = config.rootfs.diff_ids.get(layers.len()) {
            return Err(lacks(&format!("layer {diff_id}"), &image.config));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::MANIFEST.to_owned()),
            artifact_type: None,
            config: self.write(MediaType::CONFIG, &bytes)?,
            layers,
            subject: None,
            annotations: BTreeMap::new(),
        };
        let mut root = self.write(MediaType::MANIFEST, Raw::encode(manifest).bytes())?;
        root.platform = Some(self.platform_of(&root)?);
        Ok(root)
    }

    /// Sets the layer's media type by its first bytes, and holds its content against the config.
    fn check_layer(&self, layer: &mut Descriptor, expected: &DiffId) -> Result<()> {
        let io = self.io("read a blob");
        let mut start = Vec::new();
        self.open_blob(&layer.digest)?.take(4).read_to_end(&mut start).map_err(&io)?;
        let compression = Compression::of_magic(&start);
        let media_type = match compression {
            Compression::None => MediaType::LAYER_TAR,
            Compression::Gzip => MediaType::LAYER_GZIP,
            Compression::Zstd => MediaType::LAYER_ZSTD,
        };
        layer.media_type = media_type.to_owned();
        let actual = match compression {
            Compression::None => layer.digest,
            _ => {
                let mut reader = compression.decode(self.open_blob(&layer.digest)?).map_err(&io)?;
                hash(&mut reader).map_err(|source| ArchiveError::Io { action: "decompress a layer of", source })?
            }
        };
        match actual == expected.0 {
            true => Ok(()),
            false => {
                let source = Box::new(crate::oci::VerifyError::Digest { expected: expected.0, actual });
                Err(StoreError::Refused { digest: expected.0, source })
            }
        }
    }
}

fn hash(reader: &mut dyn Read) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 128 << 10];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// An image of an archive and its full names.
struct Unnamed {
    names: Vec<String>,
    root: Descriptor,
}

/// The members of an archive that are no blobs of a layout.
struct Received {
    members: BTreeMap<String, Found>,
    links: crate::archive::Links,
}

enum Found {
    Memory(Bytes),
    Stored(Box<Descriptor>),
}

impl Received {
    fn read<R: Read>(store: &Store, mut archive: ImageArchive<R>) -> Result<Self> {
        let mut members = BTreeMap::new();
        let mut room = MEMORY;
        while let Some(part) = archive.next_part()? {
            match part {
                Part::Blob { digest, size } => {
                    let descriptor = Descriptor::new("", size, digest);
                    // Docker's `manifest.json` names blobs by their paths as well.
                    members.insert(blob_member(&digest), Found::Stored(Box::new(descriptor.clone())));
                    if !store.has_intact(&descriptor)? {
                        pour(store, store.writer_like(&digest)?, &mut archive)?.commit_as(&descriptor)?;
                    }
                }
                Part::File { path, size } => {
                    let document = matches!(path.as_str(), "index.json" | "manifest.json");
                    if document && size > DOCUMENT_LIMIT {
                        return Err(ArchiveError::TooLarge { part: path, limit: DOCUMENT_LIMIT }.into());
                    }
                    let found = if document || size <= SMALL.min(room) {
                        room = room.saturating_sub(size);
                        let mut bytes = Vec::new();
                        archive.read_to_end(&mut bytes).map_err(|error| archive.explain(error))?;
                        Found::Memory(bytes.into())
                    } else {
                        Found::Stored(Box::new(pour(store, store.writer()?, &mut archive)?.commit("")?))
                    };
                    members.insert(path, found);
                }
            }
        }
        Ok(Self { members, links: archive.finish()? })
    }

    fn find(&self, path: &str) -> Option<&Found> {
        self.members.get(&self.links.resolve(path))
    }

    fn require(&self, path: &str) -> Result<&Found> {
        self.find(path).ok_or_else(|| lacks(path, "manifest.json"))
    }

    fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        match self.find(path) {
            Some(Found::Memory(bytes)) => {
                let damaged = |source| ArchiveError::Document { path: path.to_owned(), source }.into();
                serde_json::from_slice(bytes).map_err(damaged)
            }
            _ => Err(lacks(path, "the format")),
        }
    }
}

/// Copies the current part; the two sides are told apart, because a full disk is not a broken archive.
fn pour<R: Read>(store: &Store, mut writer: BlobWriter, archive: &mut ImageArchive<R>) -> Result<BlobWriter> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        match archive.read(&mut buffer) {
            Ok(0) => return Ok(writer),
            Ok(count) => writer.write_all(&buffer[..count]).map_err(store.io("write a blob"))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(archive.explain(error).into()),
        }
    }
}

fn blob_member(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn lacks(path: &str, wanted_by: &str) -> StoreError {
    ArchiveError::Lacks { path: path.to_owned(), wanted_by: wanted_by.to_owned() }.into()
}
