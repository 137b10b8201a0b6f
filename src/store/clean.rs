//! Emptying a whole cache: only what a cache consists of, never a directory because somebody pointed at it.

use std::io;
use std::path::PathBuf;

use super::{EMPTY_INDEX, FILE_MODE, OWN_NAMES, Result, Store, StoreError};
use crate::sys::fs::{UNFINISHED, write_atomic};

/// What cleaning did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cleaned {
    /// Names that are gone.
    pub names: usize,
    /// Blobs that are gone.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What was found beside them, is nothing of a cache, and was left; sorted.
    pub left: Vec<PathBuf>,
}

impl Store {
    /// Empties the cache: all names, all blobs and what the builder kept. The directory, an empty layout and the lock file
    /// stay, so that a process which waits for the lock finds a cache afterwards.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process writes to the cache, [`StoreError::Index`] when `index.json` is none.
    pub fn clean(&self) -> Result<Cleaned> {
        let io = self.io("clean");
        let mut cleaned = Cleaned { names: self.read_index()?.entries.len(), ..Cleaned::default() };
        self.refuse_in_use()?;
        let _lock = self.lock()?;
        // Names go first: a name without its content would be worse than content without a name.
        write_atomic(&self.index_path(), EMPTY_INDEX, FILE_MODE).map_err(&io)?;
        for file in self.files()? {
            match file.kind {
                super::gc::FileKind::Foreign => cleaned.left.push(file.path),
                _ => {
                    fs_err::remove_file(&file.path).map_err(&io)?;
                    cleaned.blobs += 1;
                    cleaned.bytes += file.size;
                }
            }
        }
        self.clean_builder()?;
        for entry in fs_err::read_dir(self.directory()).map_err(&io)? {
            let entry = entry.map_err(&io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(UNFINISHED) {
                fs_err::remove_file(entry.path()).map_err(&io)?;
            } else if !OWN_NAMES.contains(&name.as_str()) {
                cleaned.left.push(entry.path());
            }
        }
        cleaned.left.sort();
        Ok(cleaned)
    }

    /// Empties `pkgbuild/v1`, except for the leases, one of which is ours.
    fn clean_builder(&self) -> Result<()> {
        let io = self.io("clean");
        let entries = match fs_err::read_dir(self.directory().join("pkgbuild/v1")) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io(error)),
        };
        for entry in entries {
            let entry = entry.map_err(&io)?;
            if entry.file_name() == "leases" {
                continue;
            }
            // A link is removed, not followed: `remove_dir_all` refuses one at the top and never follows one below.
            let removed = match entry.file_type().map_err(&io)?.is_dir() {
                true => fs_err::remove_dir_all(entry.path()),
                false => fs_err::remove_file(entry.path()),
            };
            removed.map_err(&io)?;
        }
        Ok(())
    }

    fn refuse_in_use(&self) -> Result<()> {
        let io = self.io("clean");
        let own = self.held().map_err(&io)?;
        let mut users: Vec<String> = self
            .living()
            .map_err(&io)?
            .into_iter()
            .filter(|lease| lease.path != own.path())
            .map(|lease| format!("process {}", lease.owner))
            .collect();
        users.dedup();
        match users.is_empty() {
            true => Ok(()),
            false => Err(StoreError::InUse { directory: self.directory().to_owned(), users }),
        }
    }
}
