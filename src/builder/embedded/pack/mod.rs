//! Layers as blobs: canonical tar, gzip, into the store, once per layer.
//!
//! `<cache>/pkgbuild/v1/packs/<BLAKE3 of layer, source date, encoder>` holds what packing gave, as JSON; it counts only
//! while the blob is in the store.

mod gzip;
mod tar;

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::content::ErrorClass;
use crate::oci::{Descriptor, DiffId, Hasher};
use crate::store::{Store, StoreError};
use crate::sys::fs::AtomicFile;
use crate::time::SourceDate;

use super::parallel;
use super::snapshot::upper::{open_below, shown};
use super::snapshot::{SnapshotError, Snapshots};
use super::tree::{ChangeList, LayerId};

/// Media type of the layers that are written.
pub const LAYER_MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A layer as image manifests and configs name it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PackedLayer {
    /// Digest of the tar.
    pub diff_id: DiffId,
    /// The compressed tar in the store.
    pub descriptor: Descriptor,
}

/// Why a layer could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The layer is not in the cache (any more).
    #[error("layer {0} is not in the cache")]
    Missing(LayerId),
    /// The layer could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A file of the layer has other data than when the layer was made.
    #[error("`{}` was changed in the cache since it was written", shown(path).display())]
    Damaged {
        /// The file.
        path: Vec<u8>,
    },
    /// A layer cannot hold a file of this name: readers take it for a mark that another file is gone.
    #[error("`{}` cannot be part of an image: names that begin with `.wh.` are reserved", shown(path).display())]
    ReservedName {
        /// The file.
        path: Vec<u8>,
    },
    /// The blob could not be stored.
    #[error("the packed layer cannot be stored")]
    Store(#[source] Box<StoreError>),
}

impl From<StoreError> for PackError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl PackError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io(_) | Self::Missing(_) | Self::Damaged { .. } => ErrorClass::Damaged,
            Self::Snapshot(error) => error.class(),
            Self::ReservedName { .. } => ErrorClass::Permanent,
            Self::Store(error) => error.class(),
        }
    }
}

impl Snapshots {
    /// Returns the layer as a blob in `store`, packing it unless that was done before. Times after `source_date` become
    /// that. The layer's id, the source date and this program's encoder determine the bytes.
    ///
    /// # Errors
    /// When the layer is not in the cache or damaged, or the blob cannot be stored.
    pub fn pack(&self, layer: &LayerId, source_date: SourceDate, store: &Store) -> Result<PackedLayer, PackError> {
        let key = format!("pkgbuild pack 1\n{layer}\n{}\n{}\n", source_date.0, gzip::ENCODER);
        let record = self.packs().join(&*blake3::hash(key.as_bytes()).to_hex());
        if let Some(packed) = recorded(&record)?
            && store.has(&packed.descriptor)?
        {
            return Ok(packed);
        }
        let changes = self.changes(layer)?.ok_or(PackError::Missing(*layer))?;
        let packed = self.pack_changes(layer, &changes, source_date, store)?;
        let mut file = AtomicFile::create(&record, 0o644)?;
        serde_json::to_writer(&mut file, &packed).map_err(io::Error::from)?;
        file.publish_unsynced()?;
        Ok(packed)
    }

    fn pack_changes(
        &self,
        layer: &LayerId,
        changes: &ChangeList,
        source_date: SourceDate,
        store: &Store,
    ) -> Result<PackedLayer, PackError> {
        let root = self.layer_root(layer)?;
        let gzip = gzip::Gzip::new(store.writer()?, parallel::threads())?;
        let mut out = Tee { hasher: Hasher::default(), out: gzip };
        tar::write(changes, source_date, |path| open_below(&root, path), &mut out)?;
        let diff_id = DiffId(out.hasher.finish());
        let descriptor = out.out.finish()?.commit(LAYER_MEDIA_TYPE)?;
        Ok(PackedLayer { diff_id, descriptor })
    }
}

fn recorded(record: &std::path::Path) -> io::Result<Option<PackedLayer>> {
    match fs_err::read(record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A record that cannot be understood is as good as none: it is written anew.
        result => Ok(serde_json::from_slice(&result?).ok()),
    }
}

/// Hashes what goes through it.
struct Tee<W> {
    hasher: Hasher,
    out: W,
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
