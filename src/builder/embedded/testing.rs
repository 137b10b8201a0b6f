//! What the tests of layers share: a cache that goes away, a shell, and the kernel's own view of layers.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::snapshot::{Draft, Snapshot, Snapshots};
use super::tree::{Kind, LayerId, Tree};

/// A cache in a directory that goes away.
pub(super) struct Bench {
    pub(super) directory: tempfile::TempDir,
    pub(super) snapshots: Snapshots,
}

impl Bench {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let snapshots = Snapshots::open(&directory.path().join("cache")).expect("opens");
        Self { directory, snapshots }
    }

    pub(super) fn path(&self, inner: &str) -> PathBuf {
        self.directory.path().join(inner)
    }

    /// Opens the same cache as another process would.
    pub(super) fn again(&self) -> Snapshots {
        Snapshots::open(&self.path("cache")).expect("opens")
    }

    /// Runs a shell script in the directory; it must succeed.
    pub(super) fn sh(&self, script: &str) {
        let status = Command::new("bash").args(["-ec", script]).current_dir(self.directory.path()).status().expect("runs");
        assert!(status.success(), "{script}");
    }

    /// Runs a shell script in the root that an overlay of the draft shows. It is not confined there: scripts must not
    /// write through absolute links.
    pub(super) fn in_overlay(&self, draft: &Draft, script: &str) {
        let lowers: Vec<String> = draft.lowers.iter().map(|lower| lower.display().to_string()).collect();
        fs_err::write(self.path("script"), script).expect("writes");
        self.sh(&format!(
            "mkdir -p merged; unshare -m bash -ec '
               mount -t overlay overlay -o redirect_dir=off,metacopy=off,index=off,xino=off,lowerdir={},upperdir={},workdir={} merged
               script=$PWD/script; cd merged; bash $script'",
            lowers.join(":"),
            draft.upper.display(),
            draft.work.display()
        ));
    }

    /// Returns the directory that holds a layer's files.
    pub(super) fn layer(&self, layer: &LayerId) -> PathBuf {
        self.path("cache/pkgbuild/v1/layers").join(layer.to_string()).join("fs")
    }
}

/// What is compared of a path: type, mode, owners, and data, link target or device number.
pub(super) type Listing = BTreeMap<String, String>;

/// Lists a directory of this machine.
pub(super) fn list_directory(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs_err::read_dir(&directory).expect("lists") {
            let path = entry.expect("reads").path();
            let stat = fs_err::symlink_metadata(&path).expect("stats");
            let detail = match stat.mode() & libc::S_IFMT {
                libc::S_IFDIR => {
                    todo.push(path.clone());
                    String::new()
                }
                libc::S_IFREG => format!("{} {}", stat.len(), blake3::hash(&fs_err::read(&path).expect("reads"))),
                libc::S_IFLNK => fs_err::read_link(&path).expect("reads").display().to_string(),
                libc::S_IFIFO => "fifo".to_owned(),
                libc::S_IFSOCK => continue,
                _ => format!("{:x}", stat.rdev()),
            };
            let name = path.strip_prefix(root).expect("below").as_os_str().as_bytes();
            listing.insert(
                String::from_utf8_lossy(name).into_owned(),
                format!("{:o} {}:{} {detail}", stat.mode(), stat.uid(), stat.gid()),
            );
        }
    }
    listing
}

/// Lists a tree in the same form.
pub(super) fn list_tree(tree: &Tree) -> Listing {
    let line = |(path, entry): (Vec<u8>, &super::tree::Entry)| {
        let (format, detail) = match &entry.kind {
            Kind::Directory => (libc::S_IFDIR, String::new()),
            Kind::File { size, hash } => (libc::S_IFREG, format!("{size} {hash}")),
            Kind::Symlink { target } => (libc::S_IFLNK, String::from_utf8_lossy(target).into_owned()),
            Kind::Fifo => (libc::S_IFIFO, "fifo".to_owned()),
            Kind::CharDevice { major, minor } => (libc::S_IFCHR, format!("{:x}", libc::makedev(*major, *minor))),
            Kind::BlockDevice { major, minor } => (libc::S_IFBLK, format!("{:x}", libc::makedev(*major, *minor))),
            Kind::HardLink { .. } => unreachable!("not in trees"),
        };
        let path = String::from_utf8_lossy(&path).into_owned();
        (path, format!("{:o} {}:{} {detail}", format | entry.mode, entry.uid, entry.gid))
    };
    tree.range(b"").skip(1).map(line).collect()
}

/// Asserts that what the kernel shows of the layers is what the tree says.
pub(super) fn assert_mounts_as_its_tree(bench: &Bench, snapshot: &Snapshot) {
    let draft = bench.snapshots.draft(snapshot).expect("drafts");
    let seen = bench.path("seen");
    bench.in_overlay(&draft, &format!("rm -rf {0}; cp -a . {0}", seen.display()));
    assert_eq!(list_directory(&seen), list_tree(&snapshot.tree));
}
