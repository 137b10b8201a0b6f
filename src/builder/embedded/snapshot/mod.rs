//! Root file systems on disk: layers that never change once they are committed, stacked, and drafts of new ones.
//!
//! ```text
//! <cache>/pkgbuild/v1/layers/<LayerId>/fs        the layer in overlay form: usable as a lower directory of overlayfs
//!                                     /changes   what it changes (tree::changes); BLAKE3 of it is the LayerId
//!                     drafts/<lease>.<n>/{fs,work}  a layer in the making; deleted once its process is gone
//!                     leases/<boot id>-<pid>-<n>    locked while that process lives
//!                     unpacked/<key>                a base image's layer, by diff id and what is below it: its LayerId, and
//!                                                   the trees above and below it, in a line each
//!                     packs/<key>                   descriptor and diff id of a packed layer (pack)
//!                     unsynced/<LayerId>            boot id: the layer is not yet known to be on disk
//!                     layers-bare/                  as layers, on file systems that refuse whiteouts
//! ```
//! The overlay form is canonical: it is a function of the change list alone. Nothing in it is left from copying up
//! without changing; a whiteout is a character device 0:0 for a name that was there; there are no opaque directories,
//! but a whiteout for each name that such a directory hid. So equal ids mean equal directories, whatever is below them.
//!
//! This is the form of root; how owners, devices and overlay's notes stand on disk for everybody else, and in which
//! directories, `form` says. The modification time of `changes` says when the layer was used last (`gate`).
//!
//! Where no overlay can be mounted, steps get a copy of the whole root ([`Whole`]), and what they changed is brought into
//! the same form afterwards. On file systems that refuse whiteouts, layers lack them; nothing could mount those anyway, and
//! they lie apart.

pub(super) mod draft;
pub(super) mod gate;
mod lease;
pub(super) mod upper;
mod whole;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::content::ErrorClass;
use crate::oci::DiffId;
use crate::sys::fs::AtomicFile;

use super::differ::{self, DifferError};
use super::form::{Form, FormError};
use super::sandbox::trial;
use super::tree::{ChangeList, ChangesError, Kind, LayerId, LoopError, Tree};
use super::untar::{self, UntarError};
pub use draft::Draft;
use draft::Whiteouts;
use gate::{Gate, Passage};
use lease::{Lease, ignore_absence};
pub use whole::Whole;

/// Why a snapshot could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What a step changed could not be found out.
    #[error("the changes of a layer cannot be told")]
    Differ(#[from] DifferError),
    /// A base image's layer could not be unpacked.
    #[error("layer {diff_id} cannot be unpacked")]
    Unpack {
        /// The layer.
        diff_id: Box<DiffId>,
        /// What is wrong with it.
        #[source]
        source: UntarError,
    },
    /// A base image's layer has other bytes than its config says.
    #[error("the layer unpacks to {actual} where the image config promises {expected}")]
    OtherContent {
        /// The diff id in the config.
        expected: Box<DiffId>,
        /// The diff id of what was unpacked.
        actual: Box<DiffId>,
    },
    /// A layer of the cache is not what its id says.
    #[error("layer {layer} in the cache is damaged")]
    Damaged {
        /// The layer.
        layer: LayerId,
        /// What is wrong with its change list.
        #[source]
        source: ChangesError,
    },
    /// A path leads in circles.
    #[error(transparent)]
    Loop(#[from] LoopError),
    /// The layers there are of another form.
    #[error(transparent)]
    Form(#[from] FormError),
}

impl SnapshotError {
    /// Returns what can be done about it.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io(_) | Self::Damaged { .. } | Self::OtherContent { .. } | Self::Form(_) => ErrorClass::Damaged,
            Self::Differ(error) => error.class(),
            Self::Unpack { source, .. } => source.class(),
            Self::Loop(_) => ErrorClass::Permanent,
        }
    }
}

/// A root file system: layers, lowest first, and what they look like when merged. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The layers, lowest first. Empty layers are listed too, so that steps and layers align.
    pub layers: Arc<[LayerId]>,
    /// All of them merged. [`Tree::origin`] is the position in `layers`.
    pub tree: Arc<Tree>,
}

