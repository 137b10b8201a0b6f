//! The cache on disk: an OCI image layout that linuxkit's cache can be, and that linuxkit and skopeo read as it is.
//!
//! ```text
//! <cache>/oci-layout, index.json       names and what they name (OCI image-spec, "Image Layout")
//! <cache>/blobs/sha256/<hex>           indexes, manifests, configs, layers
//! <cache>/blobs/sha256/.tmp-*          unfinished; the collector removes old ones
//! <cache>/.lock                        linuxkit's record lock, held only around a change of index.json
//! <cache>/pkgbuild/v1/                 what the builder keeps for itself; here only leases/ and how much there is
//! ```
//! A blob appears under its name only complete, verified and flushed. Blobs need no lock, because content is addressed
//! by digest. A name is only ever given to content that is there, checked under the lock. Everything is blocking code;
//! the asynchronous face is the two traits of [`crate::content`].

mod blobs;
mod clean;
mod clone;
mod content;
mod error;
mod export;
mod gc;
mod import;
mod lease;
mod roots;
mod usage;
mod verify;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sys::fs::{Lock, LockKind, UNFINISHED, write_atomic};

pub use blobs::BlobWriter;
pub use clean::Cleaned;
pub use error::StoreError;
use error::io_error;
pub use export::{ArchiveFormat, Export};
pub use gc::{BlobState, Collected, GRACE, Surveyed};
pub use roots::{Presence, Root, Roots};
pub use usage::{ImageUsage, Usage};
pub use verify::{Fault, Repair, Verified};

/// Result of what the store does.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A cache directory. Cheap to clone; clones share one lease.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    lease: Mutex<Option<Arc<lease::Held>>>,
}

/// Keeps every collector off what is written to, or found in, the cache while it lives.
///
/// Writing takes one by itself for as long as the [`Store`] lives; a program that only reads for a long time, or that keeps
/// other things below the cache directory, holds one of its own.
#[derive(Clone, Debug)]
pub struct Lease {
    held: Arc<lease::Held>,
}

impl Lease {
    /// Returns the lease's name: what a process leaves unfinished below `pkgbuild/v1/drafts` begins with it and a dot.
    pub fn name(&self) -> String {
        self.held.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// What linuxkit writes into `oci-layout`, byte for byte.
const LAYOUT_FILE: &[u8] = b"{\n    \"imageLayoutVersion\": \"1.0.0\"\n}";
/// What linuxkit writes into a new `index.json`, byte for byte.
const EMPTY_INDEX: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// Permission of files, less the user's mask.
const FILE_MODE: u32 = 0o666;

impl Store {
    /// Opens the cache in `directory`, and makes one there if the directory is missing or empty. A cache that is already
    /// there is not written to by opening it.
    ///
    /// # Errors
    /// [`StoreError::NotALayout`] when the directory holds something else.
    pub fn open(directory: &Path) -> Result<Self> {
        let store = Self::at(directory);
        match fs_err::metadata(store.index_path()) {
            Ok(_) => Ok(store),
            Err(error) if error.kind() == io::ErrorKind::NotFound => store.create().map(|()| store),
            Err(error) => Err(store.io("read")(error)),
        }
    }

    /// Opens the cache in `directory`, or returns `None` if there is none. Writes nothing.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn open_existing(directory: &Path) -> Result<Option<Self>> {
        let store = Self::at(directory);
        match fs_err::metadata(store.index_path()) {
            Ok(_) => Ok(Some(store)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(store.io("read")(error)),
        }
    }

    fn at(directory: &Path) -> Self {
        Self { inner: Arc::new(Inner { directory: directory.to_owned(), lease: Mutex::new(None) }) }
    }

    /// Returns the cache directory.
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Takes part in keeping collectors off; see [`Lease`].
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn lease(&self) -> Result<Lease> {
        self.held().map(|held| Lease { held }).map_err(self.io("take a lease"))
    }

    fn held(&self) -> io::Result<Arc<lease::Held>> {
        let mut slot = self.inner.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = &*slot {
            return Ok(held.clone());
        }
        let held = Arc::new(lease::Held::acquire(&self.leases_path())?);
        Ok(slot.insert(held).clone())
    }

    fn create(&self) -> Result<()> {
        self.refuse_other_content()?;
        let io = self.io("make a layout");
        fs_err::create_dir_all(self.directory().join("blobs/sha256")).map_err(&io)?;
        let _lock = self.lock()?;
        // Somebody else may have made it, and written names, while this process waited for the lock.
        for (name, bytes) in [("oci-layout", LAYOUT_FILE), ("index.json", EMPTY_INDEX)] {
            let path = self.directory().join(name);
            if !fs_err::exists(&path).map_err(&io)? {
                write_atomic(&path, bytes, FILE_MODE).map_err(&io)?;
            }
        }
        Ok(())
    }

    /// A mistyped `--cache` must not fill somebody's home directory with blobs.
    fn refuse_other_content(&self) -> Result<()> {
        let io = self.io("read");
        let entries = match fs_err::read_dir(self.directory()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io(error)),
        };
        let mut others = Vec::new();
        for entry in entries {
            let name = entry.map_err(&io)?.file_name().to_string_lossy().into_owned();
            if !OWN_NAMES.contains(&name.as_str()) && !name.starts_with(UNFINISHED) {
                others.push(name);
            }
        }
        match others.into_iter().min() {
            Some(found) => Err(StoreError::NotALayout { directory: self.directory().to_owned(), found }),
            None => Ok(()),
        }
    }

    /// Takes linuxkit's lock on the cache.
    fn lock(&self) -> Result<Lock> {
        let path = self.directory().join(".lock");
        let io = self.io("lock index.json");
        if let Some(lock) = Lock::try_acquire(&path, LockKind::Record).map_err(&io)? {
            return Ok(lock);
        }
        tracing::info!(path = %path.display(), "waiting for another process that holds the cache's lock");
        Lock::acquire(&path, LockKind::Record).map_err(&io)
    }

    fn index_path(&self) -> PathBuf {
        self.directory().join("index.json")
    }

    fn leases_path(&self) -> PathBuf {
        self.directory().join("pkgbuild/v1/leases")
    }

    /// Returns the leases of living processes: those of stores, and those of builders, which keep files of other forms in
    /// directories of their own.
    fn living(&self) -> io::Result<Vec<lease::Living>> {
        let mut living = lease::living(&self.leases_path())?;
        let forms = match fs_err::read_dir(self.directory().join("pkgbuild/v1/forms")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(living),
            forms => forms?,
        };
        for form in forms {
            living.extend(lease::living(&form?.path().join("leases"))?);
        }
        Ok(living)
    }

    fn io(&self, action: &'static str) -> impl Fn(io::Error) -> StoreError {
        io_error(action, self.directory())
    }
}

/// Names that a cache directory may hold; `lost+found` comes with a file system of its own.
const OWN_NAMES: [&str; 6] = ["oci-layout", "index.json", "blobs", ".lock", "pkgbuild", "lost+found"];

#[cfg(test)]
mod archive_tests;
#[cfg(test)]
mod process_tests;
#[cfg(test)]
pub(crate) mod tests;
