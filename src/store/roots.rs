//! Names: the entries of `index.json`, and what of an image is there.
//!
//! A name is the whole text of the annotation `org.opencontainers.image.ref.name`, compared byte for byte, as linuxkit
//! does. Every change is made under linuxkit's lock, on what was read under it, and swaps the file at once. Entries that
//! are not ours keep every member and their place.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Mutex;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{FILE_MODE, Result, Store, StoreError};
use crate::oci::{Descriptor, Digest, Document, Index, MediaType, Platform};
use crate::sys::fs::{sync_directory, write_atomic};

/// The annotation that names an entry.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A name and what it names. The descriptor is without the annotation that holds the name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// The full name, for example `docker.io/org/image:tag`.
    pub name: String,
    /// An index or an image manifest.
    pub descriptor: Descriptor,
}

/// All names, from one reading of `index.json`; sorted, and read as a slice of [`Root`].
///
/// Serves any number of lookups; indexes are read once each.
#[derive(Debug)]
pub struct Roots {
    store: Store,
    roots: Vec<Root>,
    indexes: Mutex<BTreeMap<Digest, Index>>,
}

/// Whether the cache has an image.
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each package and platform, a few hundred at most")]
pub enum Presence {
    /// There is no such name, or the name has nothing for this platform.
    Absent,
    /// Something of it is missing or has the wrong size.
    Incomplete(Vec<Descriptor>),
    /// Manifest, config and all layers are there: this is the manifest.
    Complete(Descriptor),
}

impl Store {
    /// Reads all names.
    ///
    /// # Errors
    /// When `index.json` cannot be read or is damaged.
    pub fn roots(&self) -> Result<Roots> {
        let index = self.read_index()?;
        let mut roots = Vec::new();
        for entry in &index.entries {
            // What is not understood is somebody else's: it is no image for us, it stays, and it stops the collector.
            let Ok(mut descriptor) = Descriptor::deserialize_value(entry) else { continue };
            if let Some(name) = descriptor.annotations.remove(REF_NAME) {
                roots.push(Root { name, descriptor });
            }
        }
        // linuxkit takes the first image of a name before the first index; the sort keeps the order within both.
        roots.sort_by(|a, b| {
            let rank = |root: &Root| !MediaType::is_manifest(&root.descriptor.media_type);
            a.name.cmp(&b.name).then(rank(a).cmp(&rank(b)))
        });
        Ok(Roots { store: self.clone(), roots, indexes: Mutex::default() })
    }

    /// Returns what `name` names.
    ///
    /// # Errors
    /// When `index.json` cannot be read or is damaged; never for absence.
    pub fn root(&self, name: &str) -> Result<Option<Descriptor>> {
        Ok(self.roots()?.get(name).cloned())
    }

    /// Gives names to content, all in one swap of `index.json`; each replaces what bore its name.
    ///
    /// An index may name platforms whose manifests are not there; a manifest that is there must be whole.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when something is missing: then no name was changed.
    pub fn set_roots(&self, roots: &[(String, Descriptor)]) -> Result<()> {
        self.change_index(|index| {
            // Under the lock, which the collector also holds while it deletes: what is there now stays.
            for (name, descriptor) in roots {
                let missing = self.missing_from(descriptor)?;
                if !missing.is_empty() {
                    return Err(StoreError::Incomplete { name: name.clone(), missing });
                }
            }
            Ok(roots.iter().fold(false, |changed, (name, descriptor)| index.set(name, descriptor) | changed))
        })
    }

    /// Takes names away, in one swap, and returns those that were there. Content stays until it is collected.
    ///
    /// # Errors
    /// When `index.json` cannot be read or written.
    pub fn remove_roots(&self, names: &[String]) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        self.change_index(|index| {
            removed = names.iter().filter(|name| index.remove(name)).cloned().collect();
            Ok(!removed.is_empty())
        })?;
        Ok(removed)
    }

    fn change_index(&self, change: impl FnOnce(&mut IndexFile) -> Result<bool>) -> Result<()> {
        let _lock = self.lock()?;
        let mut index = self.parse_index(&self.read_index_bytes()?)?;
        if change(&mut index)? {
            let io = self.io("write index.json");
            // The blobs themselves were flushed when they were renamed; one flush makes all their names last.
            sync_directory(&self.directory().join("blobs/sha256")).map_err(&io)?;
            write_atomic(&self.index_path(), &index.render(), FILE_MODE).map_err(&io)?;
        }
        Ok(())
    }

    /// Reads `index.json` without the lock, so that a cache that cannot be written to can be read.
    pub(super) fn read_index(&self) -> Result<IndexFile> {
        // linuxkit writes the file in place under its lock: a reader may see half of it, and then asks again.
        for wait in [1, 2, 5, 10, 20, 50, 100, 200] {
            if let Ok(index) = self.parse_index(&self.read_index_bytes()?) {
                return Ok(index);
            }
            std::thread::sleep(Duration::from_millis(wait));
        }
        self.parse_index(&self.read_index_bytes()?)
    }

    pub(super) fn read_index_locked(&self) -> Result<IndexFile> {
        self.parse_index(&self.read_index_bytes()?)
    }

    fn read_index_bytes(&self) -> Result<Vec<u8>> {
        fs_err::read(self.index_path()).map_err(self.io("read index.json"))
    }

    fn parse_index(&self, bytes: &[u8]) -> Result<IndexFile> {
        IndexFile::parse(bytes).map_err(|source| StoreError::Index { path: self.index_path(), source })
    }
}

impl Deref for Roots {
    type Target = [Root];

    fn deref(&self) -> &[Root] {
        &self.roots
    }
}

