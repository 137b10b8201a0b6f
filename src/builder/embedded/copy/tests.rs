//! Rules of COPY and ADD, on real directories and layers.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::super::testing::{Bench, assert_mounts_as_its_tree};
use super::*;
use crate::builder::{Context, ContextRoot};
use crate::dockerfile::Ignore;

impl Bench {
    /// A bench with a build context.
    fn with(files: &[(&str, &str)]) -> Self {
        let bench = Self::new();
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
        let roots = vec![ContextRoot { source: self.directory.path().join("context"), target: "".into(), replaces: false }];
        ContextTree::scan(&Context { roots }, &Ignore::default(), &self.directory.path().join("cache")).expect("scans")
    }

    fn step<'a>(source: CopySource<'a>, patterns: &[&str], destination: &str) -> CopyStep<'a> {
        CopyStep {
            parts: vec![CopyPart { source, wanted: Wanted::Patterns(bytes(patterns)), unpack_archives: false }],
            exclude: Ignore::default(),
            destination: destination.as_bytes().to_vec(),
            owner: None,
            mode: None,
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

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
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
    let bench = Bench::with(&[("f", "1"), ("g", "22"), ("d/x", "333"), ("d/sub/y", "4444"), ("e/", "")]);
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
    let bench = Bench::with(&[("f", "1"), ("d/x", "333"), ("d/l", "-> x")]);
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

/// A base with the links that real images have.
fn linked_base(bench: &Bench) -> Snapshot {
    bench.sh(
        "mkdir -p base/usr/bin base/data base/etc; cd base; ln -s usr/bin bin; ln -s /data/target dangling; ln -s ../../../etc up
              ln -s loop loop; echo old > data/old; ln -s old data/link; echo x > etc/file; chmod 700 data; chown 7:8 data
              mkdir -p data/sub; chmod 711 data/sub",
    );
    let draft = bench.snapshots.draft(&bench.snapshots.scratch()).expect("drafts");
    bench.sh(&format!("cp -a base/. {}; touch -d @5 {0}/data", draft.upper.display()));
    bench.snapshots.commit(draft).expect("commits")
}

#[test]
fn parts_of_several_sources_are_copied_in_order() {
    let bench = Bench::with(&[("f", "context"), ("*", "star"), ("d/x", "1")]);
    let stage = bench.copy(&bench.snapshots.scratch(), &["f"], "/f").expect("copies");
    bench.sh("echo longer than before > context/f; cp context/f context/g");
    let context = bench.context();
    let part = |source, wanted| CopyPart { source, wanted, unpack_archives: false };
    let context = CopySource::Context(&context);
    let from_stage = CopySource::Snapshot(&bench.snapshots, &stage);
    let mut step = Bench::step(context, &["f", "d"], "/to/");
    step.parts.push(part(from_stage, Wanted::Patterns(bytes(&["/f"]))));
    step.parts.push(part(context, Wanted::Paths(bytes(&["*"]))));
    let copied = bench.run(&bench.snapshots.scratch(), &step).expect("copies");
    assert_eq!(listing(&copied), "to/ to/*:4 to/f:7 to/x:1");
    step.parts.swap(0, 1);
    let copied = bench.run(&bench.snapshots.scratch(), &step).expect("copies");
    assert_eq!(listing(&copied), "to/ to/*:4 to/f:19 to/x:1");
    step.parts.push(part(from_stage, Wanted::Paths(bytes(&["?"]))));
    assert!(matches!(bench.run(&bench.snapshots.scratch(), &step), Err(CopyError::Missing { .. })));
}

#[test]
fn copies_with_parents_and_without_what_is_excluded_are_those_of_buildkit() {
    // What a BuildKit of November 2026 made of the same.
    let bench = Bench::with(&[("x/y/z/f", "8"), ("x/y/g", "9"), ("d/m.txt", "3"), ("d/s/o.txt", "5"), ("d/s/p.c", "6")]);
    bench.sh("cd context; chmod 700 x; chmod 750 x/y; chmod 755 x/y/z d d/s; chmod 644 x/y/g d/s/*; ln -s x l");
    let context = bench.context();
    let modes = |snapshot: &Snapshot| {
        let paths = snapshot.tree.range(b"").skip(1);
        let line =
            |(path, entry): (Vec<u8>, &Entry)| format!("{}:{:o}:{}", String::from_utf8_lossy(&path), entry.mode, entry.uid);
        paths.map(line).collect::<Vec<_>>().join(" ")
    };
    let run = |parent: &Snapshot, sources: &[&str], exclude: &[&str], destination: &str, owned: bool| {
        let mut step = Bench::step(CopySource::Context(&context), sources, destination);
        if let Some(sources) = sources.iter().map(|text| text.strip_prefix("parents ")).collect::<Option<Vec<_>>>() {
            let sources = sources.iter().map(|source| ParentsSource::parse(source).expect("a pattern"));
            step.parts[0].wanted = Wanted::Parents(sources.collect());
        }
        step.exclude = Ignore::from_patterns(exclude.iter().copied()).expect("patterns");
        (step.owner, step.mode) = if owned { (Some((5, 5)), ModeChange::parse("711").ok()) } else { (None, None) };
        bench.run(parent, &step)
    };
    let scratch = bench.snapshots.scratch();
    for (sources, exclude, destination, owned, expected) in [
        (&["parents x/y/g"][..], &[][..], "/o", false, "o:755:0 o/x:700:0 o/x/y:750:0 o/x/y/g:644:0"),
        (&["parents x/./y/*/f"], &[], "/o/", false, "o:755:0 o/y:750:0 o/y/z:755:0 o/y/z/f:644:0"),
        (&["parents x/y/g"], &[], "/o", true, "o:711:5 o/x:711:5 o/x/y:711:5 o/x/y/g:711:5"),
        (&["parents l"], &[], "/o", false, "o:755:0 o/l:777:0"),
        (&["parents no*"], &[], "/o", false, "o:755:0"),
        (
            &["parents d/s", "parents x/./y/g"],
            &["**/*.txt"],
            "/o/",
            false,
            "o:755:0 o/d:755:0 o/d/s:755:0 o/d/s/p.c:644:0 o/y:750:0 o/y/g:644:0",
        ),
        (&["d"], &["s", "!s/p.c"], "/o", false, "o:755:0 o/m.txt:644:0 o/s:755:0 o/s/p.c:644:0"),
        (&["d/s/*.txt"], &["*.txt"], "/o/", false, "o:755:0 o/o.txt:644:0"),
        (&["d"], &["*"], "/o", false, "o:755:0"),
    ] {
        let copied = run(&scratch, sources, exclude, destination, owned).expect(destination);
        assert_eq!(modes(&copied), expected, "{sources:?} {exclude:?}");
    }
    for missing in ["parents l/y/g", "parents no", "parents .", "parents no/./x"] {
        assert!(matches!(run(&scratch, &[missing], &[], "/", false), Err(CopyError::Missing { .. })), "{missing}");
    }
    // Directories on the way that are there get the mode of the source, and nothing else of it.
    bench.sh("mkdir there; mkdir -p there/x/y/z; echo 1 > there/x/y/z/f; chown -R 3:3 there/x; chmod -R 777 there/x");
    let draft = bench.snapshots.draft(&scratch).expect("drafts");
    bench.sh(&format!("cp -a there/. {}", draft.upper.display()));
    let base = bench.snapshots.commit(draft).expect("commits");
    let copied = run(&base, &["parents x/y/g"], &[], "/", true).expect("copies");
    assert_eq!(modes(&copied), "x:700:3 x/y:750:3 x/y/g:711:5 x/y/z:777:3 x/y/z/f:777:3");
    assert_mounts_as_its_tree(&bench, &copied);
}

#[test]
fn links_in_the_destination_are_followed_inside_the_root() {
    let bench = Bench::with(&[("f", "new"), ("d/old", "dir"), ("d/sub/x", "1"), ("d/link", "-> elsewhere")]);
    let base = linked_base(&bench);
    for (patterns, destination, path) in [
        (&["f"][..], "/bin/", "usr/bin/f"),
        (&["f"], "/bin/tool", "usr/bin/tool"),
        (&["f"], "/dangling", "data/target"),
        (&["f"], "/up/f", "etc/f"),
        (&["f"], "/up/../../../f", "f"),
        (&["f"], "/data/link", "data/old"),
        (&["f"], "/bin/../x", "x"),
        (&["d"], "/bin", "usr/bin/sub/x"),
        (&["d"], "/data", "data/sub/x"),
    ] {
        let snapshot = bench.copy(&base, patterns, destination).expect(destination);
        assert!(snapshot.tree.get(path.as_bytes()).is_some(), "COPY {patterns:?} {destination}: {}", listing(&snapshot));
        assert_mounts_as_its_tree(&bench, &snapshot);
    }
    assert!(matches!(bench.copy(&base, &["f"], "/loop/f"), Err(CopyError::Loop(_))));
}

#[test]
fn the_destination_keeps_its_metadata_and_directories_below_it_get_the_sources() {
    let bench = Bench::with(&[("d/sub/x", "1"), ("d/link", "now a file")]);
    bench.sh("chmod 750 context/d context/d/sub");
    let base = linked_base(&bench);
    let snapshot = bench.copy(&base, &["d"], "/data").expect("copies");
    let of = |path: &str| snapshot.tree.get(path.as_bytes()).map(|entry| (entry.mode, entry.uid, entry.gid, entry.mtime));
    assert_eq!(of("data"), Some((0o700, 7, 8, 5)));
    assert_eq!(of("data/sub"), Some((0o750, 0, 0, 1000)));
    assert_eq!(of("data/link"), Some((0o644, 0, 0, 1000)), "a link below the destination is replaced, not followed");
    assert!(snapshot.tree.get(b"data/old").is_some());
    let changes = bench.snapshots.changes(&snapshot.layers[1]).expect("reads").expect("there");
    let changed: Vec<String> = changes.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect();
    assert_eq!(changed, ["data", "data/link", "data/sub", "data/sub/x"]);
}

#[test]
fn directories_and_other_things_do_not_replace_each_other() {
    let bench = Bench::with(&[("old", "file"), ("d/old/x", "1"), ("e/sub", "file"), ("f", "")]);
    let base = linked_base(&bench);
    let fails = |patterns: &[&str], destination: &str| bench.copy(&base, patterns, destination).expect_err(destination);
    assert!(matches!(fails(&["d"], "/data"), CopyError::IntoFile { .. }));
    assert!(matches!(fails(&["e"], "/data"), CopyError::OverDirectory { .. }));
    assert!(matches!(fails(&["d"], "/etc/file"), CopyError::NotADirectory { .. } | CopyError::IntoFile { .. }));
    assert!(matches!(fails(&["f"], "/etc/file/f"), CopyError::NotADirectory { .. }));
    assert!(matches!(fails(&["f"], "/etc/file/"), CopyError::NotADirectory { .. }));
    let missing = fails(&["none"], "/");
    assert_eq!(missing.to_string(), "`/none` is not there to be copied");
    assert_eq!(fs_err::read_dir(bench.path("cache/pkgbuild/v1/drafts")).expect("reads").count(), 0, "no draft is left");
}

#[test]
fn owner_and_mode_apply_to_what_is_copied_and_to_directories_made_on_the_way() {
    let bench = Bench::with(&[("d/x", "1"), ("d/s/y", "2"), ("d/l", "-> x")]);
    bench.sh("chmod 755 context/d/s; chmod 644 context/d/x context/d/s/y");
    let context = bench.context();
    let run = |mode: Option<&str>| {
        let mut step = Bench::step(CopySource::Context(&context), &["d"], "/a/b/");
        step.owner = Some((11, 12));
        step.mode = mode.map(|mode| ModeChange::parse(mode).expect("mode"));
        let snapshot = bench.run(&bench.snapshots.scratch(), &step).expect("copies");
        let entries = snapshot.tree.range(b"").skip(1);
        entries
            .map(|(path, entry)| {
                format!("{} {:o} {}:{} {}", String::from_utf8_lossy(&path), entry.mode, entry.uid, entry.gid, entry.mtime)
            })
            .collect::<Vec<_>>()
    };
    let all = |modes: [&str; 6]| {
        let paths = ["a", "a/b", "a/b/l", "a/b/s", "a/b/s/y", "a/b/x"];
        paths.iter().zip(modes).map(|(path, mode)| format!("{path} {mode} 11:12 1000")).collect::<Vec<_>>()
    };
    assert_eq!(run(None), all(["755", "755", "777", "755", "644", "644"]));
    assert_eq!(run(Some("700")), all(["700", "700", "777", "700", "700", "700"]));
    assert_eq!(run(Some("go=,u+X")), all(["755", "755", "777", "700", "600", "600"]));
}

#[test]
fn a_stage_is_copied_with_owners_times_and_hard_links_and_shares_its_data() {
    let bench = Bench::new();
    let draft = bench.snapshots.draft(&bench.snapshots.scratch()).expect("drafts");
    bench.sh(&format!(
        "cd {}; mkdir -p out/d; echo data > out/a; chown 5:6 out/a; ln out/a out/b; echo one > out/d/one; touch -d @77 out/d/one
         ln -s out/d way; mkfifo out/p",
        draft.upper.display()
    ));
    let stage = bench.snapshots.commit(draft).expect("commits");
    let source = CopySource::Snapshot(&bench.snapshots, &stage);
    let copied = bench.run(&bench.snapshots.scratch(), &Bench::step(source, &["/out"], "/")).expect("copies");
    assert_eq!(listing(&copied), "a:5 b:5 d/ d/one:4 p");
    let entry = copied.tree.get(b"a").expect("there");
    assert_eq!((entry.uid, entry.gid), (5, 6));
    assert_eq!(copied.tree.get(b"d/one").expect("there").mtime, 77);
    let inode =
        |layer: &super::super::tree::LayerId, path: &str| fs_err::metadata(bench.layer(layer).join(path)).expect("stats").ino();
    assert_eq!(inode(&copied.layers[0], "a"), inode(&copied.layers[0], "b"), "hard links stay");
    assert_eq!(inode(&copied.layers[0], "d/one"), inode(&stage.layers[0], "out/d/one"), "no data was copied");
    assert_mounts_as_its_tree(&bench, &copied);

    // One file of the stage under two names in one layer is two files.
    let twice = bench
        .run(&bench.snapshots.scratch(), &Bench::step(source, &["/out/d", "/way/one", "/out/d"], "/x/y/../"))
        .expect("copies");
    assert_eq!(listing(&twice), "x/ x/one:4");
    let two = Bench::step(source, &["way", "/out"], "/");
    let two = bench.run(&bench.snapshots.scratch(), &two).expect("copies");
    assert_eq!(listing(&two), "a:5 b:5 d/ d/one:4 one:4 p");
    assert_ne!(inode(&two.layers[0], "d/one"), inode(&two.layers[0], "one"));
}

#[test]
fn a_later_layer_does_not_change_the_files_it_borrowed() {
    let bench = Bench::with(&[("f", "first")]);
    let stage = bench.copy(&bench.snapshots.scratch(), &["f"], "/f").expect("copies");
    let source = CopySource::Snapshot(&bench.snapshots, &stage);
    let copied = bench.run(&bench.snapshots.scratch(), &Bench::step(source, &["/f"], "/g")).expect("copies");
    let draft = bench.snapshots.draft(&copied).expect("drafts");
    bench.in_overlay(&draft, "echo second > g; chmod 600 g");
    bench.snapshots.commit(draft).expect("commits");
    assert_eq!(fs_err::read_to_string(bench.layer(&stage.layers[0]).join("f")).expect("reads"), "first");
    assert_eq!(fs_err::metadata(bench.layer(&stage.layers[0]).join("f")).expect("stats").mode() & 0o777, 0o644);
}

#[test]
fn add_unpacks_archives_whatever_they_are_called() {
    let bench = Bench::with(&[("plain.txt", "no archive"), ("gz", "")]);
    bench.sh(
        "mkdir -p in/d; echo 1 > in/d/x; ln -s x in/d/l; chown -R 3:4 in; cd context; rm gz
         tar -C ../in -cf tar . ; tar -C ../in -czf gz .; tar -C ../in -cjf bz2 .; tar -C ../in -cJf xz .; tar -C ../in --zstd -cf zst .
         gzip -k plain.txt; ln -s tar linked",
    );
    let context = bench.context();
    let base = bench.snapshots.scratch();
    let mut step = Bench::step(CopySource::Context(&context), &[], "/to/");
    for name in ["tar", "gz", "bz2", "xz", "zst", "linked"] {
        step.parts[0].wanted = Wanted::Patterns(bytes(&[name]));
        step.parts[0].unpack_archives = true;
        let snapshot = bench.run(&base, &step).expect(name);
        assert_eq!(listing(&snapshot), "to/ to/d/ to/d/l->x to/d/x:2", "{name}");
        assert_eq!(snapshot.tree.get(b"to/d/x").map(|entry| (entry.uid, entry.gid)), Some((3, 4)));
        step.parts[0].unpack_archives = false;
        assert_eq!(listing(&bench.run(&base, &step).expect(name)).matches(' ').count(), 1, "COPY never unpacks");
    }
    step.parts[0].unpack_archives = true;
    step.owner = Some((9, 9));
    step.parts[0].wanted = Wanted::Patterns(bytes(&["tar"]));
    let owned = bench.run(&base, &step).expect("adds");
    assert_eq!(owned.tree.get(b"to/d/x").map(|entry| (entry.uid, entry.gid)), Some((9, 9)));
    step.parts[0].wanted = Wanted::Patterns(bytes(&["plain.txt", "plain.txt.gz"]));
    let kept = bench.run(&base, &step).expect("adds");
    assert!(kept.tree.get(b"to/plain.txt").is_some() && kept.tree.get(b"to/plain.txt.gz").is_some());
}

#[test]
fn an_archive_replaces_what_is_in_its_way() {
    let bench = Bench::new();
    let base = linked_base(&bench);
    bench.sh(
        "mkdir -p context in; echo now a file > in/data; mkdir in/bin; echo 1 > in/bin/x; tar -C in -cf context/a.tar data bin",
    );
    let context = bench.context();
    let mut step = Bench::step(CopySource::Context(&context), &["a.tar"], "/");
    step.parts[0].unpack_archives = true;
    let snapshot = bench.run(&base, &step).expect("adds");
    assert_eq!(
        listing(&snapshot),
        "bin/ bin/x:2 dangling->/data/target data:11 etc/ etc/file:2 loop->loop up->../../../etc usr/ usr/bin/"
    );
    assert_mounts_as_its_tree(&bench, &snapshot);
}

#[test]
fn workdir_makes_what_is_missing_and_leaves_what_is_there() {
    let bench = Bench::new();
    let base = linked_base(&bench);
    let make = |path: &str| {
        let mut draft = bench.snapshots.draft(&base).expect("drafts");
        make_directory(&mut draft, path.as_bytes(), (20, 21), 0o755, SourceDate(1000))?;
        Ok::<_, CopyError>(bench.snapshots.commit(draft).expect("commits"))
    };
    let made = make("/bin/../../data/new/deep/").expect("makes");
    assert_eq!(
        made.tree.get(b"data/new/deep").map(|entry| (entry.mode, entry.uid, entry.gid, entry.mtime)),
        Some((0o755, 20, 21, 1000))
    );
    assert_eq!(made.tree.get(b"data").map(|entry| (entry.mode, entry.uid)), Some((0o700, 7)));
    let there = make("/data").expect("makes");
    assert!(bench.snapshots.changes(&there.layers[1]).expect("reads").expect("there").is_empty());
    assert!(matches!(make("/etc/file/x"), Err(CopyError::NotADirectory { .. })));
}

#[test]
fn a_file_that_changes_during_the_build_is_noticed() {
    let bench = Bench::with(&[("f", "before")]);
    let context = bench.context();
    fs_err::write(bench.path("context/f"), "after").expect("writes");
    let step = Bench::step(CopySource::Context(&context), &["f"], "/f");
    let error = bench.run(&bench.snapshots.scratch(), &step).expect_err("changed");
    assert!(matches!(error, CopyError::Context(ContextError::Changed { .. })), "{error:?}");
    assert_eq!(error.class(), ErrorClass::Retryable);
}
