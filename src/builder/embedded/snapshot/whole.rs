//! A root file system as one directory with everything in it, for steps where no overlay can be mounted.
//!
//! Making one costs a copy of the root (shared blocks where the file system can). Afterwards what the step changed is told
//! by inode and time of change, which only the kernel sets, and moved into a draft, which is then as an overlay would have
//! left it. As in an overlay, names that were hard links of each other in a lower layer are files of their own: writing to
//! one does not change the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, OFlags, Stat, Timespec};
use rustix::time::ClockId;

use super::super::copy::copy_bytes;
use super::super::differ::directory_entry;
use super::super::parallel;
use super::super::tree::{Entry, Kind, Tree, join, split};
use super::upper::{Upper, open_below, open_beneath, open_root, shown};
use super::{Draft, Snapshot, SnapshotError, Snapshots};
use crate::sys::fs::named;

/// A directory with everything of a snapshot, to be changed. Dropping it deletes it.
pub struct Whole {
    draft: Draft,
    parent: Snapshot,
    marks: HashMap<Vec<u8>, Mark>,
}

/// What tells that something was not touched since the copy was made.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    inode: u64,
    size: i64,
    changed: (i64, i64),
}

impl Whole {
    /// Returns the directory; what holds it is private to it.
    pub fn root(&self) -> &Path {
        &self.draft.upper
    }

    /// Returns a path in it.
    pub fn path(&self, inner: &[u8]) -> PathBuf {
        self.draft.upper.join(OsStr::from_bytes(inner))
    }
}

impl Snapshots {
    /// Copies what is at `path` of a snapshot (empty: everything) into a directory of its own.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn whole(&self, snapshot: &Snapshot, path: &[u8]) -> Result<Whole, SnapshotError> {
        let mut draft = self.draft(&self.scratch())?;
        let roots: Vec<OwnedFd> = snapshot.layers.iter().map(|layer| self.layer_root(layer)).collect::<io::Result<_>>()?;
        let tree = &*snapshot.tree;
        copy(&mut draft, tree, &roots, path)?;
        let root = open_root(&draft.upper)?;
        let mut marks = HashMap::new();
        let mut latest = (0, 0);
        for (path, _) in tree.range(path).filter(|(_, entry)| !entry.is_directory()) {
            let (parent, name) = split(&path);
            let directory = open_beneath(root.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY)?;
            let stat = rustix::fs::statat(&directory, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| named(e.into(), "read", &shown(&path)))?;
            let mark = mark(&stat);
            latest = latest.max(mark.changed);
            marks.insert(path, mark);
        }
        // What changes from now on must get another time than the copy has.
        while !is_past(latest) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Whole { draft, parent: snapshot.clone(), marks })
    }

    /// Moves what was changed in `whole` into a draft on top of the snapshot that it was made of.
    ///
    /// # Errors
    /// When it cannot be read or moved.
    pub fn reduce(&self, whole: Whole) -> Result<Draft, SnapshotError> {
        let mut draft = self.draft(&whole.parent)?;
        // By inode, which moving does not change.
        draft.owners = whole.draft.owners.clone();
        let root = open_root(&whole.draft.upper)?;
        let mut walk = Walk {
            whole: &whole,
            root,
            moved: Vec::new(),
            gone: Vec::new(),
            directories: BTreeMap::new(),
            needed: BTreeSet::new(),
        };
        let mut todo = vec![Vec::new()];
        while let Some(path) = todo.pop() {
            walk.directory(&path, &mut todo)?;
        }
        let mut upper = Upper::new(&mut draft)?;
        for path in walk.needed.iter().filter(|path| !path.is_empty()) {
            upper.directory(path, &walk.directories[path])?;
        }
        for path in &walk.moved {
            let from = open_beneath(walk.root.as_fd(), split(path).0, OFlags::RDONLY | OFlags::DIRECTORY)?;
            upper.adopt(path, &from)?;
        }
        for path in &walk.gone {
            upper.whiteout(path)?;
        }
        upper.finish()?;
        Ok(draft)
    }
}