impl IntoIterator for Roots {
    type Item = Root;
    type IntoIter = std::vec::IntoIter<Root>;

    fn into_iter(self) -> Self::IntoIter {
        self.roots.into_iter()
    }
}

impl Roots {
    /// Returns what `name` names.
    pub fn get(&self, name: &str) -> Option<&Descriptor> {
        let first = self.roots.partition_point(|root| root.name.as_str() < name);
        self.roots.get(first).filter(|root| root.name == name).map(|root| &root.descriptor)
    }

    /// Returns what `name` names, or an error that says which name is near.
    ///
    /// # Errors
    /// [`StoreError::NoRoot`].
    pub fn require(&self, name: &str) -> Result<&Descriptor> {
        self.get(name).ok_or_else(|| StoreError::NoRoot {
            name: name.to_owned(),
            directory: self.store.directory().to_owned(),
            nearest: crate::diagnostic::nearest(name, self.iter().map(|root| root.name.as_str())).map(str::to_owned),
        })
    }

    /// Returns whether the image `name` is there for `platform`: the index, the manifest, the config and all layers, each
    /// with its size.
    ///
    /// # Errors
    /// When it cannot be told. A damaged index or manifest is something that is missing.
    pub fn lookup(&self, name: &str, platform: &Platform) -> Result<Presence> {
        match self.get(name) {
            Some(root) => self.lookup_at(root, platform),
            None => Ok(Presence::Absent),
        }
    }

    /// Returns whether the image that `root`, an index or a manifest, leads to is there for `platform`, as [`Self::lookup`].
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub fn lookup_at(&self, root: &Descriptor, platform: &Platform) -> Result<Presence> {
        let manifest = if MediaType::is_index(&root.media_type) {
            match self.index(root)? {
                None => return Ok(Presence::Incomplete(vec![root.clone()])),
                Some(index) => index.image_for(platform).cloned(),
            }
        } else {
            Some(root.clone())
        };
        let Some(mut manifest) = manifest else { return Ok(Presence::Absent) };
        let missing = self.store.missing_of_image(&manifest)?;
        if !missing.is_empty() {
            return Ok(Presence::Incomplete(missing));
        }
        // linuxkit writes some names of single images without a platform; then the config says it.
        if manifest.platform.is_none() {
            manifest.platform = Some(self.store.platform_of(&manifest)?);
        }
        let fits = manifest.platform.as_ref().is_some_and(|own| own.satisfies(platform));
        Ok(if fits { Presence::Complete(manifest) } else { Presence::Absent })
    }

    /// Returns the index that `descriptor` is, or `None` when it is missing or damaged.
    fn index(&self, descriptor: &Descriptor) -> Result<Option<Index>> {
        let mut indexes = self.indexes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(index) = indexes.get(&descriptor.digest) {
            return Ok(Some(index.clone()));
        }
        let Some(Document::Index(index)) = self.store.intact_document(descriptor)? else { return Ok(None) };
        indexes.insert(descriptor.digest, index.clone());
        Ok(Some(index))
    }
}

/// `index.json` with everything that is in it, in its order.
#[derive(Debug)]
pub(super) struct IndexFile {
    document: Map<String, Value>,
    pub(super) entries: Vec<Value>,
}

impl IndexFile {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let mut document: Map<String, Value> = serde_json::from_slice(bytes)?;
        let entries = match document.get_mut("manifests").map(Value::take) {
            // linuxkit writes `null` for none.
            None | Some(Value::Null) => Vec::new(),
            Some(entries) => serde_json::from_value(entries)?,
        };
        Ok(Self { document, entries })
    }

    /// Returns the text as linuxkit writes it: indented by three spaces, without a final newline.
    pub(super) fn render(&self) -> Vec<u8> {
        let mut document = self.document.clone();
        document.insert("manifests".to_owned(), Value::Array(self.entries.clone()));
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
        document
            .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
            .expect("a JSON value with text keys can be written to memory");
        bytes
    }

    /// Lets `name` name `descriptor` alone, at the end of the list, and returns whether that changed anything.
    fn set(&mut self, name: &str, descriptor: &Descriptor) -> bool {
        let mut named = descriptor.clone();
        named.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        let value = serde_json::to_value(named).expect("a descriptor is JSON");
        let mut same = self.entries.iter().filter(|entry| name_of(entry) == Some(name));
        if let (Some(only), None) = (same.next(), same.next())
            && *only == value
        {
            return false;
        }
        self.remove(name);
        self.entries.push(value);
        true
    }

    fn remove(&mut self, name: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| name_of(entry) != Some(name));
        self.entries.len() != before
    }

    /// Returns what all entries refer to.
    ///
    /// # Errors
    /// With the number of the entry, from 1, that is no descriptor we understand.
    pub(super) fn descriptors(&self) -> Result<Vec<Descriptor>, (usize, serde_json::Error)> {
        let parse = |(n, entry)| Descriptor::deserialize_value(entry).map_err(|error| (n + 1, error));
        self.entries.iter().enumerate().map(parse).collect()
    }
}

impl IndexFile {
    /// Returns each entry's name, or what stands for one, and what it names.
    pub(super) fn named_descriptors(&self) -> Vec<Result<(String, Descriptor), serde_json::Error>> {
        let named = |entry: &Value| {
            let descriptor = Descriptor::deserialize_value(entry)?;
            let name = name_of(entry).map_or_else(|| format!("(without a name) {}", descriptor.digest), str::to_owned);
            Ok((name, descriptor))
        };
        self.entries.iter().map(named).collect()
    }
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

impl Descriptor {
    fn deserialize_value(value: &Value) -> Result<Self, serde_json::Error> {
        serde::Deserialize::deserialize(value)
    }
}
