//! Putting one source where it belongs.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::sys::fs::named;

use super::super::parallel;
use super::super::snapshot::upper::{Upper, open_below, shown};
use super::super::tree::{Entry, Kind, cleaned, join, split};
use super::super::untar;
use super::{Chosen, CopyError, CopyPart, CopySource, CopyStep, Filter, ModeChange};

/// A file whose data is still to be copied.
struct Job {
    source: Vec<u8>,
    entry: Entry,
    /// Whether the file of the source's layer is exactly what is wanted, so that one more name for it will do.
    may_link: bool,
}

pub(super) struct Copier<'a> {
    upper: Upper<'a>,
    step: &'a CopyStep<'a>,
    /// What is being copied.
    part: &'a CopyPart<'a>,
    /// Directories of the part's layers, when it is a snapshot.
    layers: Vec<OwnedFd>,
    /// By destination. Copied at the end, many at a time.
    jobs: BTreeMap<Vec<u8>, Job>,
    /// Further names of files among the jobs: (first destination, name).
    links: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Makes `path` and what is missing above it.
pub(super) fn make_way(upper: &mut Upper<'_>, path: &[u8], new: &Entry) -> Result<(), CopyError> {
    let mut way = Vec::new();
    for name in super::super::tree::components(path) {
        way = join(&way, name);
        if upper.tree().get(&way).is_some_and(|entry| !entry.is_directory()) {
            return Err(CopyError::NotADirectory { path: way });
        }
    }
    upper.ensure_directory(path, new)?;
    Ok(())
}

impl<'a> Copier<'a> {
    /// Starts with `part` of `step`.
    pub(super) fn new(upper: Upper<'a>, step: &'a CopyStep<'a>, part: &'a CopyPart<'a>) -> Result<Self, CopyError> {
        let layers = layers(&part.source)?;
        Ok(Self { upper, step, part, layers, jobs: BTreeMap::new(), links: Vec::new() })
    }

    /// Goes on with `part`.
    pub(super) fn begin(&mut self, part: &'a CopyPart<'a>) -> Result<(), CopyError> {
        if !std::ptr::eq(self.part, part) {
            self.copy_data()?;
            self.layers = layers(&part.source)?;
            self.part = part;
        }
        Ok(())
    }

    fn new_directory(&self) -> Entry {
        let (uid, gid) = self.step.owner.unwrap_or((0, 0));
        Entry::directory(ModeChange::of_parents(self.step.mode.as_ref()), uid, gid, self.step.source_date.0)
    }

    /// Copies one source, with what `filter` leaves of what is below it. Returns whether anything below it was chosen.
    pub(super) fn one(&mut self, source: &[u8], filter: &Filter) -> Result<bool, CopyError> {
        let tree = self.part.source.tree();
        let real = tree.resolve(source)?;
        let Some(entry) = tree.get(&real) else { return Err(CopyError::Missing { path: source.to_vec() }) };
        if self.part.unpack_archives && matches!(entry.kind, Kind::File { .. }) && self.unpack(&real)? {
            return Ok(true);
        }
        let destination = self.destination(split(source).1, entry.is_directory())?;
        // Hard links are kept within one source.
        let mut names = HashMap::new();
        let chosen = filter.chosen(tree, &real);
        for Chosen { path, is_way } in &chosen {
            let how = match (path.is_empty(), is_way) {
                (true, _) => Existing::Kept,
                (_, true) => Existing::GetsMode,
                (_, false) => Existing::Replaced,
            };
            let (source, destination) = (below(&real, path), below(&destination, path));
            self.put(&source, &destination, how, &mut names)?;
        }
        Ok(chosen.len() > 1)
    }

    /// Returns where a source called `name` goes, having made the directories on the way.
    fn destination(&mut self, name: &[u8], is_directory: bool) -> Result<Vec<u8>, CopyError> {
        let wanted = &self.step.destination;
        let into = wanted.ends_with(b"/") || wanted.ends_with(b"/.") || matches!(&wanted[..], b"" | b".");
        let path = cleaned(wanted);
        let way = if into { &path[..] } else { split(&path).0 };
        let new = self.new_directory();
        let way = self.upper.tree().resolve(way)?;
        make_way(&mut self.upper, &way, &new)?;
        let mut destination = self.upper.tree().resolve(&path)?;
        let there = self.upper.tree().get(&destination);
        if !is_directory && there.is_some_and(Entry::is_directory) {
            destination = join(&destination, name);
        }
        let way = if is_directory && there.is_none() { &destination[..] } else { split(&destination).0 };
        make_way(&mut self.upper, way, &new)?;
        Ok(destination)
    }

