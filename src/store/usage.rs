//! What takes how much space.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::gc::FileKind;
use super::{Result, Store, StoreError};
use crate::oci::{Descriptor, Digest};

/// What the cache holds, in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Images, by their first name.
    pub images: Vec<ImageUsage>,
    /// All blobs.
    pub blobs: u64,
    /// Blobs that no name leads to, and unfinished files.
    pub unreferenced: u64,
    /// What the builder keeps, by the name of its directory: disk space, each file counted once.
    pub builder: BTreeMap<String, u64>,
}

/// What one image holds, in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageUsage {
    /// All names of it, sorted.
    pub names: Vec<String>,
    /// Its index or manifest.
    pub root: Digest,
    /// Everything below the root that is there.
    pub total: u64,
    /// What would be freed with it.
    pub unique: u64,
}

impl ImageUsage {
    /// Returns what other images need as well.
    pub fn shared(&self) -> u64 {
        self.total - self.unique
    }
}

impl Store {
    /// Adds up what takes how much space.
    ///
    /// # Errors
    /// When the cache cannot be read. Damaged documents count as themselves alone.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let mut sizes = BTreeMap::new();
        for file in self.files()? {
            usage.blobs += file.size;
            match file.kind {
                FileKind::Blob(digest) => drop(sizes.insert(digest, file.size)),
                _ => usage.unreferenced += file.size,
            }
        }
        let mut roots: BTreeMap<Digest, (Descriptor, Vec<String>)> = BTreeMap::new();
        for (name, root) in self.read_index()?.named_descriptors().into_iter().flatten() {
            roots.entry(root.digest).or_insert((root, Vec::new())).1.push(name);
        }
        let mut below = BTreeMap::new();
        for (digest, (root, _)) in &roots {
            below.insert(*digest, self.everything_below(root)?);
        }
        let mut users: BTreeMap<Digest, usize> = BTreeMap::new();
        for digest in below.values().flatten() {
            *users.entry(*digest).or_default() += 1;
        }
        usage.unreferenced += sizes.iter().filter(|(digest, _)| !users.contains_key(*digest)).map(|(_, size)| size).sum::<u64>();
        for (root, (_, mut names)) in roots {
            names.sort();
            let size_of = |digest: &Digest| sizes.get(digest).copied().unwrap_or_default();
            let total = below[&root].iter().map(size_of).sum();
            let unique = below[&root].iter().filter(|digest| users[*digest] == 1).map(size_of).sum();
            usage.images.push(ImageUsage { names, root, total, unique });
        }
        usage.images.sort_by(|a, b| a.names.cmp(&b.names));
        usage.builder = self.builder_usage()?;
        Ok(usage)
    }

    fn everything_below(&self, root: &Descriptor) -> Result<BTreeSet<Digest>> {
        let mut seen = BTreeSet::new();
        let mut pending = vec![root.clone()];
        while let Some(descriptor) = pending.pop() {
            if seen.insert(descriptor.digest)
                && let Some(document) = self.intact_document(&descriptor)?
            {
                pending.extend(document.children().into_iter().cloned());
            }
        }
        Ok(seen)
    }

    fn builder_usage(&self) -> Result<BTreeMap<String, u64>> {
        let (mut usage, mut seen) = (BTreeMap::new(), BTreeSet::new());
        for (name, is_directory, path) in self.list(&self.directory().join("pkgbuild/v1"))? {
            if is_directory && name != "leases" {
                usage.insert(name, self.disk_usage(&path, &mut seen)?);
            }
        }
        Ok(usage)
    }

    fn disk_usage(&self, root: &Path, seen: &mut BTreeSet<(u64, u64)>) -> Result<u64> {
        let mut total = 0;
        let mut pending = vec![root.to_owned()];
        while let Some(path) = pending.pop() {
            let metadata = match fs_err::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                // A builder is at work.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(self.io("measure")(error)),
            };
            if seen.insert((metadata.dev(), metadata.ino())) {
                total += metadata.blocks() * 512;
            }
            if metadata.is_dir() {
                pending.extend(self.list(&path)?.into_iter().map(|(_, _, path)| path));
            }
        }
        Ok(total)
    }

    /// Lists a directory: name, whether it is a directory, path. One that is not there is empty.
    fn list(&self, directory: &Path) -> Result<Vec<(String, bool, std::path::PathBuf)>, StoreError> {
        let io = self.io("measure");
        let entries = match fs_err::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(error)),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry.map_err(&io)?;
            let is_directory = entry.file_type().map_err(&io)?.is_dir();
            listed.push((entry.file_name().to_string_lossy().into_owned(), is_directory, entry.path()));
        }
        Ok(listed)
    }
}
