//! The tar of a layer: a function of its change list and the source date, byte for byte.
//!
//! POSIX ustar headers, with a pax header before those that do not fit: names or link targets over 100 bytes or not
//! ASCII, 8 GiB and more, ids over 2097151, extended attributes. No GNU extensions, no user names, no access times.
//! Times are whole seconds, not after the source date and not before the epoch; whiteouts are of time 0. The end is two
//! blocks of zeros and no more.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::sys::fs::named;
use crate::time::SourceDate;

use super::super::snapshot::upper::shown;
use super::super::tree::{Change, ChangeList, Entry, Kind, join, split};
use super::PackError;

const BLOCK: usize = 512;
/// Largest number that seven octal digits hold.
const ID_LIMIT: u32 = 0o7_777_777;
/// Largest number that eleven octal digits hold.
const SIZE_LIMIT: u64 = 0o77_777_777_777;
/// Begins the name of an entry that says that something is gone (OCI image-spec, "Whiteouts").
pub(super) const WHITEOUT: &[u8] = b".wh.";

/// Writes the tar of `changes` to `out`; `open` gives the data of files.
///
/// # Errors
/// When data cannot be read, is not what the change list says, or cannot be written; or when a name would be a whiteout.
pub(super) fn write(
    changes: &ChangeList,
    date: SourceDate,
    mut open: impl FnMut(&[u8]) -> io::Result<File>,
    out: &mut impl Write,
) -> Result<(), PackError> {
    for (path, change) in changes.iter().filter(|(path, _)| !path.is_empty()) {
        let (parent, name) = split(path);
        if name.starts_with(WHITEOUT) {
            return Err(PackError::ReservedName { path: path.to_vec() });
        }
        let Some(entry) = change.entry() else {
            let name = join(parent, &[WHITEOUT, name].concat());
            Header { name: &name, kind: b'0', mode: 0, ..Header::default() }.write(out)?;
            continue;
        };
        debug_assert!(matches!(change, Change::Put(_)) || entry.is_directory());
        header(path, entry, date, out)?;
        if let Kind::File { size, hash } = entry.kind {
            let file = open(path)?;
            copy(&file, path, size, hash, out)?;
        }
    }
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(())
}

fn header(path: &[u8], entry: &Entry, date: SourceDate, out: &mut impl Write) -> io::Result<()> {
    let mut name = path.to_vec();
    let mut header = Header {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime.min(date.0).max(0) as u64,
        xattrs: entry.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect(),
        ..Header::default()
    };
    match &entry.kind {
        Kind::Directory => {
            header.kind = b'5';
            name.push(b'/');
        }
        Kind::File { size, .. } => (header.kind, header.size) = (b'0', *size),
        Kind::Symlink { target } => (header.kind, header.target) = (b'2', target),
        Kind::HardLink { to } => {
            (header.kind, header.target) = (b'1', to);
            // They are the file's, which came before.
            header.xattrs.clear();
        }
        Kind::Fifo => header.kind = b'6',
        Kind::CharDevice { major, minor } => (header.kind, header.device) = (b'3', (*major, *minor)),
        Kind::BlockDevice { major, minor } => (header.kind, header.device) = (b'4', (*major, *minor)),
    }
    header.name = &name;
    header.write(out)
}

/// Writes the data of a file, which must be what was recorded, padded to whole blocks.
fn copy(mut file: &File, path: &[u8], size: u64, expected: blake3::Hash, out: &mut impl Write) -> Result<(), PackError> {
    let damaged = || PackError::Damaged { path: path.to_vec() };
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    let mut left = size;
    loop {
        let count = match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result.map_err(|e| named(e, "read", &shown(path)))?,
        };
        if count == 0 {
            break;
        }
        left = left.checked_sub(count as u64).ok_or_else(damaged)?;
        hasher.update(&buffer[..count]);
        out.write_all(&buffer[..count])?;
    }
    if left != 0 || hasher.finalize() != expected {
        return Err(damaged());
    }
    out.write_all(&[0; BLOCK][..padding(size)])?;
    Ok(())
}

fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// One header, and the pax header that it may need.
#[derive(Default)]
struct Header<'a> {
    name: &'a [u8],
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
    target: &'a [u8],
    device: (u32, u32),
    xattrs: Vec<(&'a [u8], &'a [u8])>,
}

impl Header<'_> {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let extended = self.extended();
        if !extended.is_empty() {
            let name = self.name.strip_suffix(b"/").unwrap_or(self.name);
            let name = [b"PaxHeaders.0/", &*plain(split(name).1)].concat();
            let pax = Header { name: &name, kind: b'x', mode: 0o644, size: extended.len() as u64, ..Header::default() };
            out.write_all(&pax.block())?;
            out.write_all(&extended)?;
            out.write_all(&[0; BLOCK][..padding(extended.len() as u64)])?;
        }
        out.write_all(&self.block())
    }

    /// Returns the records of the pax header, sorted by key; none when everything fits.
    fn extended(&self) -> Vec<u8> {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let fits = |text: &[u8]| text.len() <= 100 && text.is_ascii();
        if !fits(self.name) {
            records.push((b"path".to_vec(), self.name.to_vec()));
        }
        if !fits(self.target) {
            records.push((b"linkpath".to_vec(), self.target.to_vec()));
        }
        if self.size > SIZE_LIMIT {
            records.push((b"size".to_vec(), self.size.to_string().into_bytes()));
        }
        for (key, id) in [("uid", self.uid), ("gid", self.gid)] {
            if id > ID_LIMIT {
                records.push((key.as_bytes().to_vec(), id.to_string().into_bytes()));
            }
        }
        if self.mtime > SIZE_LIMIT {
            records.push((b"mtime".to_vec(), self.mtime.to_string().into_bytes()));
        }
        for (name, value) in &self.xattrs {
            records.push(([b"SCHILY.xattr.", *name].concat(), value.to_vec()));
        }
        records.sort();
        records.iter().flat_map(|(key, value)| record(key, value)).collect()
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut text = |at: usize, length: usize, value: &[u8]| {
            let value = &value[..value.len().min(length)];
            block[at..at + value.len()].copy_from_slice(value);
        };
        let octal = |value: u64, digits: usize| format!("{value:0digits$o}\0").into_bytes();
        text(0, 100, &plain(self.name));
        text(100, 8, &octal(u64::from(self.mode), 7));
        text(108, 8, &octal(u64::from(if self.uid > ID_LIMIT { 0 } else { self.uid }), 7));
        text(116, 8, &octal(u64::from(if self.gid > ID_LIMIT { 0 } else { self.gid }), 7));
        text(124, 12, &octal(if self.size > SIZE_LIMIT { 0 } else { self.size }, 11));
        text(136, 12, &octal(if self.mtime > SIZE_LIMIT { 0 } else { self.mtime }, 11));
        text(148, 8, b"        ");
        text(156, 1, &[self.kind]);
        text(157, 100, &plain(self.target));
        text(257, 8, b"ustar\x0000");
        if matches!(self.kind, b'3' | b'4') {
            text(329, 8, &octal(u64::from(self.device.0), 7));
            text(337, 8, &octal(u64::from(self.device.1), 7));
        }
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// Returns what of a text goes into a header whose pax header has all of it.
fn plain(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).take(100).collect()
}

/// Returns a pax record, which begins with its own length in decimal, that number included.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if rest + length.to_string().len() > length {
        length += 1;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}
