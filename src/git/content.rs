//! linuxkit's hash of a dirty directory, with the properties that its published tags depend on.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::GitError;
use super::repository::{Files, as_path};

/// Returns the hex SHA-256 over the contents of `files` in `directory`, one after the other.
///
/// linuxkit reads the names from `git ls-files`, a line each, and skips what it cannot find, directories and symbolic
/// links. So a name that git quotes is skipped, as is one whose blanks at the very start or end of the list are trimmed.
pub(super) fn hash(directory: &Path, files: &Files, quote_path: bool) -> Result<String, GitError> {
    let mut hasher = Sha256::new();
    let names: Vec<&[u8]> = files.tracked.iter().chain(&files.untracked).map(Vec::as_slice).collect();
    let last = names.len().saturating_sub(1);
    for (at, name) in names.iter().enumerate() {
        let mut name = *name;
        if is_quoted(name, quote_path) {
            continue;
        }
        if at == 0 {
            name = trim_start(name);
        }
        if at == last {
            name = trim_end(name);
        }
        let path = directory.join(as_path(name));
        let Ok(found) = fs_err::symlink_metadata(&path) else { continue };
        if found.is_dir() || found.is_symlink() {
            continue;
        }
        let Ok(mut file) = fs_err::File::open(&path) else { continue };
        io::copy(&mut file, &mut Hashing(&mut hasher)).map_err(GitError::File)?;
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Hashing<'a>(&'a mut Sha256);

impl io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether git prints `name` in quotes (git-config, `core.quotePath`).
fn is_quoted(name: &[u8], quote_path: bool) -> bool {
    name.iter().any(|byte| matches!(byte, 0..0x20 | 0x7f | b'"' | b'\\') || (quote_path && *byte >= 0x80))
}

/// Trims as Go's `strings.TrimSpace`, which knows the blanks of Unicode; bytes that are no UTF-8 are none.
fn trim_start(name: &[u8]) -> &[u8] {
    match std::str::from_utf8(name) {
        Ok(text) => text.trim_start().as_bytes(),
        Err(_) => name.trim_ascii_start(),
    }
}

fn trim_end(name: &[u8]) -> &[u8] {
    match std::str::from_utf8(name) {
        Ok(text) => text.trim_end().as_bytes(),
        Err(_) => name.trim_ascii_end(),
    }
}

/// Returns paths separated by NUL as git prints them with `-z`.
pub(super) fn split(output: &[u8]) -> Vec<Vec<u8>> {
    output.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Returns the bytes of `path`.
pub(super) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