/// Whether overlays are mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Overlay {
    /// Where the kernel and the cache's file system can.
    #[default]
    WhereItWorks,
    /// Not at all.
    Never,
}

/// Directory of layers without whiteouts.
const BARE: &str = "layers-bare";

/// How many merged trees are remembered; they share what they have in common.
const REMEMBERED: usize = 512;

/// The layers in one cache. One of these per process and cache is enough; all methods may be called from many threads.
pub struct Snapshots {
    home: PathBuf,
    form: Form,
    boot: String,
    lease: Arc<Lease>,
    whiteouts: Whiteouts,
    no_overlay: Option<String>,
    trees: Mutex<HashMap<Box<[LayerId]>, Arc<Tree>>>,
    gate: Gate,
    /// Layers that this process has marked as used: they stay as long as its lease.
    used: Mutex<HashSet<LayerId>>,
}

impl Snapshots {
    /// Opens the snapshots in the cache directory `cache`, which is made when missing, and deletes what processes that
    /// are gone left unfinished.
    ///
    /// # Errors
    /// When the directories cannot be made or swept.
    pub fn open(cache: &Path) -> Result<Self, SnapshotError> {
        Self::open_as(cache, Overlay::WhereItWorks)
    }

    /// As [`Snapshots::open`], saying whether overlays may be mounted.
    ///
    /// # Errors
    /// As [`Snapshots::open`].
    pub fn open_as(cache: &Path, overlay: Overlay) -> Result<Self, SnapshotError> {
        let form = Form::of_process()?;
        let home = form.home(cache);
        fs_err::create_dir_all(&home)?;
        form.claim(&home)?;
        for name in ["layers", "drafts", "leases", "unpacked", "packs", "unsynced", "empty"] {
            fs_err::create_dir_all(home.join(name))?;
        }
        // Images hold set-user-id programs: nobody else may reach them through the cache.
        for name in ["layers", "drafts"] {
            fs_err::set_permissions(home.join(name), std::fs::Permissions::from_mode(0o700))?;
        }
        fs_err::set_permissions(home.join("empty"), std::fs::Permissions::from_mode(0o755))?;
        let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let lease = Lease::take(&home.join("leases"), &boot)?;
        lease.sweep(&home.join("leases"), &home.join("drafts"))?;
        let gate = Gate::of(&home);
        let mut snapshots = Self {
            home,
            form,
            boot,
            lease: Arc::new(lease),
            whiteouts: Whiteouts::OnDisk,
            no_overlay: None,
            trees: Mutex::default(),
            gate,
            used: Mutex::default(),
        };
        snapshots.probe(overlay)?;
        snapshots.distrust_unsynced()?;
        Ok(snapshots)
    }

    /// Finds out what the cache's file system can do.
    fn probe(&mut self, overlay: Overlay) -> Result<(), SnapshotError> {
        let place = self.home.join("drafts").join(self.lease.draft_name());
        fs_err::create_dir(&place)?;
        if trial::whiteout(&place).is_err() {
            self.whiteouts = Whiteouts::Noted;
            fs_err::create_dir_all(self.home.join(BARE))?;
            fs_err::set_permissions(self.home.join(BARE), std::fs::Permissions::from_mode(0o700))?;
        }
        self.no_overlay = match overlay {
            Overlay::Never => Some("it is turned off".to_owned()),
            Overlay::WhereItWorks => trial::overlay(&place).err().map(|error| error.to_string()),
        };
        Ok(ignore_absence(fs_err::remove_dir_all(&place))?)
    }

    /// Returns why no overlay can be mounted here; `None` when it can. Steps then need a [`Whole`] root.
    pub fn no_overlay(&self) -> Option<&str> {
        self.no_overlay.as_deref()
    }

    /// Returns the snapshot of nothing: no layers, an empty root.
    pub fn scratch(&self) -> Snapshot {
        Snapshot { layers: Arc::new([]), tree: Arc::new(Tree::default()) }
    }

