//! Writing into a draft without mounting it: every path is resolved against the tree of what is below and what was
//! written, and then written by directory descriptor, so that no link on disk is ever followed.
//!
//! Used for COPY, ADD, WORKDIR and base layers. Owners come before modes (changing the owner clears set-user-id), modes
//! before capabilities (changing the owner drops them), times last; times of directories when everything is written.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::sys::fs::named;

use super::super::form::{DEVICE, device_value};
use super::super::tree::{Entry, Kind, Tree, components, join, split};
use super::Draft;
use super::draft::Whiteouts;

/// A draft that is being written.
pub(in crate::builder::embedded) struct Upper<'a> {
    pub(in crate::builder::embedded) draft: &'a mut Draft,
    /// What the draft's root looks like with everything written so far.
    tree: Tree,
    root: OwnedFd,
    /// Directories that are in the upper directory.
    made: BTreeSet<Vec<u8>>,
    parent_directory: Mutex<Option<(Vec<u8>, std::sync::Arc<OwnedFd>)>>,
}

/// Position that the draft's own files have in its tree.
const OWN: usize = u32::MAX as usize;

impl<'a> Upper<'a> {
    pub(in crate::builder::embedded) fn new(draft: &'a mut Draft) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root =
            rustix::fs::openat(CWD, &draft.upper, flags, Mode::empty()).map_err(|e| named(e.into(), "open", &draft.upper))?;
        let tree = Tree::clone(&draft.parent().tree);
        Ok(Self { draft, tree, root, made: BTreeSet::from([Vec::new()]), parent_directory: Mutex::new(None) })
    }

    /// Returns what the draft's root looks like by now. Files have their entry as it was given.
    pub(in crate::builder::embedded) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns whether `path` was written into this draft, or is on the way to what was.
    pub(in crate::builder::embedded) fn is_own(&self, path: &[u8]) -> bool {
        self.made.contains(path) || self.tree.origin(path) == Some(OWN)
    }

    /// Makes sure that the directory `path` and those above it are in the upper directory: those of lower layers keep
    /// their metadata, missing ones get that of `new`. Returns the paths that are new.
    ///
    /// # Errors
    /// `NotADirectory` when something else is in the way.
    pub(in crate::builder::embedded) fn ensure_directory(&mut self, path: &[u8], new: &Entry) -> io::Result<Vec<Vec<u8>>> {
        let mut created = Vec::new();
        if self.made.contains(path) {
            return Ok(created);
        }
        let mut current = Vec::new();
        for name in components(path) {
            current = join(&current, name);
            if self.made.contains(&current) {
                continue;
            }
            let entry = match self.tree.get(&current) {
                Some(entry) if entry.is_directory() => entry.clone(),
                Some(_) => {
                    return Err(named(Errno::NOTDIR.into(), "make the directory", &shown(&current)));
                }
                None => {
                    created.push(current.clone());
                    new.clone()
                }
            };
            self.make_directory(&current, &entry)?;
            if created.last() == Some(&current) {
                self.tree.put(&current, entry, OWN);
            }
        }
        Ok(created)
    }

    fn make_directory(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        match rustix::fs::mkdirat(&*parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(named(error.into(), "make the directory", &shown(path))),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory =
            rustix::fs::openat(&*parent, name, flags, Mode::empty()).map_err(|e| named(e.into(), "open", &shown(path)))?;
        self.draft.form.set_metadata(directory.as_fd(), entry).map_err(|e| named(e, "set metadata of", &shown(path)))?;
        self.made.insert(path.to_vec());
        Ok(())
    }

    /// Puts a directory, or gives new metadata to the one that is there. What is there and is none goes away.
    ///
    /// Directories on the way must have been made with [`Upper::ensure_directory`]; so for all that follow.
    pub(in crate::builder::embedded) fn directory(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        if !path.is_empty() && self.tree.get(path).is_some_and(|entry| !entry.is_directory()) {
            self.unlink(path)?;
        }
        if path.is_empty() {
            self.draft.form.set_metadata(self.root.as_fd(), entry).map_err(|e| named(e, "set metadata of", &shown(path)))?;
        } else {
            self.make_directory(path, entry)?;
        }
        self.tree.put(path, entry.clone(), OWN);
        Ok(())
    }

    /// Puts a file whose data `fill` writes.
    pub(in crate::builder::embedded) fn file(
        &mut self,
        path: &[u8],
        entry: &Entry,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        self.unlink(path)?;
        self.write_file(path, entry, fill)?;
        self.note(path, entry);
        Ok(())
    }

    /// Writes the data of a file whose place is free, without noting it in the tree: may be called from many threads.
    pub(in crate::builder::embedded) fn write_file(
        &self,
        path: &[u8],
        entry: &Entry,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let time = Timespec { tv_sec: entry.mtime, tv_nsec: 0 };
        self.write_file_of(path, entry, time, fill)
    }

    /// As [`Upper::write_file`] with a time of modification that is more exact than the entry's.
    pub(in crate::builder::embedded) fn write_file_of(
        &self,
        path: &[u8],
        entry: &Entry,
        modified: Timespec,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(
            rustix::fs::openat(&*parent, name, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|e| named(e.into(), "create", &shown(path)))?,
        );
        fill(&file)?;
        let form = &self.draft.form;
        form.set_metadata(file.as_fd(), entry)
            .and_then(|()| Ok(rustix::fs::futimens(&file, &times_of(modified))?))
            .map_err(|e| named(e, "set metadata of", &shown(path)))
    }

    /// Notes in the tree that `path` is `entry`.
    pub(in crate::builder::embedded) fn note(&mut self, path: &[u8], entry: &Entry) {
        self.tree.put(path, entry.clone(), OWN);
    }

    /// Links `source`, a file of another layer or of this one, to `path`, whose place is free.
    pub(in crate::builder::embedded) fn link_file(&self, path: &[u8], source: &File) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        let (parent, name) = self.parent_of(path)?;
        let descriptor = format!("/proc/self/fd/{}", source.as_raw_fd());
        rustix::fs::linkat(CWD, &*descriptor, &*parent, name, AtFlags::SYMLINK_FOLLOW)
            .map_err(|e| named(e.into(), "link", &shown(path)))
    }

