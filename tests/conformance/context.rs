//! A case's context on disk.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};

use crate::archive;
use crate::case::Case;
use crate::listing::{self, Entry, Kind};

/// Writes the files of a case below `directory`.
///
/// # Panics
/// When a file cannot be made; all of it needs root.
pub fn write(case: &Case, directory: &Path) {
    for entry in listing::parse(&case.context) {
        make(&entry, directory);
    }
    for (name, members) in &case.archives {
        let (path, format) = match name.split_once(' ') {
            Some((path, format)) => (path, format),
            None => (name.as_str(), name.rsplit('.').next().expect("a part")),
        };
        let path = directory.join(path);
        parent(&path);
        fs::write(&path, archive::make(&listing::parse(members), format)).expect("the archive can be written");
    }
    let dockerfile = directory.join(&case.file);
    parent(&dockerfile);
    fs::write(dockerfile, &case.dockerfile).expect("the Dockerfile can be written");
}

fn parent(path: &Path) {
    fs::create_dir_all(path.parent().expect("below the context")).expect("directories can be made");
}

fn make(entry: &Entry, directory: &Path) {
    let path = directory.join(&entry.path);
    parent(&path);
    let node = |kind, device| mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device).expect("root can make nodes");
    match &entry.kind {
        Kind::Directory => fs::create_dir_all(&path).expect("directories can be made"),
        Kind::File(content) => fs::write(&path, content).expect("files can be written"),
        Kind::Symlink(target) => symlink(target, &path).expect("links can be made"),
        Kind::Hardlink(target) => return fs::hard_link(directory.join(target), &path).expect("links can be made"),
        Kind::Fifo => node(FileType::Fifo, 0),
        Kind::Char(major, minor) => node(FileType::CharacterDevice, makedev(*major, *minor)),
        Kind::Block(major, minor) => node(FileType::BlockDevice, makedev(*major, *minor)),
        Kind::Socket => drop(UnixListener::bind(&path).expect("sockets can be made")),
    }
    lchown(&path, Some(entry.uid), Some(entry.gid)).expect("root can give files away");
    if !matches!(entry.kind, Kind::Symlink(_)) {
        fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode)).expect("the file is ours");
    }
    for (name, value) in &entry.xattrs {
        rustix::fs::lsetxattr(&path, name.as_str(), value, XattrFlags::empty()).expect("the file system has attributes");
    }
}
