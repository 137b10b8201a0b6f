//! Rules of COPY and ADD, on real directories and layers.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::builder::{Context, ContextRoot};
use crate::dockerfile::Ignore;

/// A cache and a build context in a directory that goes away.
struct Bench {
    directory: tempfile::TempDir,
    snapshots: Snapshots,
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let snapshots = Snapshots::open(&directory.path().join("cache")).expect("opens");
        let bench = Self { directory, snapshots };
        bench.fill("context", files);
        bench
    }

    /// Writes files below `root`; `target ->` makes a link, a name that ends in `/` a directory.
    fn fill(&self, root: &str, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = self.directory.path().join(root).join(name);
            fs_err::create_dir_all(if name.ends_with('/') { &path } else { path.parent().expect("has one") }).expect("makes");
            if let Some(target) = text.strip_prefix("-> ") {
                fs_err::os::unix::fs::symlink(target, &path).expect("links");
            } else if !name.ends_with('/') {
                fs_err::write(&path, text).expect("writes");
            }
        }
    }

    fn context(&self) -> ContextTree {
        let roots = vec![ContextRoot { source: self.directory.path().join("context"), target: "".into() }];
        ContextTree::scan(&Context { roots }, &Ignore::default(), &self.directory.path().join("cache")).expect("scans")
    }

    fn step<'a>(source: CopySource<'a>, patterns: &[&str], destination: &str) -> CopyStep<'a> {
        CopyStep {
            source,
            patterns: patterns.iter().map(|pattern| pattern.as_bytes().to_vec()).collect(),
            destination: destination.as_bytes().to_vec(),
            owner: None,
            mode: None,
            unpack_archives: false,
            source_date: SourceDate(1000),
        }
    }

    fn run(&self, parent: &Snapshot, step: &CopyStep<'_>) -> Result<Snapshot, CopyError> {
        let mut draft = self.snapshots.draft(parent).expect("drafts");
        copy(&mut draft, step)?;
        Ok(self.snapshots.commit(draft).expect("commits"))
    }

    fn copy(&self, parent: &Snapshot, patterns: &[&str], destination: &str) -> Result<Snapshot, CopyError> {
        let context = self.context();
        self.run(parent, &Self::step(CopySource::Context(&context), patterns, destination))
    }
}

/// Returns what a snapshot has, one path with mode and owner a word, contents left out.
fn listing(snapshot: &Snapshot) -> String {
    let line = |(path, entry): (Vec<u8>, &Entry)| {
        let path = String::from_utf8_lossy(&path).into_owned();
        match &entry.kind {
            super::super::tree::Kind::Directory => format!("{path}/"),
            super::super::tree::Kind::Symlink { target } => format!("{path}->{}", String::from_utf8_lossy(target)),
            super::super::tree::Kind::File { size, .. } => format!("{path}:{size}"),
            _ => path,
        }
    };
    snapshot.tree.range(b"").skip(1).map(line).collect::<Vec<_>>().join(" ")
}

#[test]
fn sources_go_where_buildkit_puts_them() {
    let bench = Bench::new(&[("f", "1"), ("g", "22"), ("d/x", "333"), ("d/sub/y", "4444"), ("e/", "")]);
    let scratch = bench.snapshots.scratch();
    for (patterns, destination, expected) in [
        (&["f"][..], "/a", "a:1"),
        (&["f"], "/a/", "a/ a/f:1"),
        (&["f"], "/a/.", "a/ a/f:1"),
        (&["f"], "/a/b/c", "a/ a/b/ a/b/c:1"),
        (&["f", "g"], "/a/", "a/ a/f:1 a/g:2"),
        (&["d"], "/a", "a/ a/sub/ a/sub/y:4 a/x:3"),
        (&["d/"], "/a/", "a/ a/sub/ a/sub/y:4 a/x:3"),
        (&["d/."], "/a", "a/ a/sub/ a/sub/y:4 a/x:3"),
        (&["d", "f"], "/", "f:1 sub/ sub/y:4 x:3"),
        (&["e"], "/a", "a/"),
        (&["."], "/", "d/ d/sub/ d/sub/y:4 d/x:3 e/ f:1 g:2"),
        (&["../../d/x"], "/", "x:3"),
        (&["?"], "/a/", "a/ a/f:1 a/g:2 a/sub/ a/sub/y:4 a/x:3"),
        (&["d/*"], "/a/", "a/ a/x:3 a/y:4"),
        (&["[fg]"], "/a", "a:2"),
        (&["no*"], "/a/", ""),
    ] {
        let snapshot = bench.copy(&scratch, patterns, destination).expect(destination);
        assert_eq!(listing(&snapshot), expected, "COPY {patterns:?} {destination}");
    }
}

#[test]
fn layers_hold_what_the_tree_says() {
    let bench = Bench::new(&[("f", "1"), ("d/x", "333"), ("d/l", "-> x")]);
    let base = bench.copy(&bench.snapshots.scratch(), &["."], "/root").expect("copies");
    let path = base.layers[0].to_string();
    let fs = bench.directory.path().join("cache/pkgbuild/v1/layers").join(path).join("fs");
    let file = fs_err::metadata(fs.join("root/d/x")).expect("there");
    assert_eq!((file.uid(), file.gid(), file.mtime(), file.len()), (0, 0, 1000, 3));
    assert_eq!(fs_err::read_link(fs.join("root/d/l")).expect("link"), Path::new("x"));
    assert_eq!(fs_err::metadata(fs.join("root")).expect("there").mtime(), 1000);
    let loaded = bench.snapshots.load(&base.layers).expect("loads").expect("there");
    assert_eq!(loaded.tree, base.tree);
    let fresh = Snapshots::open(&bench.directory.path().join("cache")).expect("opens");
    assert_eq!(fresh.load(&base.layers).expect("loads").expect("there").tree, base.tree);
}
