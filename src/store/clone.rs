//! A second cache with the same content, which costs names and no bytes.

use std::io;
use std::path::Path;

use super::{FILE_MODE, Result, Store};
use crate::sys::fs::{UNFINISHED, write_atomic};

impl Store {
    /// Makes a cache in `directory`, which must lie on the file system of this one, with all that this one has now. The two
    /// share bytes: blobs are never changed, only added and deleted by name. What the builder keeps is not part of it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn clone_into(&self, directory: &Path) -> Result<Store> {
        let io = self.io("make a second cache of");
        // No collector may take a blob between the reading of names and the linking of what they name.
        let _lease = self.lease()?;
        let index = fs_err::read(self.index_path()).map_err(&io)?;
        let blobs = directory.join("blobs/sha256");
        fs_err::create_dir_all(&blobs).map_err(&io)?;
        for entry in fs_err::read_dir(self.directory().join("blobs/sha256")).map_err(&io)? {
            let entry = entry.map_err(&io)?;
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                continue;
            }
            match fs_err::hard_link(entry.path(), blobs.join(entry.file_name())) {
                // Somebody removed what no name needs.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.map_err(&io)?,
            }
        }
        write_atomic(&directory.join("oci-layout"), super::LAYOUT_FILE, FILE_MODE).map_err(&io)?;
        write_atomic(&directory.join("index.json"), &index, FILE_MODE).map_err(&io)?;
        Store::open(directory)
    }
}
