//! Owners of files that all belong to one user on disk.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::super::{RootForm, RunStep, beside_upper};
use super::credentials::Credentials;
use super::target::{link, stat};
use crate::builder::embedded::form::{DEVICE, LinkOwner, OWNER, OWNERS_FILE, born, parse_device, parse_owner};
use crate::builder::embedded::tree::Kind;

/// User and group.
type Owner = (u32, u32);

/// Who owns which file of a step.
pub(super) struct FileOwners {
    /// Owner of what the step makes without saying so.
    new: Owner,
    upper: OwnedFd,
    /// Whether the upper directory is the root itself.
    is_whole: bool,
    /// The device number of the step's root.
    device: u64,
    /// Of links, pipes and sockets, by inode in the upper directory.
    links: HashMap<u64, LinkOwner>,
    /// Of links and pipes of the layers below, by path; others belong to 0:0.
    below: HashMap<Vec<u8>, Owner>,
    /// Of files on file systems without attributes.
    elsewhere: HashMap<(u64, u64), Owner>,
}

/// A file as the step is to see it.
pub(super) struct Seen<'a> {
    file: &'a OwnedFd,
    owner: Owner,
    device: Option<Kind>,
}

fn described(file: &OwnedFd) -> PathBuf {
    // Attributes cannot be read or written through such a descriptor, but through its name.
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn has_attributes(kind: FileType) -> bool {
    matches!(kind, FileType::Directory | FileType::RegularFile)
}

fn attribute(file: &OwnedFd, name: &str) -> Option<Vec<u8>> {
    let mut buffer = [0; 64];
    let length = rustix::fs::getxattr(described(file), name, &mut buffer[..]).ok()?;
    Some(buffer[..length].to_vec())
}

/// Writes down who owns something that the sandbox makes before the step begins.
///
/// # Errors
/// The kernel's.
pub(in crate::builder::embedded::sandbox) fn record_owner(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, OWNER, format!("{uid}:{gid}").as_bytes(), XattrFlags::empty())?)
}