    /// Returns the snapshot of these layers, lowest first, or `None` when any of them is not in the cache (any more).
    ///
    /// A layer whose change list is damaged is deleted and counts as gone.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn load(&self, layers: &[LayerId]) -> Result<Option<Snapshot>, SnapshotError> {
        let known = (0..=layers.len()).rev().find_map(|length| Some((length, self.remembered(&layers[..length])?)));
        let (known, tree) = known.unwrap_or_default();
        let mut tree = Arc::unwrap_or_clone(tree);
        let passage = self.gate.pass()?;
        for (position, layer) in layers.iter().enumerate().skip(known) {
            self.take(layer, &passage)?;
            match self.changes(layer) {
                Ok(Some(changes)) => tree.apply(&changes, position),
                Ok(None) => return Ok(None),
                Err(SnapshotError::Damaged { .. }) => {
                    tracing::warn!(%layer, "a damaged layer is deleted from the cache");
                    self.delete(layer)?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        for layer in &layers[..known] {
            if !self.directory(layer).join("fs").try_exists()? {
                return Ok(None);
            }
        }
        Ok(Some(self.remember(layers.into(), tree)))
    }

    fn remembered(&self, layers: &[LayerId]) -> Option<Arc<Tree>> {
        if layers.is_empty() {
            return Some(Arc::default());
        }
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).get(layers).cloned()
    }

    fn remember(&self, layers: Arc<[LayerId]>, tree: Tree) -> Snapshot {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if trees.len() >= REMEMBERED {
            trees.clear();
        }
        let tree = trees.entry((*layers).into()).or_insert_with(|| Arc::new(tree)).clone();
        Snapshot { layers, tree }
    }

    /// Returns what a layer changes, or `None` when it is not in the cache.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn changes(&self, layer: &LayerId) -> Result<Option<ChangeList>, SnapshotError> {
        let bytes = match fs_err::read(self.directory(layer).join("changes")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        ChangeList::decode(&bytes, layer).map(Some).map_err(|source| SnapshotError::Damaged { layer: *layer, source })
    }

    /// Returns the snapshot that unpacking the layer `diff_id` onto `parent` gave earlier, if it is still in the cache.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn unpacked(&self, parent: &Snapshot, diff_id: &DiffId) -> Result<Option<Snapshot>, SnapshotError> {
        let text = match fs_err::read_to_string(self.unpacked_record(parent, diff_id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let Some(layer) = text.lines().next().and_then(|line| line.parse::<LayerId>().ok()) else { return Ok(None) };
        let layers: Vec<LayerId> = parent.layers.iter().copied().chain([layer]).collect();
        self.load(&layers)
    }

    /// Unpacks a layer of a base image onto `parent`: a tar, plain or compressed with gzip or zstd, whichever its first
    /// bytes say.
    ///
    /// # Errors
    /// When the tar is malformed, hostile or not what `diff_id` says, or cannot be written.
    pub fn unpack(&self, parent: &Snapshot, diff_id: &DiffId, blob: impl Read) -> Result<Snapshot, SnapshotError> {
        let mut draft = self.draft(parent)?;
        let actual =
            untar::layer(&mut draft, blob).map_err(|source| SnapshotError::Unpack { diff_id: Box::new(*diff_id), source })?;
        if actual != *diff_id {
            return Err(SnapshotError::OtherContent { expected: Box::new(*diff_id), actual: Box::new(actual) });
        }
        let snapshot = self.publish(draft, differ::Root::Recorded)?;
        let layer = snapshot.layers.last().expect("a commit adds a layer");
        let mut record = AtomicFile::create(&self.unpacked_record(parent, diff_id), 0o644)?;
        let (tree, below) = (snapshot.tree.id(), parent.tree.id());
        io::Write::write_all(&mut record, format!("{layer}\n{tree}\n{below}\n").as_bytes())?;
        record.publish_unsynced()?;
        Ok(snapshot)
    }

    fn unpacked_record(&self, parent: &Snapshot, diff_id: &DiffId) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"pkgbuild unpack 1\0");
        for layer in &*parent.layers {
            hasher.update(layer.0.as_bytes());
        }
        hasher.update(diff_id.to_string().as_bytes());
        self.home.join("unpacked").join(&*hasher.finalize().to_hex())
    }

