//! Deleting what no name needs.
//!
//! A blob may go when no entry of `index.json` leads to it, and it is older than everything a living writer may count on:
//! older than [`GRACE`], which covers writers that take no lease, such as linuxkit, and older than every living lease. Both
//! the last reading of the names and the deleting happen under the lock that a name is written under, and a name is only
//! written when all its content is there. So whichever comes first, no name ever leads to something that was deleted: in
//! the worst case a writer is told that content has gone, and writes it again.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{Result, Store, StoreError};
use crate::content::DOCUMENT_LIMIT;
use crate::oci::{Descriptor, Digest, Document};
use crate::sys::fs::UNFINISHED;

/// How long content is kept that nobody has named yet, for writers that take no lease.
pub const GRACE: Duration = Duration::from_secs(600);

/// What was deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Files.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that nothing needs but that are too young to go.
    pub kept: usize,
    /// Their bytes.
    pub kept_bytes: u64,
}

/// A file below `blobs`, and what the collector thinks of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Surveyed {
    /// Its digest, or the name of a file that is no blob.
    pub name: String,
    /// The room it takes on the disk, in bytes.
    pub room: u64,
    /// When it was written or found last.
    pub used: SystemTime,
    /// Whether it may go.
    pub state: BlobState,
    /// The file.
    pub path: PathBuf,
}

/// Whether a blob may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobState {
    /// A name leads to it, or it is nothing of ours.
    Needed,
    /// Nothing needs it, but somebody may be about to name it.
    Young,
    /// Nothing needs it.
    Free,
}

/// Blobs that are deleted before the lock is released for others.
const BATCH: usize = 256;

impl Store {
    /// Deletes blobs that no name leads to and that are older than `grace` and than every living writer.
    ///
    /// # Errors
    /// [`StoreError::Entry`] when an entry of `index.json` is not understood, [`StoreError::Document`] and
    /// [`StoreError::Damaged`] when a document cannot be followed: what it leads to is not known, so nothing is deleted.
    pub fn collect(&self, grace: Duration) -> Result<Collected> {
        let before = self.oldest_use(grace)?;
        let mut reached = self.reached()?;
        let mut collected = Collected::default();
        let mut candidates = Vec::new();
        for file in self.files()? {
            match state(&file, &reached, before) {
                BlobState::Needed => {}
                BlobState::Free => candidates.push(file),
                BlobState::Young => {
                    collected.kept += 1;
                    collected.kept_bytes += file.size;
                }
            }
        }
        for batch in candidates.chunks(BATCH) {
            let _lock = self.lock()?;
            self.mark(&self.all_roots(&self.read_index_locked()?)?, &mut reached)?;
            for file in batch {
                if !matches!(file.kind, FileKind::Blob(digest) if reached.contains(&digest)) && self.delete(file, before)? {
                    collected.blobs += 1;
                    collected.bytes += file.size;
                }
            }
        }
        Ok(collected)
    }

    /// Lists all blobs and unfinished files, with what [`Store::collect`] would do with them; sorted.
    ///
    /// # Errors
    /// As [`Store::collect`].
    pub fn survey(&self, grace: Duration) -> Result<Vec<Surveyed>> {
        let before = self.oldest_use(grace)?;
        let reached = self.reached()?;
        let survey = |file: StoredFile| {
            let name = match file.kind {
                FileKind::Blob(digest) => digest.to_string(),
                _ => file.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            };
            Surveyed { state: state(&file, &reached, before), name, room: file.room, used: file.modified, path: file.path }
        };
        Ok(self.files()?.into_iter().map(survey).collect())
    }

    /// Returns everything that names lead to. Most of the marking happens while others may still write names.
    fn reached(&self) -> Result<BTreeSet<Digest>> {
        let mut reached = BTreeSet::new();
        self.mark(&self.all_roots(&self.read_index()?)?, &mut reached)?;
        Ok(reached)
    }

    /// Takes names away and deletes what only they needed. Returns the names that were there.
    ///
    /// # Errors
    /// As [`Store::remove_roots`] and [`Store::collect`].
    pub fn remove(&self, names: &[String], grace: Duration) -> Result<(Vec<String>, Collected)> {
        let removed = self.remove_roots(names)?;
        let collected = if removed.is_empty() { Collected::default() } else { self.collect(grace)? };
        Ok((removed, collected))
    }

