//! Checking the whole cache: every blob hashed, every name followed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::gc::{FileKind, StoredFile};
use super::{Result, Store, StoreError};
use crate::oci::{Descriptor, Digest, Hasher, MediaType, VerifyError};

/// What checking found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Blobs that were hashed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that no name leads to. They cost space and harm nothing.
    pub unreferenced: usize,
    /// Their bytes.
    pub unreferenced_bytes: u64,
    /// What is wrong; sorted.
    pub faults: Vec<Fault>,
    /// Damaged blobs that were deleted, so that they are fetched or built again.
    pub removed: usize,
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A blob's bytes are not what its name, or what refers to it, says.
    #[error("{digest} is damaged: {problem}")]
    Damaged {
        /// The blob.
        digest: Digest,
        /// In which way.
        problem: VerifyError,
        /// Names of images that need it; sorted.
        images: Vec<String>,
    },
    /// A name leads to nothing.
    #[error("`{name}` names {digest}, which is missing")]
    Dangling {
        /// The name.
        name: String,
        /// What it names.
        digest: Digest,
    },
    /// An image that is there lacks something.
    #[error("`{name}` lacks {digest}")]
    Missing {
        /// The image's name.
        name: String,
        /// What is missing.
        digest: Digest,
    },
    /// An index or manifest has the right bytes and is none.
    #[error("`{name}` has {digest}, which is no valid {media_type}")]
    Document {
        /// The image's name.
        name: String,
        /// The document.
        digest: Digest,
        /// What it should be.
        media_type: String,
    },
    /// An entry of `index.json` is not understood.
    #[error("entry {entry} of index.json is not understood: {problem}")]
    Entry {
        /// From 1.
        entry: usize,
        /// What is wrong with it.
        problem: serde_json::Error,
    },
}

/// What is done about damaged blobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Repair {
    /// They are reported.
    #[default]
    No,
    /// They are deleted: a damaged blob hides the need to fetch it again.
    RemoveDamaged,
}