    /// Gives a file of this draft one more name.
    pub(in crate::builder::embedded) fn hard_link(&mut self, to: &[u8], path: &[u8]) -> io::Result<()> {
        self.unlink(path)?;
        let target = self.open_own(to)?;
        self.link_file(path, &target)?;
        if let Some(entry) = self.tree.get(to).cloned() {
            self.note(path, &entry);
        }
        Ok(())
    }

    /// Opens a file of this draft for reading.
    pub(in crate::builder::embedded) fn open_own(&self, path: &[u8]) -> io::Result<File> {
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(&*parent, name, flags, Mode::empty())
            .map(File::from)
            .map_err(|e| named(e.into(), "open", &shown(path)))
    }

    /// Opens a file of the layers below for reading.
    pub(in crate::builder::embedded) fn open_lower(&self, path: &[u8]) -> io::Result<File> {
        for lower in &self.draft.lowers {
            match open_below(&open_root(lower)?, path) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                result => return result,
            }
        }
        Err(named(Errno::NOENT.into(), "open", &shown(path)))
    }

    /// Puts a link, a pipe or a device.
    pub(in crate::builder::embedded) fn special(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        self.unlink(path)?;
        self.write_special(path, entry).map_err(|e| named(e, "create", &shown(path)))?;
        self.note(path, entry);
        Ok(())
    }

    fn write_special(&mut self, path: &[u8], entry: &Entry) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        let mode = Mode::from_raw_mode(entry.mode);
        if let Some(value) = device_value(&entry.kind).filter(|_| !self.draft.form.has_devices()) {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&*parent, name, flags, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::fsetxattr(&file, DEVICE, value.as_bytes(), XattrFlags::empty())?;
            self.draft.form.set_metadata(file.as_fd(), entry)?;
            return set_time(file.as_fd(), entry.mtime);
        }
        match &entry.kind {
            Kind::Symlink { target } => rustix::fs::symlinkat(Path::new(std::ffi::OsStr::from_bytes(target)), &*parent, name)?,
            Kind::Fifo => rustix::fs::mknodat(&*parent, name, FileType::Fifo, mode, 0)?,
            Kind::CharDevice { major, minor } => {
                rustix::fs::mknodat(&*parent, name, FileType::CharacterDevice, mode, rustix::fs::makedev(*major, *minor))?;
            }
            Kind::BlockDevice { major, minor } => {
                rustix::fs::mknodat(&*parent, name, FileType::BlockDevice, mode, rustix::fs::makedev(*major, *minor))?;
            }
            Kind::Directory | Kind::File { .. } | Kind::HardLink { .. } => return Err(Errno::INVAL.into()),
        }
        let Draft { form, owners, .. } = &mut *self.draft;
        form.own_link(parent.as_fd(), name, entry, owners)?;
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            rustix::fs::chmodat(&*parent, name, mode, AtFlags::empty())?;
        }
        rustix::fs::utimensat(&*parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    /// Removes what is at `path` from the upper directory and the tree; what is in lower layers shows through on disk
    /// until something is put there.
    pub(in crate::builder::embedded) fn unlink(&mut self, path: &[u8]) -> io::Result<()> {
        if !self.is_own(path) {
            self.tree.remove(path);
            return Ok(());
        }
        let (parent, name) = self.parent_of(path)?;
        match rustix::fs::unlinkat(&*parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => {
                self.forget_parent();
                remove_tree(parent.as_fd(), name)?;
                self.made.retain(|made| made != path && !(made.starts_with(path) && made.get(path.len()) == Some(&b'/')));
            }
            Err(error) => return Err(named(error.into(), "remove", &shown(path))),
        }
        self.tree.remove(path);
        Ok(())
    }

    /// Moves `name` in the directory `from`, which may be a whole directory, to `path`, whose place is free.
    pub(in crate::builder::embedded) fn adopt(&mut self, path: &[u8], from: &OwnedFd) -> io::Result<()> {
        let (parent, name) = self.parent_of(path)?;
        rustix::fs::renameat(from, name, &*parent, name).map_err(|e| named(e.into(), "move", &shown(path)))
    }

    /// Hides `path` of the layers below, if nothing is there in the upper directory.
    pub(in crate::builder::embedded) fn whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        if self.draft.whiteouts == Whiteouts::Noted {
            self.draft.hidden.insert(path.to_vec());
        } else {
            let (parent, name) = self.parent_of(path)?;
            make_whiteout(parent.as_fd(), name).map_err(|e| named(e, "hide", &shown(path)))?;
        }
        self.tree.remove(path);
        Ok(())
    }

    /// Removes `path` from the tree only.
    pub(in crate::builder::embedded) fn forget(&mut self, path: &[u8]) {
        self.tree.remove(path);
    }

    /// Notes that a directory of the upper directory hides everything below it.
    pub(in crate::builder::embedded) fn make_opaque(&mut self, path: &[u8]) {
        self.draft.opaque.insert(path.to_vec());
    }

    fn open_directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open_beneath(self.root.as_fd(), path, flags)
    }

    /// Opens the directory of `path`, which is in the upper directory; the last one is kept open.
    fn parent_of<'p>(&self, path: &'p [u8]) -> io::Result<(std::sync::Arc<OwnedFd>, &'p std::ffi::OsStr)> {
        let (parent, name) = split(path);
        let mut last = self.parent_directory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, directory)) = &*last
            && path == parent
        {
            return Ok((directory.clone(), std::ffi::OsStr::from_bytes(name)));
        }
        let directory = std::sync::Arc::new(self.open_directory(parent)?);
        *last = Some((parent.to_vec(), directory.clone()));
        Ok((directory, std::ffi::OsStr::from_bytes(name)))
    }

    fn forget_parent(&self) {
        *self.parent_directory.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Sets the times of all directories, which writing into them changed.
    pub(in crate::builder::embedded) fn finish(self) -> io::Result<()> {
        for path in self.made.iter().rev() {
            let Some(entry) = self.tree.get(path) else { continue };
            set_time(self.open_directory(path)?.as_fd(), entry.mtime).map_err(|e| named(e, "set the time of", &shown(path)))?;
        }
        Ok(())
    }
}

