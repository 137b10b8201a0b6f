//! Blobs: written under a digest that is computed on the way, read with their size checked.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;
use fs_err::File;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::{FILE_MODE, Result, Store, StoreError};
use crate::oci::{Descriptor, Digest, Hasher, VerifyError, VerifyingReader};
use crate::sys::fs::AtomicFile;

/// Content on its way into the cache. Nothing of it remains unless it is committed.
pub struct BlobWriter {
    store: Store,
    file: AtomicFile,
    hasher: Hasher,
    size: u64,
}

/// Up to this size a blob is read and hashed before it counts as present for a writer: a damaged manifest would otherwise
/// stay for ever, because nobody would write it again.
const SMALL: u64 = 1 << 20;

impl Store {
    /// Returns where the blob `digest` is or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory().join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// Starts a blob that will be named by its SHA-256 digest.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn writer(&self) -> Result<BlobWriter> {
        self.writer_hashing(Hasher::default())
    }

    /// Starts a blob that will be named by the algorithm of `digest`.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn writer_like(&self, digest: &Digest) -> Result<BlobWriter> {
        self.writer_hashing(Hasher::like(digest))
    }

    fn writer_hashing(&self, hasher: Hasher) -> Result<BlobWriter> {
        let io = self.io("write a blob");
        // Before the first byte, so that the blob's time is not before the lease's.
        self.held().map_err(&io)?;
        let algorithm = match hasher {
            Hasher::Sha256(_) => "sha256",
            Hasher::Sha512(_) => "sha512",
        };
        let directory = self.directory().join("blobs").join(algorithm);
        let file = match AtomicFile::create_in(&directory, FILE_MODE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs_err::create_dir_all(&directory).map_err(&io)?;
                AtomicFile::create_in(&directory, FILE_MODE)
            }
            result => result,
        };
        Ok(BlobWriter { store: self.clone(), file: file.map_err(&io)?, hasher, size: 0 })
    }

    /// Stores `bytes` and returns their descriptor.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn write(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, bytes);
        if !self.has_intact(&descriptor)? {
            let mut writer = self.writer()?;
            writer.write_all(bytes).map_err(self.io("write a blob"))?;
            writer.commit(media_type)?;
        }
        Ok(descriptor)
    }

    /// Returns whether the blob is there with the right size. A blob that is found is safe from collectors from then on.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let Some((size, modified)) = self.stat(&descriptor.digest)? else { return Ok(false) };
        if size == descriptor.size {
            self.keep(&descriptor.digest, modified);
        }
        Ok(size == descriptor.size)
    }

    /// As [`Store::has`], and reads and hashes what is small.
    pub(super) fn has_intact(&self, descriptor: &Descriptor) -> Result<bool> {
        if !self.has(descriptor)? {
            return Ok(false);
        }
        if descriptor.size > SMALL {
            return Ok(true);
        }
        match self.read(descriptor) {
            Ok(_) => Ok(true),
            Err(StoreError::Damaged { .. } | StoreError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns whether the blob is there with the right size, without a promise that it stays.
    pub(super) fn sees(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.stat(&descriptor.digest)?.is_some_and(|(size, _)| size == descriptor.size))
    }

    fn stat(&self, digest: &Digest) -> Result<Option<(u64, SystemTime)>> {
        match fs_err::metadata(self.blob_path(digest)) {
            Ok(metadata) if metadata.is_file() => {
                Ok(Some((metadata.len(), metadata.modified().map_err(self.io("read a blob's time"))?)))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.io("look for a blob")(error)),
        }
    }

    /// Gives the blob a time within this store's lease. Where the cache cannot be written to, nothing can be deleted from
    /// it by us either, and nothing needs to be done.
    fn keep(&self, digest: &Digest, modified: SystemTime) {
        let Ok(held) = self.held() else { return };
        if modified < held.started() {
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let times = Timestamps { last_access: now, last_modification: now };
            let _ = utimensat(CWD, self.blob_path(digest), &times, AtFlags::empty());
        }
    }

    /// Opens a blob, whatever its size; the bytes are not verified.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        match File::open(self.blob_path(digest)) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Missing { digest: *digest, directory: self.directory().to_owned() })
            }
            Err(error) => Err(self.io("open a blob")(error)),
        }
    }

    /// Opens a blob for reading that fails with `InvalidData` when the bytes are not what `descriptor` says.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when it is not there, [`StoreError::Damaged`] when it has another size.
    pub fn open_verified(&self, descriptor: &Descriptor) -> Result<VerifyingReader<File>> {
        let file = self.open_blob(&descriptor.digest)?;
        let actual = file.metadata().map_err(self.io("open a blob"))?.len();
        if actual != descriptor.size {
            let expected = descriptor.size;
            return Err(self.damaged(descriptor.digest, VerifyError::Size { digest: descriptor.digest, expected, actual }));
        }
        Ok(VerifyingReader::new(file, descriptor.digest, descriptor.size))
    }

    /// Reads a blob whole and verifies it; for manifests, indexes and configs.
    ///
    /// # Errors
    /// As [`Store::open_verified`], and [`StoreError::Damaged`] when it hashes to something else.
    pub fn read(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(descriptor.size.min(SMALL) as usize);
        self.open_verified(descriptor)?.read_to_end(&mut bytes).map_err(|error| match verify_error(&error) {
            Some(source) => self.damaged(descriptor.digest, source),
            None => self.io("read a blob")(error),
        })?;
        Ok(bytes.into())
    }

    fn damaged(&self, digest: Digest, source: VerifyError) -> StoreError {
        StoreError::Damaged { digest, directory: self.directory().to_owned(), source: Box::new(source) }
    }
}

/// Returns the mismatch that a verifying reader reported through an I/O error.
fn verify_error(error: &io::Error) -> Option<VerifyError> {
    error.get_ref()?.downcast_ref::<VerifyError>().cloned()
}

impl BlobWriter {
    /// Returns how many bytes were written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Gives the blob its name and returns its descriptor. A blob that was already there is replaced, which heals it.
    ///
    /// # Errors
    /// When the disk is full or refuses; nothing is left then.
    pub fn commit(self, media_type: &str) -> Result<Descriptor> {
        let digest = self.hasher.finish();
        self.file.publish_as(&self.store.blob_path(&digest)).map_err(self.store.io("write a blob"))?;
        Ok(Descriptor::new(media_type, self.size, digest))
    }

    /// As [`BlobWriter::commit`], for content whose descriptor is known.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the bytes are not what `expected` says; nothing is left then.
    pub fn commit_as(self, expected: &Descriptor) -> Result<()> {
        let actual = self.hasher.clone().finish();
        let mismatch = if self.size != expected.size {
            VerifyError::Size { digest: expected.digest, expected: expected.size, actual: self.size }
        } else if actual != expected.digest {
            VerifyError::Digest { expected: expected.digest, actual }
        } else {
            return self.commit(&expected.media_type).map(drop);
        };
        Err(StoreError::Refused { digest: expected.digest, source: Box::new(mismatch) })
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
