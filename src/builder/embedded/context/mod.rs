//! The build context as a tree: several directories laid over each other, without what is ignored.
//!
//! Nothing is copied to make it. Links are not followed, on the way or at the end. Owners are 0:0; names that are hard
//! links of each other on this machine are separate files, because that is an accident of the checkout.

mod hashes;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};

use crate::builder::Context;
use crate::content::ErrorClass;
use crate::dockerfile::Ignore;
use crate::dockerfile::ignore::Matched;
use crate::sys::fs::named;

use super::differ::{hash_file, kept_xattrs};
use super::parallel;
use super::snapshot::upper::{open_beneath, open_root, shown};
use super::tree::{Entry, Kind, Tree, components, join, split};
use hashes::{Hashes, Stamp};

/// Why the context could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// Something in the context could not be read; the error names it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file is not what it was when the context was scanned.
    #[error("`{}` changed during the build", shown(path).display())]
    Changed {
        /// Path in the context.
        path: Vec<u8>,
    },
    /// A path is not, or no longer, in the context.
    #[error("`{}` is not in the build context", shown(path).display())]
    Missing {
        /// Path in the context.
        path: Vec<u8>,
    },
}

impl ContextError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io(_) | Self::Missing { .. } => ErrorClass::Permanent,
            Self::Changed { .. } => ErrorClass::Retryable,
        }
    }
}

/// The build context at one moment.
pub struct ContextTree {
    tree: Tree,
    roots: Vec<Root>,
    stamps: BTreeMap<Vec<u8>, Stamp>,
    /// Ignored directories, which are part of the context only if something below them is.
    ways: BTreeMap<Vec<u8>, Entry>,
    warnings: Vec<String>,
}

struct Root {
    directory: OwnedFd,
    target: Vec<u8>,
    replaces: bool,
}

impl ContextTree {
    /// Reads the context's directories and hashes its files, without what `ignore` leaves out. `cache` is the cache
    /// directory, where the hashes of files that did not change since are found.
    ///
    /// Where two roots have the same path, directories are merged, and of anything else the later root's is taken; a root
    /// that replaces leaves nothing of what was at its target.
    ///
    /// # Errors
    /// When something that is not left out cannot be read.
    pub fn scan(context: &Context, ignore: &Ignore, cache: &Path) -> Result<Self, ContextError> {
        let mut scan = Self {
            tree: Tree::default(),
            roots: Vec::new(),
            stamps: BTreeMap::new(),
            ways: BTreeMap::new(),
            warnings: Vec::new(),
        };
        for root in &context.roots {
            let directory = open_root(&root.source)?;
            let target: Vec<u8> = components(root.target.as_os_str().as_bytes()).collect::<Vec<_>>().join(&b'/');
            scan.roots.push(Root { directory, target, replaces: root.replaces });
        }
        for number in 0..scan.roots.len() {
            scan.read_root(number, ignore)?;
        }
        scan.hash(context, cache)?;
        Ok(scan)
    }

    /// Returns what the context looks like. [`Tree::origin`] is the number of the root that a path comes from.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns what was left out though nobody asked for it, one line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Opens a file of the context.
    ///
    /// # Errors
    /// [`ContextError::Changed`] when it is not the file that was scanned, and when it cannot be opened.
    pub fn open(&self, path: &[u8]) -> Result<File, ContextError> {
        let file = self.open_unchecked(path)?;
        self.check(path, &file)?;
        Ok(file)
    }

    /// Makes sure that `file`, which was opened as `path`, is still what was scanned: to be asked after reading it.
    ///
    /// # Errors
    /// [`ContextError::Changed`] when it is not.
    pub fn check(&self, path: &[u8], file: &File) -> Result<(), ContextError> {
        let now = Stamp::of(&rustix::fs::fstat(file).map_err(|e| named(e.into(), "read", &shown(path)))?);
        if self.stamps.get(path) == Some(&now) { Ok(()) } else { Err(ContextError::Changed { path: path.to_vec() }) }
    }

    fn open_unchecked(&self, path: &[u8]) -> Result<File, ContextError> {
        let missing = || ContextError::Missing { path: path.to_vec() };
        let root = &self.roots[self.tree.origin(path).ok_or_else(missing)?];
        let inner = inside(path, &root.target).ok_or_else(missing)?;
        Ok(File::from(open_beneath(root.directory.as_fd(), inner, OFlags::RDONLY | OFlags::NONBLOCK)?))
    }

    fn read_root(&mut self, number: usize, ignore: &Ignore) -> Result<(), ContextError> {
        let mut way = Vec::new();
        let mut matched = Matched::default();
        for name in components(&self.roots[number].target.clone()) {
            way = join(&way, name);
            matched = ignore.step(&way, &matched).1;
            if !self.tree.get(&way).is_some_and(Entry::is_directory) {
                self.tree.put(&way, Entry::directory(0o755, 0, 0, 0), number);
            }
        }
        if self.roots[number].replaces && !way.is_empty() {
            self.tree.remove(&way);
            self.tree.put(&way, Entry::directory(0o755, 0, 0, 0), number);
        }
        let mut todo = vec![(way, matched)];
        while let Some(directory) = todo.pop() {
            self.read_directory(number, &directory, ignore, &mut todo)?;
        }
        Ok(())
    }