/// Returns how messages call a path of an image.
pub(in crate::builder::embedded) fn shown(path: &[u8]) -> std::path::PathBuf {
    Path::new("/").join(std::ffi::OsStr::from_bytes(path))
}

/// Opens `path` below `directory`; no link on the way or at the end is followed.
pub(in crate::builder::embedded) fn open_beneath(
    directory: std::os::fd::BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let inner = if path.is_empty() { Path::new(".") } else { Path::new(std::ffi::OsStr::from_bytes(path)) };
    loop {
        match rustix::fs::openat2(directory, inner, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result.map_err(|e| named(e.into(), "open", &shown(path))),
        }
    }
}

/// Opens the regular file `path` below `root` for reading; no link is followed.
pub(in crate::builder::embedded) fn open_below(root: &OwnedFd, path: &[u8]) -> io::Result<File> {
    open_beneath(root.as_fd(), path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK).map(File::from)
}

/// Opens a directory of this machine to open what is below it.
pub(in crate::builder::embedded) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|e| named(e.into(), "open", path))
}

/// Sets the modification time.
pub(in crate::builder::embedded) fn set_time(file: std::os::fd::BorrowedFd<'_>, mtime: i64) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &times(mtime))?)
}

fn times(mtime: i64) -> Timestamps {
    times_of(Timespec { tv_sec: mtime, tv_nsec: 0 })
}

fn times_of(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

/// Makes the form in which overlayfs keeps "there is nothing here": a character device 0:0.
pub(in crate::builder::embedded) fn make_whiteout(
    directory: std::os::fd::BorrowedFd<'_>,
    name: &std::ffi::OsStr,
) -> io::Result<()> {
    Ok(rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Removes the directory `name` with everything in it; no link is followed.
pub(in crate::builder::embedded) fn remove_tree(
    directory: std::os::fd::BorrowedFd<'_>,
    name: &std::ffi::OsStr,
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    let names: Vec<std::ffi::CString> = rustix::fs::Dir::read_from(&inner)?
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<Result<_, _>>()?;
    for child in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        match rustix::fs::unlinkat(&inner, child, AtFlags::empty()) {
            Err(Errno::ISDIR) => remove_tree(inner.as_fd(), std::ffi::OsStr::from_bytes(child.to_bytes()))?,
            result => result?,
        }
    }
    Ok(rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?)
}
