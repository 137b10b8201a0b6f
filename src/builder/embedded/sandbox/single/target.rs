//! The thread that waits for an answer: its memory, and paths as it sees them.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::call::Place;

/// A thread with the arguments of its call.
pub(super) struct Target {
    pub(super) thread: u32,
    pub(super) arguments: [u64; 6],
}

/// The kernel's limit for one path, with its end.
const PATH_LIMIT: usize = 4096;
const PAGE: u64 = 4096;

impl Target {
    pub(super) fn argument(&self, number: u8) -> u64 {
        self.arguments[usize::from(number)]
    }

    /// Returns an argument that is a user or group id; `None` for -1.
    pub(super) fn id(&self, number: u8) -> Option<u32> {
        let id = self.argument(number) as u32;
        (id != u32::MAX).then_some(id)
    }

    /// Returns the umask of the thread.
    pub(super) fn umask(&self) -> io::Result<u32> {
        let status = fs_err::read_to_string(format!("/proc/{}/status", self.thread))?;
        let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
        umask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).ok_or_else(|| Errno::SRCH.into())
    }

    fn transfer(&self, address: u64, bytes: &mut [u8], write: bool) -> io::Result<usize> {
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
        let thread = self.thread as libc::pid_t;
        // SAFETY: the local range is that of `bytes`; the kernel checks the remote one.
        let count = unsafe {
            if write {
                libc::process_vm_writev(thread, &raw const local, 1, &raw const remote, 1, 0)
            } else {
                libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0)
            }
        };
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(count as usize) }
    }

    /// Reads memory of the thread.
    pub(super) fn read(&self, address: u64, bytes: &mut [u8]) -> io::Result<()> {
        if self.transfer(address, bytes, false)? == bytes.len() { Ok(()) } else { Err(Errno::FAULT.into()) }
    }

    /// Writes memory of the thread.
    pub(super) fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        if self.transfer(address, &mut bytes.to_vec(), true)? == bytes.len() { Ok(()) } else { Err(Errno::FAULT.into()) }
    }

    /// Reads a text of at most a path's length.
    pub(super) fn text(&self, mut address: u64) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        while text.len() < PATH_LIMIT {
            // Not beyond the page: the next one may not be there.
            let mut piece = [0; 256];
            let length = (PAGE - address % PAGE).min(piece.len() as u64) as usize;
            let count = self.transfer(address, &mut piece[..length], false)?;
            if count == 0 {
                return Err(Errno::FAULT.into());
            }
            if let Some(end) = piece[..count].iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&piece[..end]);
                return Ok(text);
            }
            text.extend_from_slice(&piece[..count]);
            address += count as u64;
        }
        Err(Errno::NAMETOOLONG.into())
    }

    fn of_proc(&self, name: &str) -> io::Result<OwnedFd> {
        let path = format!("/proc/{}/{name}", self.thread);
        Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Opens what the call is about, without reading or writing it.
    pub(super) fn open(&self, place: Place) -> io::Result<OwnedFd> {
        let (directory, path, follow) = match place {
            Place::File { file } => return self.of_proc(&format!("fd/{}", self.argument(file) as i32)),
            Place::Path { path, follow } => (libc::AT_FDCWD, self.text(self.argument(path))?, follow),
            Place::At { directory, path, flags } => {
                let flags = flags.map_or(0, |flags| self.argument(flags) as i32);
                let path = match self.argument(path) {
                    // Since Linux 6.11 no path at all is as good as an empty one.
                    0 if flags & libc::AT_EMPTY_PATH != 0 => Vec::new(),
                    address => self.text(address)?,
                };
                if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
                    return Err(Errno::NOENT.into());
                }
                (self.argument(directory) as i32, path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
            }
        };
        if path.is_empty() {
            return if directory == libc::AT_FDCWD { self.of_proc("cwd") } else { self.of_proc(&format!("fd/{directory}")) };
        }
        self.open_path(directory, &path, follow)
    }

    /// Opens the directory in which the call makes something, and returns that with the new name.
    pub(super) fn open_parent(&self, place: Place) -> io::Result<(OwnedFd, CString)> {
        let (directory, path) = match place {
            Place::File { .. } => return Err(Errno::INVAL.into()),
            Place::Path { path, .. } => (libc::AT_FDCWD, path),
            Place::At { directory, path, .. } => (self.argument(directory) as i32, path),
        };
        let mut path = self.text(self.argument(path))?;
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
        }
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(0) => (&b"/"[..], &path[1..]),
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b"."[..], &path[..]),
        };
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::INVAL.into());
        }
        let name = CString::new(name).expect("a text ends at its first zero");
        Ok((self.open_path(directory, parent, true)?, name))
    }

    /// Opens a path as the thread would, below its root whatever links say.
    fn open_path(&self, directory: i32, path: &[u8], follow: bool) -> io::Result<OwnedFd> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        let open = |from: &OwnedFd, path: &OsStr, resolve: ResolveFlags| {
            rustix::fs::openat2(from.as_fd(), path, flags, Mode::empty(), resolve | ResolveFlags::NO_MAGICLINKS)
        };
        let path = OsStr::from_bytes(path);
        if path.as_bytes().starts_with(b"/") {
            return Ok(open(&self.of_proc("root")?, path, ResolveFlags::IN_ROOT)?);
        }
        let name = if directory == libc::AT_FDCWD { "cwd".to_owned() } else { format!("fd/{directory}") };
        let base = self.of_proc(&name)?;
        match open(&base, path, ResolveFlags::BENEATH) {
            // It leads out of the directory, to elsewhere below the root.
            Err(Errno::XDEV) => {}
            result => return Ok(result?),
        }
        let (base, root) = (link(&format!("/proc/{}/{name}", self.thread))?, link(&format!("/proc/{}/root", self.thread))?);
        let inside = base.strip_prefix(&root).map_err(|_| io::Error::from(Errno::XDEV))?;
        Ok(open(&self.of_proc("root")?, Path::new("/").join(inside).join(path).as_os_str(), ResolveFlags::IN_ROOT)?)
    }
}

/// Returns what a link of `/proc` says.
pub(super) fn link(path: &str) -> io::Result<PathBuf> {
    let text = rustix::fs::readlinkat(CWD, path, Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(text.into_bytes())))
}

/// Returns metadata of what was opened without reading or writing it.
pub(super) fn stat(file: &OwnedFd) -> rustix::io::Result<rustix::fs::Stat> {
    rustix::fs::statat(file, c"", AtFlags::EMPTY_PATH)
}