impl FileOwners {
    pub(super) fn new(step: &RunStep) -> io::Result<Self> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            new: (step.user.uid, step.user.gid),
            upper: rustix::fs::openat(CWD, &step.root.upper, directory, Mode::empty())?,
            device: rustix::fs::stat(beside_upper(&step.root, "root"))?.st_dev,
            is_whole: step.root.form == RootForm::Whole,
            links: HashMap::new(),
            below: step.links.iter().map(|owned| (owned.path.clone(), (owned.uid, owned.gid))).collect(),
            elsewhere: HashMap::new(),
        })
    }

    pub(super) fn new_owner(&self) -> Owner {
        self.new
    }

    /// Returns the true owner, or `None` for files that are not the step's.
    fn owner(&self, file: &OwnedFd, stat: &Stat) -> Option<Owner> {
        let recorded = has_attributes(FileType::from_raw_mode(stat.st_mode)).then(|| attribute(file, OWNER)).flatten();
        if let Some(owner) = recorded.and_then(|value| parse_owner(&value)) {
            return Some(owner);
        }
        if let Some(owner) = self.elsewhere.get(&(stat.st_dev, stat.st_ino)) {
            return Some(*owner);
        }
        if stat.st_dev != self.device {
            return None;
        }
        if has_attributes(FileType::from_raw_mode(stat.st_mode)) {
            return Some(self.new);
        }
        let path = link(described(file).to_str()?).ok()?;
        let of_layers = || self.below.get(path.strip_prefix("/").unwrap_or(&path).as_os_str().as_bytes()).copied();
        let Some(upper) = self.in_upper(&path, stat) else { return Some(of_layers().unwrap_or((0, 0))) };
        let inode = super::target::stat(&upper).ok()?.st_ino;
        let known = self.links.get(&inode).filter(|known| known.born.is_none() || known.born == born(upper.as_fd()));
        // A root that is no overlay has those of the layers in the same directory.
        Some(known.map(|known| known.owner).or_else(|| self.is_whole.then(of_layers).flatten()).unwrap_or(self.new))
    }

    /// Opens what the step has at `path` in its own layer, if it is of the kind that `stat` says.
    fn in_upper(&self, path: &Path, stat: &Stat) -> Option<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let inside = path.strip_prefix("/").unwrap_or(path);
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = rustix::fs::openat2(&self.upper, inside, flags, Mode::empty(), resolve).ok()?;
        let same = |found: Stat| FileType::from_raw_mode(found.st_mode) == FileType::from_raw_mode(stat.st_mode);
        super::target::stat(&file).is_ok_and(same).then_some(file)
    }

    fn give(&mut self, file: &OwnedFd, stat: &Stat, owner: Owner) -> rustix::io::Result<()> {
        if has_attributes(FileType::from_raw_mode(stat.st_mode)) {
            let value = format!("{}:{}", owner.0, owner.1);
            match rustix::fs::setxattr(described(file), OWNER, value.as_bytes(), XattrFlags::empty()) {
                Err(Errno::NOTSUP) => {}
                result => return result,
            }
        } else if stat.st_dev == self.device
            && let Some(upper) = link(described(file).to_str().unwrap_or_default()).ok().and_then(|p| self.in_upper(&p, stat))
        {
            let inode = super::target::stat(&upper)?.st_ino;
            self.links.insert(inode, LinkOwner { owner, born: born(upper.as_fd()) });
            return Ok(());
        }
        self.elsewhere.insert((stat.st_dev, stat.st_ino), owner);
        Ok(())
    }

    /// Gives a file to somebody, `None` for as it is.
    pub(super) fn chown(
        &mut self,
        file: &OwnedFd,
        wanted: (Option<u32>, Option<u32>),
        credentials: &Credentials,
    ) -> rustix::io::Result<()> {
        let before = stat(file)?;
        let owner = self.owner(file, &before).unwrap_or((before.st_uid, before.st_gid));
        let given = (wanted.0.unwrap_or(owner.0), wanted.1.unwrap_or(owner.1));
        if wanted != (None, None) && !credentials.may_give(owner, given) {
            return Err(Errno::PERM);
        }
        // With the effects that it has besides: the file comes up from lower layers, and loses set-user-id bit and
        // capabilities; what may not be written is refused.
        let (uid, gid) = (wanted.0.map(|_| Uid::ROOT), wanted.1.map(|_| Gid::ROOT));
        rustix::fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        self.give(file, &before, given)
    }

    /// Writes down who owns what was just made; in a directory that hands its group down, that has the group.
    pub(super) fn give_new(&mut self, parent: &OwnedFd, name: &CStr, owner: Owner) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let directory = stat(parent)?;
        let handed = (directory.st_mode & libc::S_ISGID != 0).then(|| self.owner(parent, &directory)).flatten();
        let made = stat(&file)?;
        Ok(self.give(&file, &made, (owner.0, handed.map_or(owner.1, |owner| owner.1)))?)
    }

    /// Returns a file as the step is to see it; `None` when that is how it is.
    pub(super) fn seen<'a>(&self, file: &'a OwnedFd) -> io::Result<Option<Seen<'a>>> {
        let found = stat(file)?;
        let Some(owner) = self.owner(file, &found) else { return Ok(None) };
        let may_be_device = found.st_size == 0 && FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        let device = may_be_device.then(|| attribute(file, DEVICE)).flatten().and_then(|value| parse_device(&value));
        Ok((owner != (0, 0) || device.is_some()).then_some(Seen { file, owner, device }))
    }

    /// Returns as whom a program runs that is executed: user and group, `None` for as whoever executes it. `None` for what
    /// is no program.
    pub(super) fn becomes(&self, file: &OwnedFd) -> io::Result<Option<(Option<u32>, Option<u32>)>> {
        let found = stat(file)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_mode & 0o111 == 0 {
            return Ok(None);
        }
        let owner = self.owner(file, &found);
        let as_group = libc::S_ISGID | libc::S_IXGRP;
        let uid = owner.filter(|_| found.st_mode & libc::S_ISUID != 0).map(|owner| owner.0);
        let gid = owner.filter(|_| found.st_mode & as_group == as_group).map(|owner| owner.1);
        Ok(Some((uid, gid)))
    }

    pub(super) fn write(&self, step: &RunStep) -> io::Result<()> {
        let list: Vec<(u64, LinkOwner)> = self.links.iter().map(|(inode, owner)| (*inode, *owner)).collect();
        fs_err::write(beside_upper(&step.root, OWNERS_FILE), serde_json::to_vec(&list)?)
    }
}

