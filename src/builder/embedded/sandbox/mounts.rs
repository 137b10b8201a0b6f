//! Mounting by file descriptor: file systems and clones are made without a place, restricted, and only then attached to a
//! target that was itself opened inside the root. Nothing is ever mounted by a path that a step could have changed.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode as Permissions, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags};

use super::mode::{self, Mode};

/// Attributes of mounts whose programs and devices must not count.
pub(super) const INERT: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV).union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Makes a file system of type `kind` without a place.
pub(super) fn filesystem(kind: &CStr, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Options of every overlay. Features that would make the upper directory depend on this kernel's defaults are pinned
/// off, and nothing is flushed: the result is read back by this process, and an interrupted step is thrown away.
pub(super) const OVERLAY: &str = "redirect_dir=nofollow,metacopy=off,index=off,xino=off,volatile";

/// Returns the option that says where overlays keep their notes: only root of the machine may write `trusted.*`.
pub(super) fn notes() -> Option<&'static str> {
    (mode::of_process() != Some(Mode::Root)).then_some("userxattr")
}

/// Mounts an overlay of `lowers` (highest first) and `upper` on `target`.
pub(super) fn overlay(lowers: &[OwnedFd], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    let (upper, work) = (open_path(upper)?, open_path(work)?);
    // `/proc/self/fd/N` needs no escaping and stays short: the options of a mount must fit in one page.
    let path = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers: Vec<String> = lowers.iter().map(path).collect();
    let base = format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), path(&upper), path(&work));
    let pinned = format!("{base},{OVERLAY}{}", notes().map_or_else(String::new, |notes| format!(",{notes}")));
    // Device nodes in an image must not open this machine's devices; setuid programs must work.
    rustix::mount::mount("overlay", target, c"overlay", MountFlags::NODEV, std::ffi::CString::new(pinned)?.as_c_str())?;
    Ok(())
}

/// Opens `path` for use as a mount source, without following a link at its end.
pub(super) fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Permissions::empty())?)
}

/// Clones the mount that `source` lies in, from `source` downwards, without a place.
pub(super) fn clone_tree(source: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(source, "", flags)?)
}

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Adds `attributes` to a mount and all below it.
pub(super) fn restrict(mount: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<()> {
    change(mount, attributes, MountAttrFlags::empty())
}

/// Adds the attributes `set` to a mount and all below it, and takes away `clear`.
pub(super) fn change(mount: BorrowedFd<'_>, set: MountAttrFlags, clear: MountAttrFlags) -> io::Result<()> {
    let change =
        MountAttributes { set: u64::from(set.bits()), clear: u64::from(clear.bits()), propagation: 0, user_namespace: 0 };
    let flags = (AtFlags::EMPTY_PATH.bits() | libc::AT_RECURSIVE as u32) as libc::c_uint;
    // SAFETY: the structure has the kernel's layout (`struct mount_attr`, version 0) and its size is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &change,
            std::mem::size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a mount without a place onto `target`.
pub(super) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", target, "", flags)?)
}