    fn put(
        &mut self,
        source: &[u8],
        destination: &[u8],
        how: Existing,
        names: &mut HashMap<(usize, Vec<u8>), Vec<u8>>,
    ) -> Result<(), CopyError> {
        let tree = self.part.source.tree();
        let Some(original) = tree.get(source) else { return Err(CopyError::Missing { path: source.to_vec() }) };
        let mut entry = self.wanted(original);
        let there = self.upper.tree().get(destination);
        if !original.is_directory() {
            if there.is_some_and(Entry::is_directory) {
                return Err(CopyError::OverDirectory { path: source.to_vec(), destination: destination.to_vec() });
            }
            return self.put_leaf(source, destination, entry, names);
        }
        match there {
            Some(existing) if !existing.is_directory() => {
                return Err(CopyError::IntoFile { path: source.to_vec(), destination: destination.to_vec() });
            }
            Some(existing) if how == Existing::Replaced => {
                let kept = existing.xattrs.iter().filter(|(name, _)| !entry.xattrs.contains_key(*name));
                entry.xattrs.extend(kept.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>());
                self.upper.directory(destination, &entry)?;
            }
            Some(existing) if how == Existing::GetsMode => {
                let entry = Entry { mode: original.mode, ..existing.clone() };
                self.upper.directory(destination, &entry)?;
            }
            Some(_) => drop(self.upper.ensure_directory(destination, &entry)?),
            None => self.upper.directory(destination, &entry)?,
        }
        Ok(())
    }

    fn put_leaf(
        &mut self,
        source: &[u8],
        destination: &[u8],
        entry: Entry,
        names: &mut HashMap<(usize, Vec<u8>), Vec<u8>>,
    ) -> Result<(), CopyError> {
        if self.links.iter().any(|(first, _)| first == destination) {
            // What is about to be replaced has further names, which must keep its data.
            self.copy_data()?;
        }
        self.jobs.remove(destination);
        self.links.retain(|(_, name)| name != destination);
        if !matches!(entry.kind, Kind::File { .. }) {
            return Ok(self.upper.special(destination, &entry)?);
        }
        self.upper.unlink(destination)?;
        self.upper.note(destination, &entry);
        let tree = self.part.source.tree();
        let set = tree.link_set(source).and_then(|first| Some((tree.origin(source)?, first.to_vec())));
        let from_snapshot = matches!(self.part.source, CopySource::Snapshot(..));
        let may_link = from_snapshot && set.is_none() && tree.get(source) == Some(&entry);
        if let Some(set) = set {
            if let Some(first) = names.get(&set) {
                self.links.push((first.clone(), destination.to_vec()));
                return Ok(());
            }
            names.insert(set, destination.to_vec());
        }
        self.jobs.insert(destination.to_vec(), Job { source: source.to_vec(), entry, may_link });
        Ok(())
    }

    /// Returns the metadata that a source gets in the image.
    fn wanted(&self, original: &Entry) -> Entry {
        let mut entry = original.clone();
        if let Some((uid, gid)) = self.step.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if let Some(mode) = &self.step.mode
            && !matches!(entry.kind, Kind::Symlink { .. })
        {
            entry.mode = mode.apply(entry.mode, entry.is_directory());
        }
        if matches!(self.part.source, CopySource::Context(_)) {
            entry.mtime = self.step.source_date.0;
        }
        entry
    }

    /// Unpacks a source that is an archive into the destination, which then is a directory. Returns whether it was one.
    fn unpack(&mut self, source: &[u8]) -> Result<bool, CopyError> {
        let failed = |source_error| CopyError::Unpack { path: source.to_vec(), source: source_error };
        let file = self.open(source)?;
        if !untar::is_archive(&file).map_err(|e| named(e, "read", &shown(source)))? {
            return Ok(false);
        }
        let new = Entry { mode: 0o755, ..self.new_directory() };
        let path = self.upper.tree().resolve(&cleaned(&self.step.destination))?;
        make_way(&mut self.upper, &path, &new)?;
        self.copy_data()?;
        let members = untar::Members { into: path, owner: self.step.owner, new_directory: new };
        untar::archive(&mut self.upper, &file, &members).map_err(failed)?;
        self.check(source, &file)?;
        Ok(true)
    }

