//! A layer in the making.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::Mode;

use super::Snapshot;
use super::lease::{Lease, ignore_absence};
use crate::builder::embedded::form::{Form, Owners};

/// A layer in the making: directories to mount an overlay from, or to write into. Dropping it deletes it.
pub struct Draft {
    /// Receives what changes; `upperdir` of overlayfs.
    pub upper: PathBuf,
    /// Scratch space on the same file system; `workdir` of overlayfs.
    pub work: PathBuf,
    /// The layers below, top first; never empty. `lowerdir` of overlayfs.
    pub lowers: Vec<PathBuf>,
    directory: PathBuf,
    parent: Snapshot,
    /// Device and inode of files of other layers that are linked into `upper`. A second link of one of them would make
    /// two files of this layer one.
    pub(in crate::builder::embedded) borrowed: HashSet<(u64, u64)>,
    /// How files stand in it.
    pub(in crate::builder::embedded) form: Form,
    /// Owners of what cannot say it itself.
    pub(in crate::builder::embedded) owners: Owners,
    /// How whiteouts are kept.
    pub(in crate::builder::embedded) whiteouts: Whiteouts,
    /// Paths of the layers below that are gone, besides those that have a whiteout in `upper`.
    pub(in crate::builder::embedded) hidden: BTreeSet<Vec<u8>>,
    /// Directories in `upper` that hide what is below them, besides those that overlayfs marked.
    pub(in crate::builder::embedded) opaque: BTreeSet<Vec<u8>>,
    _lease: Arc<Lease>,
}

/// How it is kept that a path of the layers below is gone. Change lists tell it in either case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::builder::embedded) enum Whiteouts {
    /// As overlayfs wants it: a character device 0:0 in the upper directory.
    OnDisk,
    /// In the change list only: the file system refuses such devices, as another overlay does.
    Noted,
}

impl Draft {
    pub(super) fn create(
        directory: PathBuf,
        (lowers, parent): (Vec<PathBuf>, Snapshot),
        (form, whiteouts): (Form, Whiteouts),
        lease: Arc<Lease>,
    ) -> io::Result<Self> {
        let (upper, work) = (directory.join("fs"), directory.join("work"));
        fs_err::create_dir(&directory)?;
        let draft = Self {
            upper,
            work,
            lowers,
            directory,
            parent,
            borrowed: HashSet::new(),
            form,
            owners: Owners::default(),
            whiteouts,
            hidden: BTreeSet::new(),
            opaque: BTreeSet::new(),
            _lease: lease,
        };
        fs_err::create_dir(&draft.upper)?;
        fs_err::create_dir(&draft.work)?;
        // The root of an overlay looks like its upper directory.
        let root = draft.parent.tree.get(b"").expect("a tree has a root");
        draft.form.own_directory(&draft.upper, root.uid, root.gid)?;
        rustix::fs::chmod(&draft.upper, Mode::from_raw_mode(root.mode))?;
        Ok(draft)
    }

    /// Returns the directory that holds all of it.
    pub(in crate::builder::embedded) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns what the draft is on top of.
    pub fn parent(&self) -> &Snapshot {
        &self.parent
    }

    /// Publishes the draft as the layer directory `target`, unless that is there already: it is then the same.
    pub(super) fn publish(self, changes: &[u8], target: &Path) -> io::Result<()> {
        fs_err::write(self.directory.join("changes"), changes)?;
        ignore_absence(fs_err::remove_dir_all(&self.work))?;
        match fs_err::rename(&self.directory, target) {
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
            result => result,
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What cannot be deleted now is swept when the cache is opened next.
        let _ = fs_err::remove_dir_all(&self.directory);
    }
}