impl Store {
    /// Hashes every blob and follows every name. `progress` hears the bytes that were hashed, and those there are.
    ///
    /// Platforms of an index that are not there at all are no fault: nobody asked for them.
    ///
    /// # Errors
    /// When the cache cannot be read; what is wrong with its content is the result.
    pub fn verify(&self, repair: Repair, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Verified> {
        let files: Vec<StoredFile> = self.files()?.into_iter().filter(|f| matches!(f.kind, FileKind::Blob(_))).collect();
        let mut damaged = self.hash_all(&files, progress)?;
        let mut verified = Verified { blobs: files.len(), bytes: files.iter().map(|f| f.size).sum(), ..Verified::default() };
        let mut images = BTreeMap::new();
        let reached = self.follow_names(&mut verified.faults, &mut damaged, &mut images)?;
        for file in &files {
            if matches!(file.kind, FileKind::Blob(digest) if !reached.contains(&digest)) {
                verified.unreferenced += 1;
                verified.unreferenced_bytes += file.size;
            }
        }
        for (digest, Damage { problem, inode }) in damaged {
            if repair == Repair::RemoveDamaged && self.remove_damaged(&digest, inode)? {
                verified.removed += 1;
            }
            let images: BTreeSet<String> = images.remove(&digest).unwrap_or_default();
            verified.faults.push(Fault::Damaged { digest, problem, images: images.into_iter().collect() });
        }
        verified.faults.sort_by_key(Fault::to_string);
        Ok(verified)
    }

    fn hash_all(&self, files: &[StoredFile], progress: &(dyn Fn(u64, u64) + Sync)) -> Result<BTreeMap<Digest, Damage>> {
        let total = files.iter().map(|file| file.size).sum();
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let results = Mutex::new(Ok(BTreeMap::new()));
        let work = || {
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                let on_bytes = |count| progress(done.fetch_add(count, Ordering::Relaxed) + count, total);
                let found = hash_file(file, &on_bytes);
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                match (&mut *results, found) {
                    (Ok(damaged), Ok(found)) => damaged.extend(found),
                    (Ok(_), Err(error)) => *results = Err(self.io("read a blob")(error)),
                    (Err(_), _) => return,
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len()).max(1);
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        results.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns everything that names lead to; adds what is wrong on the way, and which images need what is damaged.
    fn follow_names(
        &self,
        faults: &mut Vec<Fault>,
        damaged: &mut BTreeMap<Digest, Damage>,
        images: &mut BTreeMap<Digest, BTreeSet<String>>,
    ) -> Result<BTreeSet<Digest>> {
        let mut reached = BTreeSet::new();
        for (entry, root) in self.read_index()?.named_descriptors().into_iter().enumerate() {
            let (name, root) = match root {
                Ok(root) => root,
                Err(problem) => {
                    faults.push(Fault::Entry { entry: entry + 1, problem });
                    continue;
                }
            };
            let mut seen = BTreeSet::new();
            // The flag says whether the content may be absent: a platform of an index.
            let mut pending = vec![(root.clone(), false)];
            while let Some((descriptor, optional)) = pending.pop() {
                if !seen.insert(descriptor.digest) {
                    continue;
                }
                reached.insert(descriptor.digest);
                match self.look(&descriptor)? {
                    Look::Absent if optional => {}
                    Look::Absent if descriptor.digest == root.digest => {
                        faults.push(Fault::Dangling { name: name.clone(), digest: root.digest });
                    }
                    Look::Absent => faults.push(Fault::Missing { name: name.clone(), digest: descriptor.digest }),
                    Look::Size(actual) => {
                        let (digest, expected) = (descriptor.digest, descriptor.size);
                        let problem = VerifyError::Size { digest, expected, actual };
                        damaged.entry(digest).or_insert(Damage { problem, inode: None });
                    }
                    Look::There => {}
                }
                if damaged.contains_key(&descriptor.digest) {
                    images.entry(descriptor.digest).or_default().insert(name.clone());
                    continue;
                }
                match self.document(&descriptor) {
                    Ok(Some(document)) => {
                        let optional = MediaType::is_index(&descriptor.media_type);
                        pending.extend(document.children().into_iter().map(|child| (child.clone(), optional)));
                    }
                    Ok(None) | Err(StoreError::Missing { .. }) => {}
                    Err(StoreError::Document { digest, media_type, .. }) => {
                        faults.push(Fault::Document { name: name.clone(), digest, media_type });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(reached)
    }

    fn look(&self, descriptor: &Descriptor) -> Result<Look> {
        match fs_err::metadata(self.blob_path(&descriptor.digest)) {
            Ok(metadata) if metadata.len() == descriptor.size => Ok(Look::There),
            Ok(metadata) => Ok(Look::Size(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Look::Absent),
            Err(error) => Err(self.io("look for a blob")(error)),
        }
    }

    /// Deletes the blob unless somebody has written it anew.
    fn remove_damaged(&self, digest: &Digest, inode: Option<u64>) -> Result<bool> {
        let path = self.blob_path(digest);
        let _lock = self.lock()?;
        match fs_err::metadata(&path) {
            Ok(metadata) if Some(metadata.ino()) == inode => {
                fs_err::remove_file(&path).map(|()| true).map_err(self.io("delete a damaged blob"))
            }
            _ => Ok(false),
        }
    }
}

struct Damage {
    problem: VerifyError,
    /// The file that was hashed; `None` when its hash was right, and what refers to it is wrong about its size.
    inode: Option<u64>,
}

enum Look {
    There,
    Size(u64),
    Absent,
}

fn hash_file(file: &StoredFile, on_bytes: &dyn Fn(u64)) -> io::Result<Option<(Digest, Damage)>> {
    let FileKind::Blob(expected) = file.kind else { return Ok(None) };
    let mut reader = match fs_err::File::open(&file.path) {
        Ok(reader) => reader,
        // A collector was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut hasher = Hasher::like(&expected);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        on_bytes(count as u64);
    }
    let actual = hasher.finish();
    if actual == expected {
        return Ok(None);
    }
    let inode = Some(reader.metadata()?.ino());
    Ok(Some((expected, Damage { problem: VerifyError::Digest { expected, actual }, inode })))
}