    /// Returns the instant before which nobody but this store relies on content without a name: `grace` ago, or when the
    /// oldest living lease began, by the clock of the file system.
    ///
    /// # Errors
    /// When the leases cannot be read.
    pub fn oldest_use(&self, grace: Duration) -> Result<SystemTime> {
        let io = self.io("read leases");
        // The file system's clock gave the blobs their times, and need not be this machine's.
        let own = self.held().map_err(&io)?;
        let now = tempfile::tempfile_in(self.directory()).and_then(|file| file.metadata()?.modified()).map_err(&io)?;
        let living = self.living().map_err(&io)?;
        let others = living.iter().filter(|lease| lease.path != own.path()).map(|lease| lease.started);
        let mut oldest = now.checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH);
        for started in others {
            oldest = oldest.min(started);
        }
        Ok(oldest)
    }

    fn all_roots(&self, index: &super::roots::IndexFile) -> Result<Vec<Descriptor>> {
        index.descriptors().map_err(|(entry, source)| StoreError::Entry { path: self.index_path(), entry, source })
    }

    /// Adds everything below `roots` to `reached`. What was reached before is not read again.
    fn mark(&self, roots: &[Descriptor], reached: &mut BTreeSet<Digest>) -> Result<()> {
        for root in roots {
            self.mark_unknown(root, reached)?;
        }
        let mut pending = roots.to_vec();
        while let Some(descriptor) = pending.pop() {
            if !reached.insert(descriptor.digest) {
                continue;
            }
            match self.document(&descriptor) {
                Ok(Some(Document::Index(index))) => {
                    for child in index.manifests {
                        self.mark_unknown(&child, reached)?;
                        pending.push(child);
                    }
                }
                Ok(Some(document)) => pending.extend(document.children().into_iter().cloned()),
                // What is not there leads nowhere. A platform that was never fetched is the usual case.
                Ok(None) | Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Where a manifest is expected and something of another type stands, every digest in it counts as needed.
    fn mark_unknown(&self, descriptor: &Descriptor, reached: &mut BTreeSet<Digest>) -> Result<()> {
        if descriptor.is_document() || descriptor.size > DOCUMENT_LIMIT || reached.contains(&descriptor.digest) {
            return Ok(());
        }
        let bytes = match self.read(descriptor) {
            Ok(bytes) => bytes,
            Err(StoreError::Missing { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Ok(value) = serde_json::from_slice::<Value>(&bytes) {
            add_digests(&value, reached);
        }
        Ok(())
    }

    /// Deletes `file` unless it was used since it was listed.
    fn delete(&self, file: &StoredFile, before: SystemTime) -> Result<bool> {
        let io = self.io("delete a blob");
        match fs_err::metadata(&file.path).and_then(|metadata| metadata.modified()) {
            Ok(modified) if modified >= before => Ok(false),
            Ok(_) => fs_err::remove_file(&file.path).map(|()| true).map_err(io),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io(error)),
        }
    }

    /// Lists the files below `blobs`, sorted by path.
    pub(super) fn files(&self) -> Result<Vec<StoredFile>> {
        let io = self.io("list blobs");
        let mut files = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let entries = match fs_err::read_dir(self.directory().join("blobs").join(algorithm)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io(error)),
            };
            for entry in entries {
                let entry = entry.map_err(&io)?;
                let metadata = match fs_err::symlink_metadata(entry.path()) {
                    Ok(metadata) => metadata,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(io(error)),
                };
                let name = entry.file_name().to_string_lossy().into_owned();
                let kind = match format!("{algorithm}:{name}").parse() {
                    _ if !metadata.is_file() => FileKind::Foreign,
                    Ok(digest) => FileKind::Blob(digest),
                    Err(_) if name.starts_with(UNFINISHED) => FileKind::Unfinished,
                    Err(_) => FileKind::Foreign,
                };
                let modified = metadata.modified().map_err(&io)?;
                files.push(StoredFile {
                    path: entry.path(),
                    kind,
                    size: metadata.len(),
                    room: metadata.blocks() * 512,
                    modified,
                });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }
}

fn state(file: &StoredFile, reached: &BTreeSet<Digest>, before: SystemTime) -> BlobState {
    match file.kind {
        FileKind::Blob(digest) if reached.contains(&digest) => BlobState::Needed,
        FileKind::Foreign => BlobState::Needed,
        _ if file.modified < before => BlobState::Free,
        _ => BlobState::Young,
    }
}

fn add_digests(value: &Value, reached: &mut BTreeSet<Digest>) {
    match value {
        Value::String(text) => reached.extend(text.parse::<Digest>().ok()),
        Value::Array(values) => values.iter().for_each(|value| add_digests(value, reached)),
        Value::Object(members) => members.values().for_each(|value| add_digests(value, reached)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A file below `blobs`.
#[derive(Debug)]
pub(super) struct StoredFile {
    pub(super) path: std::path::PathBuf,
    pub(super) kind: FileKind,
    pub(super) size: u64,
    room: u64,
    modified: SystemTime,
}

/// What a file below `blobs` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileKind {
    /// A blob, by its name.
    Blob(Digest),
    /// What a writer is writing, or was when it was killed.
    Unfinished,
    /// Nothing of ours.
    Foreign,
}
