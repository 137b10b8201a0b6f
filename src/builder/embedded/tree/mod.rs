//! What a root file system looks like, without its bytes: every path with its metadata and the hash of its data.
//!
//! Trees are persistent: a changed tree shares all directories that did not change with the one it was made from, so a
//! build of many steps over a large base costs little more memory than the base, and the id of a tree after a step
//! costs only the directories that the step touched.
//!
//! Paths are bytes relative to the root, components joined by `/`, with no leading slash; the root itself is empty.

pub mod changes;
mod node;
mod resolve;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use changes::{Change, ChangeList, ChangesError, LayerId, walk_order};
pub use resolve::{LINKS_LIMIT, LoopError};

use node::Node;

/// The metadata of one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What is there.
    pub kind: Kind,
    /// Permission bits with set-user-id, set-group-id and sticky bit: at most `0o7777`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Modification time in whole seconds since the epoch, rounded down.
    pub mtime: i64,
    /// Extended attributes that images keep: `security.capability` and `user.*`.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a path is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Bytes of data.
        size: u64,
        /// BLAKE3 of the data.
        hash: blake3::Hash,
    },
    /// A symbolic link.
    Symlink {
        /// What it says, as it says it.
        target: Vec<u8>,
    },
    /// One more name of a file that the same layer brings. Only in change lists: in a [`Tree`] every name of a file is
    /// a [`Kind::File`].
    HardLink {
        /// The first name of the file, in walk order.
        to: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Its driver.
        major: u32,
        /// Its unit.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its driver.
        major: u32,
        /// Its unit.
        minor: u32,
    },
}

impl Entry {
    /// Returns a directory's entry without extended attributes.
    pub fn directory(mode: u32, uid: u32, gid: u32, mtime: i64) -> Self {
        Self { kind: Kind::Directory, mode, uid, gid, mtime, xattrs: BTreeMap::new() }
    }

    /// Returns whether this is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// Returns whether both differ at most in modification time.
    pub fn same_but_time(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.mode == other.mode
            && self.uid == other.uid
            && self.gid == other.gid
            && self.xattrs == other.xattrs
    }
}

/// Identifies the content of a tree: everything but modification times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TreeId(pub blake3::Hash);

impl fmt::Display for TreeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_hex())
    }
}

/// A whole root file system. Cheap to clone.
#[derive(Clone)]
pub struct Tree {
    root: Arc<Node>,
}

impl Default for Tree {
    /// Returns a tree of nothing but its root: a directory of mode 0755 owned by 0:0.
    fn default() -> Self {
        Self { root: Arc::new(Node::new(Entry::directory(0o755, 0, 0, 0), None, 0)) }
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.range(b"").map(|(path, entry)| (String::from_utf8_lossy(&path).into_owned(), entry))).finish()
    }
}

impl PartialEq for Tree {
    /// Compares content, as [`Tree::id`] does.
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Tree {}

impl Tree {
    /// Returns the id of the content: equal for trees that differ only in modification times.
    ///
    /// Covers names, kinds, modes, owners, extended attributes, link targets, device numbers, data, and which names
    /// were hard links of each other in the layer that brought them.
    pub fn id(&self) -> TreeId {
        TreeId(self.root.hash())
    }

    /// Returns the id of what is at `path` and below, or `None` when nothing is. Links are not followed.
    pub fn hash_of(&self, path: &[u8]) -> Option<TreeId> {
        self.node(path).map(|node| TreeId(node.hash()))
    }

    /// As [`Tree::hash_of`], but of `path` alone: of a directory without what is in it.
    pub fn own_hash_of(&self, path: &[u8]) -> Option<TreeId> {
        self.node(path).map(|node| TreeId(node.own_hash()))
    }

    /// Returns what is at `path`; links are not followed.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        self.node(path).map(|node| &node.entry)
    }

    /// Returns the number that the change which put `path` was applied with: for snapshots, the position of the layer
    /// that has its data; for a build context, the number of the root it comes from.
    pub fn origin(&self, path: &[u8]) -> Option<usize> {
        self.node(path).map(|node| node.origin as usize)
    }

    /// Returns the first name of the hard links that `path` came with, if it came as one of several names of a file.
    ///
    /// Names with the same [`Tree::origin`] and the same first name were one file in the layer that brought them.
    pub(crate) fn link_set(&self, path: &[u8]) -> Option<&[u8]> {
        self.node(path).and_then(|node| node.link.as_deref())
    }

