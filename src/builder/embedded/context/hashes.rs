//! Hashes of files that did not change since they were hashed last, kept between runs.
//!
//! `<cache>/pkgbuild/v1/files/<hash of the roots' paths>`, version 1, all numbers little-endian:
//! ```text
//! "pkgbuild files 1\n"  record*  BLAKE3 of all before (32 bytes)
//! record = device inode size mtime (s, ns) ctime (s, ns): 7 × 8 bytes, BLAKE3 of the data: 32 bytes; sorted
//! ```
//! A file whose data or name changed has another ctime, unless both changes fell into one tick of the clock: what was
//! changed less than two seconds before it was hashed is therefore hashed again next time.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use crate::sys::fs::AtomicFile;
use crate::time::{Clock, SystemClock};

const MAGIC: &[u8] = b"pkgbuild files 1\n";
const RECORD: usize = 7 * 8 + 32;

/// Seconds for which a changed file is not trusted: the coarsest time stamps in use are FAT's.
const RACY: i64 = 2;

/// What the file system says about a file that did not change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Stamp([i64; 7]);

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self([
            stat.st_dev as i64,
            stat.st_ino as i64,
            stat.st_size,
            stat.st_mtime,
            stat.st_mtime_nsec as i64,
            stat.st_ctime,
            stat.st_ctime_nsec as i64,
        ])
    }

    fn changed_at(&self) -> i64 {
        self.0[3].max(self.0[5])
    }
}

/// The hashes known for one context.
pub(super) struct Hashes {
    path: PathBuf,
    known: HashMap<Stamp, blake3::Hash>,
    opened: i64,
}

impl Hashes {
    /// Opens the hashes of the context with these root directories. A damaged file counts as empty.
    pub(super) fn open<'a>(cache: &Path, roots: impl Iterator<Item = &'a Path>) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        for root in roots {
            hasher.update(&(root.as_os_str().len() as u64).to_le_bytes()).update(root.as_os_str().as_bytes());
        }
        let directory = cache.join("pkgbuild/v1/files");
        fs_err::create_dir_all(&directory)?;
        let path = directory.join(&*hasher.finalize().to_hex());
        let known = match fs_err::read(&path) {
            Ok(bytes) => decode(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, known, opened: SystemClock.now().seconds() })
    }

    pub(super) fn get(&self, stamp: &Stamp) -> Option<blake3::Hash> {
        self.known.get(stamp).copied()
    }

    /// Replaces the stored hashes by those of the files that are there now.
    pub(super) fn save(&self, hashes: impl Iterator<Item = (Stamp, blake3::Hash)>) -> io::Result<()> {
        let mut records: Vec<(Stamp, blake3::Hash)> =
            hashes.filter(|(stamp, _)| stamp.changed_at() < self.opened - RACY).collect();
        records.sort_unstable_by_key(|(stamp, _)| *stamp);
        records.dedup_by_key(|(stamp, _)| *stamp);
        let mut bytes = Vec::with_capacity(MAGIC.len() + records.len() * RECORD + 32);
        bytes.extend_from_slice(MAGIC);
        for (Stamp(numbers), hash) in &records {
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            bytes.extend_from_slice(hash.as_bytes());
        }
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(check.as_bytes());
        let mut file = AtomicFile::create(&self.path, 0o600)?;
        file.write_all(&bytes)?;
        file.publish_unsynced()
    }
}

fn decode(bytes: &[u8]) -> Option<HashMap<Stamp, blake3::Hash>> {
    let (content, check) = bytes.split_last_chunk::<32>()?;
    let records = content.strip_prefix(MAGIC)?;
    if blake3::hash(content) != blake3::Hash::from_bytes(*check) || records.len() % RECORD != 0 {
        return None;
    }
    let record = |record: &[u8]| {
        let (numbers, hash) = record.split_at(7 * 8);
        let mut stamp = [0; 7];
        for (number, bytes) in stamp.iter_mut().zip(numbers.as_chunks::<8>().0) {
            *number = i64::from_le_bytes(*bytes);
        }
        Some((Stamp(stamp), blake3::Hash::from_bytes(hash.try_into().ok()?)))
    };
    records.chunks_exact(RECORD).map(record).collect()
}
