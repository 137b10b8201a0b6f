//! What a layer changes: the list, its order, and its form on disk.
//!
//! Form on disk, version 1; numbers are LEB128, signed ones zigzag; a text is its length and its bytes:
//! ```text
//! "pkgbuild changes 1\n"  count  record*
//! record = shared (bytes in common with the path before)  rest (text)  tag
//!          tag 0 whiteout | 1 put + entry | 2 header + entry
//! entry  = mode uid gid mtime  count (name value)*  kind
//! kind   = 0 directory | 1 file: size, 32 bytes BLAKE3 | 2 symlink: target | 3 hard link: to | 4 fifo
//!          | 5 character device: major minor | 6 block device: major minor
//! ```

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Entry, Kind};

const MAGIC: &[u8] = b"pkgbuild changes 1\n";

/// What a layer does to one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The path is new, or something about it is.
    Put(Entry),
    /// The directory is as it was, except perhaps for its modification time, but something below it changed.
    Header(Entry),
    /// What was there is gone, with everything below it.
    Whiteout,
}

impl Change {
    /// Returns the metadata after the change, or `None` when the path is gone.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Put(entry) | Self::Header(entry) => Some(entry),
            Self::Whiteout => None,
        }
    }
}

/// Identifies a layer: BLAKE3 of its change list, times and hard links included, so that the id and a source date
/// determine the packed bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LayerId(pub blake3::Hash);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

impl FromStr for LayerId {
    type Err = blake3::HexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text).map(Self)
    }
}

/// Why bytes are not a change list.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// They do not begin as version 1 does.
    #[error("not a change list of version 1")]
    Version,
    /// They end too early, hold an unknown tag, are not in order, or go on after the end.
    #[error("the change list is damaged at byte {0}")]
    Damaged(usize),
    /// They are a change list, but not the one asked for.
    #[error("the change list is that of layer {actual}, not of {expected}")]
    OtherLayer {
        /// The layer asked for.
        expected: LayerId,
        /// The layer found.
        actual: LayerId,
    },
}

/// Compares paths so that a directory comes before its content and its content before its next sibling.
pub fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    // No path has a NUL byte, so a slash that counts as NUL sorts before every other byte.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// The changes of one layer in walk order, each path once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChangeList {
    changes: Vec<(Vec<u8>, Change)>,
}

impl ChangeList {
    /// Returns the list of `changes`, which may come in any order but name every path once.
    pub fn new(mut changes: Vec<(Vec<u8>, Change)>) -> Self {
        changes.sort_unstable_by(|(a, _), (b, _)| walk_order(a, b));
        debug_assert!(changes.windows(2).all(|pair| pair[0].0 != pair[1].0), "a path changes once in a layer");
        Self { changes }
    }

    /// Returns the changes in walk order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Change)> {
        self.changes.iter().map(|(path, change)| (&**path, change))
    }

    /// Returns the change of `path`, if it has one.
    pub fn get(&self, path: &[u8]) -> Option<&Change> {
        self.changes.binary_search_by(|(other, _)| walk_order(other, path)).ok().map(|index| &self.changes[index].1)
    }

    /// Returns how many paths change.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Returns whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Returns the bytes of the list; equal lists have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + self.changes.len() * 64);
        bytes.extend_from_slice(MAGIC);
        number(&mut bytes, self.changes.len() as u64);
        let mut before: &[u8] = b"";
        for (path, change) in &self.changes {
            let shared = before.iter().zip(path).take_while(|(a, b)| a == b).count();
            number(&mut bytes, shared as u64);
            text(&mut bytes, &path[shared..]);
            match change {
                Change::Whiteout => bytes.push(0),
                Change::Put(entry) => encode_entry(&mut bytes, 1, entry),
                Change::Header(entry) => encode_entry(&mut bytes, 2, entry),
            }
            before = path;
        }
        bytes
    }

    /// Returns the id of the layer that `encoded` is the change list of.
    pub fn id_of(encoded: &[u8]) -> LayerId {
        LayerId(blake3::hash(encoded))
    }

    /// Reads the change list of the layer `id`.
    ///
    /// # Errors
    /// As [`ChangesError`]; what is returned hashes to `id`.
    pub fn decode(bytes: &[u8], id: &LayerId) -> Result<Self, ChangesError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(ChangesError::Version)?;
        let actual = Self::id_of(bytes);
        if actual != *id {
            return Err(ChangesError::OtherLayer { expected: *id, actual });
        }
        let mut reader = Reader { rest };
        reader.list().ok_or(ChangesError::Damaged(bytes.len() - reader.rest.len()))
    }
}

