//! One path of a tree, and the Merkle hash of it and all below.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{Entry, Kind};

#[derive(Clone)]
pub(super) struct Node {
    pub(super) entry: Entry,
    /// First name of the file, for a file that came with several.
    pub(super) link: Option<Box<[u8]>>,
    pub(super) origin: u32,
    pub(super) children: BTreeMap<Box<[u8]>, Arc<Node>>,
    hash: OnceLock<blake3::Hash>,
}

impl Node {
    pub(super) fn new(entry: Entry, link: Option<Box<[u8]>>, origin: usize) -> Self {
        Self { entry, link, origin: origin as u32, children: BTreeMap::new(), hash: OnceLock::new() }
    }

    /// Forgets the hash: called on every node from the root to one that is about to change.
    pub(super) fn changed(&mut self) {
        self.hash.take();
    }

    /// Returns the hash of everything but times, computed once per node: directories that two trees share are hashed
    /// once for both.
    pub(super) fn hash(&self) -> blake3::Hash {
        *self.hash.get_or_init(|| self.compute(true))
    }

    /// Returns the hash of this path alone: of a directory without what is in it.
    pub(super) fn own_hash(&self) -> blake3::Hash {
        self.compute(false)
    }

    /// Version 1. Numbers are little-endian; every text is preceded by its length.
    fn compute(&self, with_children: bool) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        let text = |hasher: &mut blake3::Hasher, bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        let Entry { kind, mode, uid, gid, mtime: _, xattrs } = &self.entry;
        hasher.update(b"pkgbuild tree 1\0");
        for number in [mode, uid, gid] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&(xattrs.len() as u64).to_le_bytes());
        for (name, value) in xattrs {
            text(&mut hasher, name);
            text(&mut hasher, value);
        }
        let device = |hasher: &mut blake3::Hasher, tag: &[u8; 1], major: &u32, minor: &u32| {
            hasher.update(tag).update(&major.to_le_bytes()).update(&minor.to_le_bytes());
        };
        match kind {
            Kind::Directory if !with_children => {
                hasher.update(b"o");
            }
            Kind::Directory => {
                hasher.update(b"d").update(&(self.children.len() as u64).to_le_bytes());
                for (name, child) in &self.children {
                    text(&mut hasher, name);
                    hasher.update(child.hash().as_bytes());
                }
            }
            Kind::File { size, hash } => {
                hasher.update(b"f").update(&size.to_le_bytes()).update(hash.as_bytes());
                text(&mut hasher, self.link.as_deref().unwrap_or_default());
            }
            Kind::Symlink { target } => {
                hasher.update(b"l");
                text(&mut hasher, target);
            }
            Kind::HardLink { to } => {
                hasher.update(b"h");
                text(&mut hasher, to);
            }
            Kind::Fifo => {
                hasher.update(b"p");
            }
            Kind::CharDevice { major, minor } => device(&mut hasher, b"c", major, minor),
            Kind::BlockDevice { major, minor } => device(&mut hasher, b"b", major, minor),
        }
        hasher.finalize()
    }
}