    fn open(&self, source: &[u8]) -> Result<File, CopyError> {
        match self.part.source {
            CopySource::Context(context) => Ok(context.open(source)?),
            CopySource::Snapshot(_, snapshot) => {
                let origin = snapshot.tree.origin(source).ok_or_else(|| CopyError::Missing { path: source.to_vec() })?;
                Ok(open_below(&self.layers[origin], source)?)
            }
        }
    }

    /// Makes sure that a file of the context did not change while it was read.
    fn check(&self, source: &[u8], file: &File) -> Result<(), CopyError> {
        match self.part.source {
            CopySource::Context(context) => Ok(context.check(source, file)?),
            CopySource::Snapshot(..) => Ok(()),
        }
    }

    /// Copies the data of all files that wait for it.
    fn copy_data(&mut self) -> Result<(), CopyError> {
        let reflink = AtomicBool::new(true);
        let (mut linked, mut copied) = (Vec::new(), Vec::new());
        for job in std::mem::take(&mut self.jobs) {
            if job.1.may_link { linked.push(job) } else { copied.push(job) }
        }
        for (destination, job) in &linked {
            self.link_or_copy(destination, job, &reflink)?;
        }
        parallel::map(&copied, |(destination, job)| self.copy_one(destination, job, &reflink))?;
        for (first, name) in std::mem::take(&mut self.links) {
            self.upper.hard_link(&first, &name)?;
        }
        Ok(())
    }

    /// Layers never change, so a file of one can be a file of another; but two names for it in this layer would be hard
    /// links of each other, so the second is a copy.
    fn link_or_copy(&mut self, destination: &[u8], job: &Job, reflink: &AtomicBool) -> Result<(), CopyError> {
        let source = self.open(&job.source)?;
        let stat = rustix::fs::fstat(&source).map_err(io::Error::from)?;
        if self.upper.draft.borrowed.insert((stat.st_dev, stat.st_ino)) && self.upper.link_file(destination, &source).is_ok() {
            return Ok(());
        }
        self.copy_one(destination, job, reflink)
    }

    fn copy_one(&self, destination: &[u8], job: &Job, reflink: &AtomicBool) -> Result<(), CopyError> {
        let source = self.open(&job.source)?;
        self.upper.write_file(destination, &job.entry, |target| {
            copy_bytes(&source, target, reflink).map_err(|e| named(e, "copy", &shown(&job.source)))
        })?;
        self.check(&job.source, &source)
    }

    /// Copies what is still to be copied and sets the times of directories.
    pub(super) fn finish(mut self) -> Result<(), CopyError> {
        self.copy_data()?;
        Ok(self.upper.finish()?)
    }
}

/// Returns the directories of the layers of a source that is a snapshot.
fn layers(source: &CopySource<'_>) -> Result<Vec<OwnedFd>, CopyError> {
    match source {
        CopySource::Context(_) => Ok(Vec::new()),
        CopySource::Snapshot(snapshots, snapshot) => {
            Ok(snapshot.layers.iter().map(|layer| snapshots.layer_root(layer)).collect::<Result<_, _>>()?)
        }
    }
}

/// Returns `path`, which is relative to `directory` and may be empty.
fn below(directory: &[u8], path: &[u8]) -> Vec<u8> {
    if path.is_empty() { directory.to_vec() } else { join(directory, path) }
}

/// What a directory that exists gets of the one that is copied over it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    /// Nothing.
    Kept,
    /// The permission bits.
    GetsMode,
    /// All its metadata.
    Replaced,
}

/// Copies all data of `source`: shared blocks where the file system can, else within the kernel, else through memory.
pub(in crate::builder::embedded) fn copy_bytes(source: &File, target: &File, reflink: &AtomicBool) -> io::Result<()> {
    if reflink.load(Ordering::Relaxed) {
        match rustix::fs::ioctl_ficlone(target, source) {
            Ok(()) => return Ok(()),
            Err(_) => reflink.store(false, Ordering::Relaxed),
        }
    }
    let mut copied = false;
    loop {
        match rustix::fs::copy_file_range(source.as_fd(), None, target.as_fd(), None, 1 << 30) {
            Ok(0) if copied => return Ok(()),
            // Some file systems say 0 for what they cannot do; an empty file costs one read more.
            Ok(0) | Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) => break,
            Ok(_) => copied = true,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let (mut source, mut target) = (source, target);
    io::copy(&mut source, &mut target).map(drop)
}