/// Returns whether the clock that files get their times from is past `time`.
fn is_past(time: (i64, i64)) -> bool {
    let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
    // A clock that was set back may never get there; nothing is then changed at that very time either.
    let ahead = time.0 - now.tv_sec > 1;
    ahead || (now.tv_sec, now.tv_nsec as i64) > time
}

fn mark(stat: &Stat) -> Mark {
    Mark { inode: stat.st_ino, size: stat.st_size, changed: (stat.st_ctime, stat.st_ctime_nsec as i64) }
}

/// Writes what is at `path` of the tree, and the directories on the way there, into the draft.
fn copy(draft: &mut Draft, tree: &Tree, layers: &[OwnedFd], path: &[u8]) -> Result<(), SnapshotError> {
    let mut upper = Upper::new(draft)?;
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    for above in std::iter::once(0).chain(ends).map(|end| &path[..end]).filter(|above| above.len() < path.len()) {
        if let Some(entry) = tree.get(above) {
            upper.directory(above, entry)?;
        }
    }
    let mut files = Vec::new();
    for (path, entry) in tree.range(path) {
        match entry.kind {
            Kind::Directory => upper.directory(&path, entry)?,
            Kind::File { .. } => files.push((path, entry)),
            _ => upper.special(&path, entry)?,
        }
    }
    let reflink = AtomicBool::new(true);
    parallel::map(&files, |(path, entry)| -> io::Result<()> {
        let origin = tree.origin(path).expect("a path of the tree has one");
        let source = open_below(&layers[origin], path)?;
        let stat = rustix::fs::fstat(&source)?;
        let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
        upper.write_file_of(path, entry, modified, |target: &File| {
            copy_bytes(&source, target, &reflink).map_err(|e| named(e, "copy", &shown(path)))
        })
    })?;
    Ok(upper.finish()?)
}

struct Walk<'a> {
    whole: &'a Whole,
    root: OwnedFd,
    /// What is new or changed, parents first; a directory stands for all that is in it.
    moved: Vec<Vec<u8>>,
    /// What is there no more.
    gone: Vec<Vec<u8>>,
    /// Directories that were there before, as they are now.
    directories: BTreeMap<Vec<u8>, Entry>,
    /// Those of them that the draft must have.
    needed: BTreeSet<Vec<u8>>,
}

impl Walk<'_> {
    /// Compares one directory that was there before; those in it are added to `todo`.
    fn directory(&mut self, path: &[u8], todo: &mut Vec<Vec<u8>>) -> Result<(), SnapshotError> {
        let directory = open_beneath(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let now = directory_entry(directory.as_fd(), &self.whole.draft.form, path)?;
        let tree = &self.whole.parent.tree;
        if !tree.get(path).is_some_and(|before| before.same_but_time(&now)) {
            self.need(path);
            self.needed.insert(path.to_vec());
        }
        self.directories.insert(path.to_vec(), now);
        let mut names: Vec<CString> = rustix::fs::Dir::read_from(&directory)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name().to_owned())).collect())
            .map_err(|error| named(error.into(), "list", &shown(path)))?;
        names.retain(|name| !matches!(name.to_bytes(), b"." | b".."));
        names.sort_unstable();
        for name in &names {
            let child = join(path, name.to_bytes());
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| named(e.into(), "read", &shown(&child)))?;
            let is_directory = FileType::from_raw_mode(stat.st_mode).is_dir();
            if is_directory && self.whole.parent.tree.get(&child).is_some_and(Entry::is_directory) {
                todo.push(child);
            } else if self.whole.marks.get(&child) != Some(&mark(&stat)) {
                self.need(&child);
                self.moved.push(child);
            }
        }
        for (name, _) in self.whole.parent.tree.clone().children(path) {
            if names.binary_search_by(|other| other.to_bytes().cmp(name)).is_err() {
                let child = join(path, name);
                self.need(&child);
                self.gone.push(child);
            }
        }
        Ok(())
    }

    /// Notes that the draft must have the directories above `path`.
    fn need(&mut self, path: &[u8]) {
        let mut parent = split(path).0;
        while !parent.is_empty() && self.needed.insert(parent.to_vec()) {
            parent = split(parent).0;
        }
    }
}