    fn read_directory(
        &mut self,
        number: usize,
        (path, matched): &(Vec<u8>, Matched),
        ignore: &Ignore,
        todo: &mut Vec<(Vec<u8>, Matched)>,
    ) -> Result<(), ContextError> {
        let root = &self.roots[number];
        let inner = inside(path, &root.target).expect("only paths of the root are read");
        let directory = open_beneath(root.directory.as_fd(), inner, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let names: Vec<CString> = rustix::fs::Dir::read_from(&directory)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name().to_owned())).collect())
            .map_err(|e| named(e.into(), "list", &shown(path)))?;
        for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
            let child = join(path, name.to_bytes());
            let (excluded, matched) = ignore.step(&child, matched);
            if excluded && !ignore.may_keep_below(&child) {
                continue;
            }
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| named(e.into(), "read", &shown(&child)))?;
            if excluded && FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            if let Some(entry) = self.read_one(&child, &stat, (&directory, name))? {
                if entry.is_directory() {
                    todo.push((child.clone(), matched));
                }
                if excluded {
                    self.ways.insert(child, entry);
                } else {
                    self.put(number, child, entry);
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, number: usize, path: Vec<u8>, entry: Entry) {
        let mut way = Vec::new();
        for name in components(split(&path).0) {
            way = join(&way, name);
            if self.tree.get(&way).is_none()
                && let Some(entry) = self.ways.remove(&way)
            {
                self.tree.put(&way, entry, number);
            }
        }
        self.tree.put(&path, entry, number);
    }

    /// Returns what is at `path`, or `None` for what a context does not have.
    fn read_one(
        &mut self,
        path: &[u8],
        stat: &Stat,
        (directory, name): (&OwnedFd, &CString),
    ) -> Result<Option<Entry>, ContextError> {
        let failed = |error: io::Error| named(error, "read", &shown(path));
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let mut mode = stat.st_mode & 0o7777;
        let mut xattrs = BTreeMap::new();
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner =
                    open_beneath(directory.as_fd(), name.to_bytes(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
                xattrs = kept_xattrs(inner.as_fd()).map_err(failed)?;
                Kind::Directory
            }
            FileType::RegularFile => {
                let file = open_beneath(directory.as_fd(), name.to_bytes(), OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed)?;
                xattrs = kept_xattrs(file.as_fd()).map_err(failed)?;
                Kind::File { size: stat.st_size as u64, hash: blake3::Hash::from_bytes([0; 32]) }
            }
            FileType::Symlink => {
                mode = 0o777;
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).map_err(|e| failed(e.into()))?;
                Kind::Symlink { target: target.into_bytes() }
            }
            FileType::Fifo => Kind::Fifo,
            FileType::CharacterDevice => Kind::CharDevice { major, minor },
            FileType::BlockDevice => Kind::BlockDevice { major, minor },
            _ => {
                self.warnings.push(format!("the socket `{}` is left out of the build context", shown(path).display()));
                return Ok(None);
            }
        };
        if matches!(kind, Kind::File { .. }) {
            self.stamps.insert(path.to_vec(), Stamp::of(stat));
        }
        Ok(Some(Entry { kind, mode, uid: 0, gid: 0, mtime: stat.st_mtime, xattrs }))
    }

    /// Fills in the hashes of all files.
    fn hash(&mut self, context: &Context, cache: &Path) -> Result<(), ContextError> {
        let sources = context.roots.iter().map(|root| root.source.as_path());
        let hashes = Hashes::open(cache, sources)?;
        // A file below what a later root replaced is not part of the tree any more.
        let stamps = &mut self.stamps;
        let tree = &self.tree;
        stamps.retain(|path, _| tree.get(path).is_some_and(|entry| matches!(entry.kind, Kind::File { .. })));
        let files: Vec<(&Vec<u8>, &Stamp)> = self.stamps.iter().collect();
        let known: Vec<(blake3::Hash, bool)> = parallel::map(&files, |(path, stamp)| {
            if let Some(hash) = hashes.get(stamp) {
                return Ok((hash, false));
            }
            let file = self.open(path)?;
            let (_, hash) = hash_file(&file).map_err(|e| named(e, "read", &shown(path)))?;
            self.check(path, &file)?;
            Ok::<_, ContextError>((hash, true))
        })?;
        if known.iter().any(|(_, new)| *new) {
            hashes.save(files.iter().zip(&known).map(|((_, stamp), (hash, _))| (**stamp, *hash)))?;
        }
        let filled: Vec<(Vec<u8>, blake3::Hash)> =
            files.iter().zip(&known).map(|((path, _), (hash, _))| ((*path).clone(), *hash)).collect();
        for (path, hash) in filled {
            self.tree.set_hash(&path, hash);
        }
        Ok(())
    }
}

/// Returns `path` relative to `target`, or `None` when it is not below it.
fn inside<'p>(path: &'p [u8], target: &[u8]) -> Option<&'p [u8]> {
    if target.is_empty() {
        return Some(path);
    }
    match path.strip_prefix(target)? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}

#[cfg(test)]
mod tests;