    /// Returns names and entries in the directory `path`, sorted by name; nothing when it is not a directory.
    pub fn children<'a>(&'a self, path: &[u8]) -> impl Iterator<Item = (&'a [u8], &'a Entry)> + use<'a> {
        self.node(path).into_iter().flat_map(|node| node.children.iter()).map(|(name, node)| (&**name, &node.entry))
    }

    /// Returns `path` and everything below it in walk order: a directory before its content, names sorted by bytes.
    pub fn range<'a>(&'a self, path: &[u8]) -> Walk<'a> {
        Walk { stack: self.node(path).map(|node| (path.to_vec(), node)).into_iter().collect() }
    }

    fn node(&self, path: &[u8]) -> Option<&Node> {
        components(path).try_fold(&*self.root, |node, name| node.children.get(name).map(|child| &**child))
    }

    /// Puts `entry` at `path` and remembers `origin` with it.
    ///
    /// Directories on the way that are missing are made with mode 0755, owner 0:0 and time 0; what is on the way and is
    /// no directory is replaced. A directory keeps what was below it when the new entry is one too.
    pub fn put(&mut self, path: &[u8], entry: Entry, origin: usize) {
        let (entry, link) = match entry.kind {
            Kind::HardLink { ref to } => self.linked(to, entry.clone(), origin),
            _ => (entry, None),
        };
        let mut node = Arc::make_mut(&mut self.root);
        node.changed();
        for name in components(path) {
            if !node.entry.is_directory() {
                *node = Node::new(Entry::directory(0o755, 0, 0, 0), None, origin);
            }
            let child = node
                .children
                .entry(name.into())
                .or_insert_with(|| Arc::new(Node::new(Entry::directory(0o755, 0, 0, 0), None, origin)));
            node = Arc::make_mut(child);
            node.changed();
        }
        if !(node.entry.is_directory() && entry.is_directory()) {
            node.children.clear();
        }
        node.entry = entry;
        node.link = link;
        node.origin = origin as u32;
    }

    fn linked(&mut self, to: &[u8], entry: Entry, origin: usize) -> (Entry, Option<Box<[u8]>>) {
        let Some(target) = self.node_mut(to) else { return (entry, None) };
        target.link = Some(to.into());
        debug_assert_eq!(target.origin as usize, origin, "hard links are within one layer");
        (target.entry.clone(), Some(to.into()))
    }

    fn node_mut(&mut self, path: &[u8]) -> Option<&mut Node> {
        self.node(path)?;
        let mut node = Arc::make_mut(&mut self.root);
        node.changed();
        for name in components(path) {
            node = Arc::make_mut(node.children.get_mut(name)?);
            node.changed();
        }
        Some(node)
    }

    /// Sets the hash of the file at `path`, which was put before its data was read.
    pub(crate) fn set_hash(&mut self, path: &[u8], data: blake3::Hash) {
        if let Some(node) = self.node_mut(path)
            && let Kind::File { hash, .. } = &mut node.entry.kind
        {
            *hash = data;
        }
    }

    /// Sets modification time and metadata of the directory at `path`, which must be there, keeping its content.
    fn refresh(&mut self, path: &[u8], entry: &Entry) {
        if let Some(node) = self.node_mut(path)
            && node.entry.is_directory()
        {
            node.entry = entry.clone();
        }
    }

    /// Removes `path` and everything below it; the root stays.
    pub fn remove(&mut self, path: &[u8]) {
        let (parent, name) = split(path);
        if !name.is_empty()
            && let Some(node) = self.node_mut(parent)
        {
            node.children.remove(name);
        }
    }

    /// Applies the changes of a layer, remembering `origin` with every path that they put.
    pub fn apply(&mut self, changes: &ChangeList, origin: usize) {
        for (path, change) in changes.iter() {
            match change {
                Change::Put(entry) => self.put(path, entry.clone(), origin),
                Change::Header(entry) => self.refresh(path, entry),
                Change::Whiteout => self.remove(path),
            }
        }
    }
}

/// Iterates over a tree in walk order.
pub struct Walk<'a> {
    stack: Vec<(Vec<u8>, &'a Node)>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (Vec<u8>, &'a Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let (path, node) = self.stack.pop()?;
        self.stack.extend(node.children.iter().rev().map(|(name, child)| (join(&path, name), &**child)));
        Some((path, &node.entry))
    }
}

/// Returns the components of a path; empty ones and `.` are left out.
pub fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Returns the components of a path with `.` and `..` taken away lexically, as if it began at the root.
pub fn clean(path: &[u8]) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in components(path) {
        if name == b".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    names
}

/// As [`clean`], joined.
pub fn cleaned(path: &[u8]) -> Vec<u8> {
    clean(path).join(&b'/')
}

/// Returns `directory/name`.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Returns a path's directory and its last component; both are empty for the root.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests;