    /// Lets this process take into use what it finds in the cache, while the result lives; to be held for moments.
    ///
    /// # Errors
    /// When the file system has no locks.
    pub(super) fn pass(&self) -> io::Result<Passage> {
        self.gate.pass()
    }

    /// Takes the layer into use if it is in the cache, and returns whether it is: no collector deletes it from then on, as
    /// long as this process lives.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(super) fn take(&self, layer: &LayerId, passage: &Passage) -> io::Result<bool> {
        let changes = self.directory(layer).join("changes");
        let is_used = self.used.lock().unwrap_or_else(PoisonError::into_inner).contains(layer);
        if is_used {
            return fs_err::exists(changes);
        }
        let is_there = passage.mark(&changes)?;
        if is_there {
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(*layer);
        }
        Ok(is_there)
    }

    /// Returns the directories of the layers of `snapshot`, top first; never empty. `lowerdir` of overlayfs.
    pub fn lowers(&self, snapshot: &Snapshot) -> Vec<PathBuf> {
        // overlayfs refuses a directory that is there twice (ELOOP). Of equal layers the topmost is enough: all that a
        // lower one does, it does again.
        let empty = ChangeList::id_of(&ChangeList::default().encode());
        let mut seen = HashSet::from([empty]);
        let stacked = snapshot.layers.iter().rev().filter(|layer| seen.insert(**layer));
        let mut lowers: Vec<PathBuf> = stacked.map(|layer| self.directory(layer).join("fs")).collect();
        if lowers.is_empty() {
            // overlayfs wants at least one lower directory.
            lowers.push(self.home.join("empty"));
        }
        lowers
    }

    /// Starts a layer on top of `parent`.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn draft(&self, parent: &Snapshot) -> Result<Draft, SnapshotError> {
        let directory = self.home.join("drafts").join(self.lease.draft_name());
        let form = (self.form.clone(), self.whiteouts);
        Ok(Draft::create(directory, (self.lowers(parent), parent.clone()), form, self.lease.clone())?)
    }

    /// Finishes a layer: finds out what changed and publishes it. Adds exactly one layer, which may be empty.
    ///
    /// Nothing may be mounted on the draft or write into it any more. Metadata of the root directory does not change:
    /// layers do not carry it.
    ///
    /// # Errors
    /// When the changes cannot be read or the layer cannot be written.
    pub fn commit(&self, draft: Draft) -> Result<Snapshot, SnapshotError> {
        self.publish(draft, differ::Root::Kept)
    }

    /// Finishes a layer as [`Snapshots::commit`] does, unless `accept` refuses what it changes; the directory holds the
    /// files. What is refused is deleted.
    ///
    /// # Errors
    /// That of `accept`, or as `commit`.
    pub fn commit_if<E: From<SnapshotError>>(
        &self,
        draft: Draft,
        accept: impl FnOnce(&Path, &ChangeList) -> Result<(), E>,
    ) -> Result<Snapshot, E> {
        let changes = differ::changes(&draft, differ::Root::Kept).map_err(SnapshotError::from)?;
        accept(&draft.upper, &changes)?;
        Ok(self.publish_changes(draft, changes)?)
    }

    fn publish(&self, draft: Draft, root: differ::Root) -> Result<Snapshot, SnapshotError> {
        let changes = differ::changes(&draft, root)?;
        self.publish_changes(draft, changes)
    }

    fn publish_changes(&self, draft: Draft, changes: ChangeList) -> Result<Snapshot, SnapshotError> {
        let encoded = changes.encode();
        let layer = ChangeList::id_of(&encoded);
        let position = draft.parent().layers.len();
        let layers: Arc<[LayerId]> = draft.parent().layers.iter().copied().chain([layer]).collect();
        let mut tree = Tree::clone(&draft.parent().tree);
        tree.apply(&changes, position);
        fs_err::write(self.home.join("unsynced").join(layer.to_string()), &self.boot)?;
        let passage = self.gate.pass()?;
        if !self.take(&layer, &passage)? {
            draft.publish(&encoded, &self.directory(&layer))?;
            self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(layer);
        }
        drop(passage);
        Ok(self.remember(layers, tree))
    }

    /// Opens the file that `path` leads to, links followed inside the root; `None` when there is none or it is no
    /// regular file.
    ///
    /// # Errors
    /// When it is there and cannot be opened, or the path leads in circles.
    pub fn open_file(&self, snapshot: &Snapshot, path: &[u8]) -> Result<Option<File>, SnapshotError> {
        let real = snapshot.tree.resolve(path)?;
        let (Some(entry), Some(origin)) = (snapshot.tree.get(&real), snapshot.tree.origin(&real)) else { return Ok(None) };
        if !matches!(entry.kind, Kind::File { .. }) {
            return Ok(None);
        }
        Ok(Some(upper::open_below(&self.layer_root(&snapshot.layers[origin])?, &real)?))
    }

    /// Opens the directory of a layer as a root.
    pub(super) fn layer_root(&self, layer: &LayerId) -> io::Result<OwnedFd> {
        upper::open_root(&self.directory(layer).join("fs"))
    }

    /// Waits until every layer committed so far is on disk. Layers that were not before the machine stopped are not
    /// trusted when it starts again.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<(), SnapshotError> {
        self.sync_older(Duration::ZERO)
    }

    /// As [`Self::sync`] for layers that were committed at least `age` ago; asks the disk for nothing when there are none.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync_older(&self, age: Duration) -> Result<(), SnapshotError> {
        let mut marks = Vec::new();
        for entry in fs_err::read_dir(self.home.join("unsynced"))? {
            let entry = entry?;
            // One that is gone was made to last by somebody else; one of the future is new.
            let modified = entry.metadata().and_then(|data| data.modified());
            if modified.is_ok_and(|time| time.elapsed().unwrap_or_default() >= age) {
                marks.push(entry.path());
            }
        }
        if marks.is_empty() {
            return Ok(());
        }
        let home = fs_err::File::open(&self.home)?;
        rustix::fs::syncfs(&home).map_err(io::Error::from)?;
        for mark in marks {
            ignore_absence(fs_err::remove_file(mark))?;
        }
        Ok(())
    }

    fn distrust_unsynced(&self) -> Result<(), SnapshotError> {
        for entry in fs_err::read_dir(self.home.join("unsynced"))? {
            let mark = entry?.path();
            let layer = mark.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<LayerId>().ok());
            match fs_err::read_to_string(&mark) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Ok(boot) if boot == self.boot => continue,
                _ => {}
            }
            if let Some(layer) = layer {
                self.delete(&layer)?;
            }
            ignore_absence(fs_err::remove_file(mark))?;
        }
        Ok(())
    }

    fn delete(&self, layer: &LayerId) -> Result<(), SnapshotError> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).remove(layer);
        // Renamed first, so that no half of it is ever found under its name.
        let grave = self.home.join("drafts").join(self.lease.draft_name());
        ignore_absence(fs_err::rename(self.directory(layer), &grave))?;
        Ok(ignore_absence(fs_err::remove_dir_all(grave))?)
    }

    fn directory(&self, layer: &LayerId) -> PathBuf {
        let layers = match self.whiteouts {
            Whiteouts::OnDisk => "layers",
            Whiteouts::Noted => BARE,
        };
        self.home.join(layers).join(layer.to_string())
    }

    /// Returns the directory in which everything lies, which is that of this process' form.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// Returns how layers stand on disk.
    pub(super) fn form(&self) -> &Form {
        &self.form
    }

    /// Returns the directory of the records of packed layers.
    pub(super) fn packs(&self) -> PathBuf {
        self.home.join("packs")
    }
}

#[cfg(test)]
mod tests;