fn bytes_of<T: Copy>(value: &T) -> Vec<u8> {
    // SAFETY: the structures are the kernel's, plain numbers throughout, and were zeroed before they were filled.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), std::mem::size_of::<T>()) }.to_vec()
}

impl Seen<'_> {
    fn mode(&self, mode: u32) -> u32 {
        let kind = match self.device {
            Some(Kind::CharDevice { .. }) => libc::S_IFCHR,
            Some(Kind::BlockDevice { .. }) => libc::S_IFBLK,
            _ => return mode,
        };
        mode & !libc::S_IFMT | kind
    }

    fn numbers(&self) -> (u32, u32) {
        match self.device {
            Some(Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor }) => (major, minor),
            _ => (0, 0),
        }
    }

    fn stat(&self) -> io::Result<libc::stat> {
        // SAFETY: an all-zero structure is valid; the path is empty and ends with its zero; the kernel fills the structure.
        let mut stat = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstatat(self.file.as_raw_fd(), c"".as_ptr(), &raw mut stat, libc::AT_EMPTY_PATH) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat
        };
        (stat.st_uid, stat.st_gid) = self.owner;
        stat.st_mode = self.mode(stat.st_mode);
        if self.device.is_some() {
            let (major, minor) = self.numbers();
            stat.st_rdev = libc::makedev(major, minor);
        }
        Ok(stat)
    }

    /// Returns a `struct stat` of this machine.
    pub(super) fn native(&self) -> io::Result<Vec<u8>> {
        Ok(bytes_of(&self.stat()?))
    }

    /// Returns a `struct stat64` of 32-bit x86.
    pub(super) fn i386(&self) -> io::Result<Vec<u8>> {
        let stat = self.stat()?;
        let mut bytes = vec![0; 96];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &stat.st_dev.to_ne_bytes());
        put(12, &(stat.st_ino as u32).to_ne_bytes());
        put(16, &stat.st_mode.to_ne_bytes());
        put(20, &(stat.st_nlink as u32).to_ne_bytes());
        put(24, &stat.st_uid.to_ne_bytes());
        put(28, &stat.st_gid.to_ne_bytes());
        put(32, &stat.st_rdev.to_ne_bytes());
        put(44, &stat.st_size.to_ne_bytes());
        put(52, &(stat.st_blksize as u32).to_ne_bytes());
        put(56, &stat.st_blocks.to_ne_bytes());
        let times =
            [(stat.st_atime, stat.st_atime_nsec), (stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec)];
        for (number, (seconds, nanoseconds)) in times.into_iter().enumerate() {
            put(64 + 8 * number, &(seconds as u32).to_ne_bytes());
            put(68 + 8 * number, &(nanoseconds as u32).to_ne_bytes());
        }
        put(88, &stat.st_ino.to_ne_bytes());
        Ok(bytes)
    }

    /// Returns a `struct statx` with what `mask` asks for.
    pub(super) fn extended(&self, mask: u32) -> io::Result<Vec<u8>> {
        // SAFETY: as in `stat`.
        let mut stat = unsafe {
            let mut stat: libc::statx = std::mem::zeroed();
            let file = self.file.as_raw_fd();
            if libc::statx(file, c"".as_ptr(), libc::AT_EMPTY_PATH, mask, &raw mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat
        };
        (stat.stx_uid, stat.stx_gid) = self.owner;
        stat.stx_mode = self.mode(u32::from(stat.stx_mode)) as u16;
        if self.device.is_some() {
            (stat.stx_rdev_major, stat.stx_rdev_minor) = self.numbers();
        }
        Ok(bytes_of(&stat))
    }
}
