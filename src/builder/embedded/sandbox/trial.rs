//! What can be done here, found out by doing it where it leaves no trace.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::mounts::{OVERLAY, notes, open_path};

/// What overlayfs failed to do.
#[derive(Debug, thiserror::Error)]
#[error("overlayfs cannot {action} in the cache directory: {source}")]
pub(in crate::builder::embedded) struct OverlayError {
    action: &'static str,
    source: io::Error,
}

/// Makes and removes a whiteout in `directory`.
///
/// # Errors
/// What the file system says: it cannot.
pub(in crate::builder::embedded) fn whiteout(directory: &Path) -> io::Result<()> {
    let path = directory.join("whiteout");
    rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), 0)?;
    fs_err::remove_file(path)
}

/// Mounts an overlay of directories in `directory`, which is empty, at no place, and removes and makes a directory through
/// it, which takes whiteouts and attributes.
///
/// # Errors
/// What cannot be done.
pub(in crate::builder::embedded) fn overlay(directory: &Path) -> Result<(), OverlayError> {
    let failed = |action| move |source: io::Error| OverlayError { action, source };
    for name in ["lower/d", "upper", "work"] {
        fs_err::create_dir_all(directory.join(name)).map_err(failed("be tried"))?;
    }
    let root = mount(directory).map_err(failed("be mounted"))?;
    let remade = || -> io::Result<()> {
        rustix::fs::unlinkat(&root, "d", AtFlags::REMOVEDIR)?;
        Ok(rustix::fs::mkdirat(&root, "d", Mode::RWXU)?)
    };
    remade().map_err(failed("replace a directory"))
}

fn mount(directory: &Path) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut open = Vec::new();
    for (key, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        let place = open_path(&directory.join(name))?;
        rustix::mount::fsconfig_set_string(context.as_fd(), key, format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        open.push(place);
    }
    for option in OVERLAY.split(',').chain(notes()) {
        match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?,
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), option)?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&mount, ".", flags, Mode::empty())?)
}
