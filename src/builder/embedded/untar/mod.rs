//! Archives into drafts: layers of base images, and local archives that ADD unpacks.

use std::fs::File;
use std::io::{self, Read};

use crate::content::ErrorClass;
use crate::oci::DiffId;

use super::snapshot::Draft;
use super::snapshot::upper::Upper;
use super::tree::Entry;

/// Why an archive could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UntarError {
    /// Reading the archive or writing what is in it did not work.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl UntarError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Damaged
    }
}

/// How members of an archive are unpacked.
pub(super) struct Members {
    /// The directory that they go into.
    pub(super) into: Vec<u8>,
    /// Their owner, when it is not the archive's.
    pub(super) owner: Option<(u32, u32)>,
    /// What directories that the archive does not name are like.
    pub(super) new_directory: Entry,
}

pub(super) fn layer(_draft: &mut Draft, _blob: impl Read) -> Result<DiffId, UntarError> {
    Err(io::Error::from(io::ErrorKind::Unsupported).into())
}
pub(super) fn is_archive(_file: &File) -> io::Result<bool> {
    Ok(false)
}
pub(super) fn archive(_upper: &mut Upper<'_>, _file: &File, members: &Members) -> Result<(), UntarError> {
    let _ = (&members.into, members.owner, &members.new_directory);
    Ok(())
}