fn number(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn text(bytes: &mut Vec<u8>, value: &[u8]) {
    number(bytes, value.len() as u64);
    bytes.extend_from_slice(value);
}

fn encode_entry(bytes: &mut Vec<u8>, tag: u8, entry: &Entry) {
    bytes.push(tag);
    for value in [entry.mode, entry.uid, entry.gid] {
        number(bytes, u64::from(value));
    }
    number(bytes, ((entry.mtime << 1) ^ (entry.mtime >> 63)) as u64);
    number(bytes, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        text(bytes, name);
        text(bytes, value);
    }
    let mut device = |tag: u8, major: &u32, minor: &u32| {
        bytes.push(tag);
        number(bytes, u64::from(*major));
        number(bytes, u64::from(*minor));
    };
    match &entry.kind {
        Kind::Directory => bytes.push(0),
        Kind::File { size, hash } => {
            bytes.push(1);
            number(bytes, *size);
            bytes.extend_from_slice(hash.as_bytes());
        }
        Kind::Symlink { target } => {
            bytes.push(2);
            text(bytes, target);
        }
        Kind::HardLink { to } => {
            bytes.push(3);
            text(bytes, to);
        }
        Kind::Fifo => bytes.push(4),
        Kind::CharDevice { major, minor } => device(5, major, minor),
        Kind::BlockDevice { major, minor } => device(6, major, minor),
    }
}

/// Takes values off the front; `None` when the bytes do not hold one.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn list(&mut self) -> Option<ChangeList> {
        let count = self.number()?;
        let mut changes: Vec<(Vec<u8>, Change)> = Vec::new();
        for _ in 0..count {
            let shared = usize::try_from(self.number()?).ok()?;
            let mut path = changes.last().map_or(&b""[..], |(path, _)| path).get(..shared)?.to_vec();
            path.extend_from_slice(self.text()?);
            if changes.last().is_some_and(|(before, _)| walk_order(before, &path) != Ordering::Less) {
                return None;
            }
            let change = match self.byte()? {
                0 => Change::Whiteout,
                1 => Change::Put(self.entry()?),
                2 => Change::Header(self.entry()?),
                _ => return None,
            };
            changes.push((path, change));
        }
        self.rest.is_empty().then_some(ChangeList { changes })
    }

    fn entry(&mut self) -> Option<Entry> {
        let [mode, uid, gid] = [self.short()?, self.short()?, self.short()?];
        let zigzag = self.number()?;
        let mtime = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let mut xattrs = BTreeMap::new();
        for _ in 0..self.number()? {
            xattrs.insert(self.text()?.to_vec(), self.text()?.to_vec());
        }
        let kind = match self.byte()? {
            0 => Kind::Directory,
            1 => Kind::File { size: self.number()?, hash: blake3::Hash::from_bytes(self.take(32)?.try_into().ok()?) },
            2 => Kind::Symlink { target: self.text()?.to_vec() },
            3 => Kind::HardLink { to: self.text()?.to_vec() },
            4 => Kind::Fifo,
            5 => Kind::CharDevice { major: self.short()?, minor: self.short()? },
            6 => Kind::BlockDevice { major: self.short()?, minor: self.short()? },
            _ => return None,
        };
        Some(Entry { kind, mode, uid, gid, mtime, xattrs })
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn short(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }
}
