//! Rules of unpacking, with archives of GNU tar and hand-made hostile ones.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::super::snapshot::{Snapshot, SnapshotError};
use super::super::testing::{Bench, assert_mounts_as_its_tree};
use super::*;

impl Bench {
    /// Unpacks a blob whose diff id is not known.
    fn try_unpack(&self, parent: &Snapshot, blob: &[u8]) -> Result<Snapshot, SnapshotError> {
        let mut plain = Vec::new();
        let _ = decompress::decompress(blob).and_then(|mut stream| stream.read_to_end(&mut plain));
        self.snapshots.unpack(parent, &DiffId(crate::oci::Digest::of(&plain)), blob)
    }

    fn unpack(&self, parent: &Snapshot, blob: &[u8]) -> Snapshot {
        self.try_unpack(parent, blob).expect("unpacks")
    }

    fn read(&self, snapshot: &Snapshot, path: &str) -> Option<String> {
        let file = self.snapshots.open_file(snapshot, path.as_bytes()).expect("opens")?;
        Some(io::read_to_string(file).expect("text"))
    }
}

/// A tar of members that any writer would refuse to make: (type, name, link target, data).
fn raw(members: &[(u8, &str, &str, &str)]) -> Vec<u8> {
    let mut builder = ::tar::Builder::new(Vec::new());
    for (kind, name, target, data) in members {
        let mut header = ::tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(::tar::EntryType::new(*kind));
        header.set_mode(0o755);
        header.set_size(data.len() as u64);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(7);
        header.set_cksum();
        builder.append(&header, data.as_bytes()).expect("appends");
    }
    builder.into_inner().expect("finishes")
}

fn paths(snapshot: &Snapshot) -> String {
    snapshot.tree.range(b"").skip(1).map(|(path, _)| String::from_utf8_lossy(&path).into_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_form_that_gnu_tar_writes_gives_the_same_tree() {
    let bench = Bench::new();
    bench.sh("umask 022; mkdir -p src/dir/$(printf 'n%.0s' {1..90})/deeper; cd src
         echo hello > file; ln -s ../x link; mkfifo pipe; mknod null c 1 3; ln file dir/hard
         head -c 3000 /dev/urandom > dir/$(printf 'n%.0s' {1..90})/deeper/$(printf 'f%.0s' {1..60})
         truncate -s 1M sparse; printf abc | dd of=sparse bs=1 seek=300000 conv=notrunc status=none
         printf xyz | dd of=sparse bs=1 seek=700000 conv=notrunc status=none; truncate -s 2M hole
         chmod 4755 file; chown 3:4 null; setfattr -n user.note -v hi dir 2>/dev/null || true
         find . -exec touch -hd @12345.6 {} +");
    let scratch = bench.snapshots.scratch();
    let mut ids = Vec::new();
    for (number, options) in [
        "--format=gnu",
        "--format=oldgnu",
        "--format=ustar",
        "--format=pax",
        "--format=gnu -S",
        "--format=pax -S --sparse-version=0.0",
        "--format=pax -S --sparse-version=0.1",
        "--format=pax -S --sparse-version=1.0",
        "--format=pax -z",
        "--format=pax -j",
        "--format=pax -J",
        "--format=pax --zstd",
        "--format=pax -P",
    ]
    .iter()
    .enumerate()
    {
        bench.sh(&format!("tar -C src --sort=name {options} -cf {number}.tar ."));
        let blob = fs_err::read(bench.directory.path().join(format!("{number}.tar"))).expect("reads");
        let snapshot = bench.unpack(&scratch, &blob);
        ids.push((options, snapshot.tree.id()));
        assert_eq!(snapshot.tree.get(b"file").expect("there").mtime, 12345, "{options}");
    }
    for (options, id) in &ids {
        assert_eq!(*id, ids[0].1, "{options}");
    }
    // The truth: GNU tar's own extraction, packed and unpacked by nobody but it.
    let snapshot = bench.unpack(&scratch, &fs_err::read(bench.directory.path().join("3.tar")).expect("reads"));
    let fs = bench.directory.path().join("cache/pkgbuild/v1/layers").join(snapshot.layers[0].to_string()).join("fs");
    bench.sh(&format!("diff -r --no-dereference -x pipe -x null src {0} && diff <(cd src; find . -printf '%p %y %m %U %G %n %l %T@\n' | sed 's/[.]6*0*$//' | sort) <(cd {0}; find . -printf '%p %y %m %U %G %n %l %T@\n' | sed 's/[.]0*$//' | sort)", fs.display()));
}

#[test]
fn several_gzip_members_are_one_archive() {
    let bench = Bench::new();
    let plain = raw(&[(b'0', "a", "", "1"), (b'0', "b", "", "2")]);
    let mut blob = Vec::new();
    for part in plain.chunks(700) {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, part).expect("writes");
        blob.extend(gzip.finish().expect("finishes"));
    }
    assert_eq!(paths(&bench.unpack(&bench.snapshots.scratch(), &blob)), "a b");
}

#[test]
fn what_an_archive_says_is_gone_is_gone_wherever_it_says_so() {
    let bench = Bench::new();
    let base = bench.unpack(
        &bench.snapshots.scratch(),
        &raw(&[
            (b'0', "d/x", "", "x"),
            (b'0', "d/y", "", "y"),
            (b'0', "d/s/z", "", "z"),
            (b'0', "f", "", "f"),
            (b'0', "g", "", "g"),
        ]),
    );
    for (members, expected) in [
        (&[(b'0', ".wh.f", "", "")][..], "d d/s d/s/z d/x d/y g"),
        (&[(b'0', "d/.wh..wh..opq", "", ""), (b'0', "d/new", "", "n")], "d d/new f g"),
        (&[(b'0', "d/new", "", "n"), (b'0', "d/.wh..wh..opq", "", "")], "d d/new f g"),
        (&[(b'0', "d/x", "", "2"), (b'0', "d/.wh..wh..opq", "", "")], "d d/x f g"),
        (&[(b'0', "d/.wh..wh..opq", "", "")], "d f g"),
        (&[(b'0', "d/s/n", "", "n"), (b'0', "d/.wh..wh..opq", "", "")], "d d/s d/s/n f g"),
        (&[(b'0', ".wh.d", "", ""), (b'0', "d/new", "", "n")], "d d/new f g"),
        (&[(b'0', "d/new", "", "n"), (b'0', ".wh.d", "", "")], "d d/new f g"),
        (&[(b'0', ".wh.d", "", ""), (b'0', "d/.wh.x", "", "")], "f g"),
        (&[(b'0', ".wh.f", "", ""), (b'0', "f", "", "2")], "d d/s d/s/z d/x d/y f g"),
        (&[(b'0', "f", "", "2"), (b'0', ".wh.f", "", "")], "d d/s d/s/z d/x d/y f g"),
        (&[(b'0', ".wh.nothing", "", ""), (b'0', "no/.wh.thing", "", "")], "d d/s d/s/z d/x d/y f g"),
        (&[(b'0', ".wh..wh..opq", "", ""), (b'0', "only", "", "")], "only"),
        (&[(b'0', ".wh..wh.plnk", "", ""), (b'0', ".wh.", "", ""), (b'0', ".wh...", "", "")], "d d/s d/s/z d/x d/y f g"),
        (&[(b'0', "d", "", "file now")], "d f g"),
        (&[(b'5', "f", "", ""), (b'0', "f/in", "", "")], "d d/s d/s/z d/x d/y f f/in g"),
    ] {
        let snapshot = bench.unpack(&base, &raw(members));
        assert_eq!(paths(&snapshot), expected, "{members:?}");
        assert_eq!(bench.again().load(&snapshot.layers).expect("loads").expect("there").tree, snapshot.tree);
        assert_mounts_as_its_tree(&bench, &snapshot);
    }
}

#[test]
fn names_are_looked_up_through_the_links_of_lower_layers() {
    let bench = Bench::new();
    let base = bench.unpack(
        &bench.snapshots.scratch(),
        &raw(&[(b'5', "usr/bin", "", ""), (b'2', "bin", "usr/bin", ""), (b'0', "usr/bin/a", "", "1")]),
    );
    let snapshot = bench.unpack(&base, &raw(&[(b'0', "bin/b", "", "2"), (b'0', "bin/.wh.a", "", "")]));
    assert_eq!(paths(&snapshot), "bin usr usr/bin usr/bin/b");
    let replaced = bench.unpack(&base, &raw(&[(b'5', "bin", "", ""), (b'0', "bin/b", "", "2")]));
    assert_eq!(paths(&replaced), "bin bin/b usr usr/bin usr/bin/a");
}

#[test]
fn a_hard_link_to_a_file_of_a_lower_layer_makes_both_new() {
    let bench = Bench::new();
    let base = bench.unpack(&bench.snapshots.scratch(), &raw(&[(b'0', "d/a", "", "text")]));
    let snapshot = bench.unpack(&base, &raw(&[(b'1', "b", "d/a", "")]));
    assert_eq!(bench.read(&snapshot, "b").as_deref(), Some("text"));
    assert_eq!(snapshot.tree.get(b"b").map(|entry| (entry.uid, entry.gid, entry.mtime)), Some((1, 2, 7)));
    let error = bench.try_unpack(&base, &raw(&[(b'1', "b", "d/none", "")])).expect_err("no target");
    assert!(matches!(error, SnapshotError::Unpack { source: UntarError::NoTarget { .. }, .. }), "{error:?}");
}

#[test]
fn the_last_of_several_members_of_one_name_counts() {
    let bench = Bench::new();
    let snapshot = bench.unpack(
        &bench.snapshots.scratch(),
        &raw(&[
            (b'0', "a", "", "1"),
            (b'0', "a", "", "2"),
            (b'0', "d/x/y", "", "3"),
            (b'0', "d", "", "4"),
            (b'2', "l", "/etc/passwd", ""),
            (b'0', "l", "", "5"),
            (b'1', "h", "a", ""),
            (b'0', "a", "", "6"),
        ]),
    );
    assert_eq!(paths(&snapshot), "a d h l");
    for (path, text) in [("a", "6"), ("d", "4"), ("l", "5"), ("h", "2")] {
        assert_eq!(bench.read(&snapshot, path).as_deref(), Some(text), "{path}");
    }
}

#[test]
fn nothing_outside_the_draft_can_be_reached() {
    let bench = Bench::new();
    let outside = bench.directory.path().join("outside");
    fs_err::create_dir(&outside).expect("makes");
    fs_err::write(outside.join("canary"), "alive").expect("writes");
    fs_err::set_permissions(outside.join("canary"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("sets");
    let absolute = outside.display().to_string();
    let up = format!("{}{}", "../".repeat(9), &absolute[1..]);
    let inside = &absolute[1..];
    for (members, expected) in [
        (vec![(b'0', format!("{absolute}/canary"), String::new())], Some(format!("{inside}/canary"))),
        (vec![(b'0', format!("{up}/canary"), String::new())], Some(format!("{inside}/canary"))),
        (vec![(b'2', "l".into(), absolute.clone()), (b'0', "l/canary".into(), String::new())], Some(format!("{inside}/canary"))),
        (vec![(b'2', "l".into(), up.clone()), (b'0', "l/canary".into(), String::new())], Some(format!("{inside}/canary"))),
        (vec![(b'2', "l".into(), format!("{absolute}/canary")), (b'0', "l".into(), String::new())], Some("l".into())),
        (
            vec![
                (b'2', "canary".into(), format!("{absolute}/canary")),
                (b'1', "h".into(), "canary".into()),
                (b'0', "h".into(), String::new()),
            ],
            Some("h".into()),
        ),
        (vec![(b'1', "h".into(), format!("{absolute}/canary"))], None),
        (vec![(b'1', "h".into(), format!("{up}/canary"))], None),
        (vec![(b'2', "l".into(), "l".into()), (b'0', "l/x".into(), String::new())], None),
        (vec![(b'0', "f".into(), String::new()), (b'0', "f/x".into(), String::new())], None),
        (vec![(b'3', "null".into(), String::new())], None),
        (
            vec![
                (b'2', "l".into(), absolute.clone()),
                (b'0', "l/.wh.canary".into(), String::new()),
                (b'5', "l/".into(), String::new()),
            ],
            Some("l".into()),
        ),
    ] {
        let members: Vec<(u8, &str, &str, &str)> = members
            .iter()
            .map(|(kind, name, target)| (*kind, &name[..], &target[..], if *kind == b'0' { "owned" } else { "" }))
            .collect();
        let result = bench.try_unpack(&bench.snapshots.scratch(), &raw(&members));
        match expected {
            Some(path) => assert!(result.expect("unpacks").tree.get(path.as_bytes()).is_some(), "{members:?}"),
            None => assert!(result.is_err(), "{members:?}"),
        }
        assert_eq!(fs_err::read_to_string(outside.join("canary")).expect("reads"), "alive");
        assert_eq!(
            std::os::unix::fs::MetadataExt::mode(&fs_err::metadata(outside.join("canary")).expect("stats")) & 0o777,
            0o640
        );
        assert_eq!(fs_err::read_dir(&outside).expect("reads").count(), 1);
    }
    assert_eq!(
        fs_err::read_dir(bench.directory.path().join("cache/pkgbuild/v1/drafts")).expect("reads").count(),
        0,
        "no draft is left"
    );
}

#[test]
fn an_archive_of_other_bytes_than_promised_is_refused() {
    let bench = Bench::new();
    let blob = raw(&[(b'0', "a", "", "1")]);
    let other = DiffId(crate::oci::Digest::of(b"other"));
    let scratch = bench.snapshots.scratch();
    assert!(matches!(bench.snapshots.unpack(&scratch, &other, &blob[..]), Err(SnapshotError::OtherContent { .. })));
    assert!(bench.snapshots.unpacked(&scratch, &other).expect("asks").is_none());
    let right = DiffId(crate::oci::Digest::of(&blob));
    let snapshot = bench.snapshots.unpack(&scratch, &right, &blob[..]).expect("unpacks");
    let found = bench.snapshots.unpacked(&scratch, &right).expect("asks").expect("there");
    assert_eq!(found.layers, snapshot.layers);
    assert!(bench.snapshots.unpacked(&snapshot, &right).expect("asks").is_none(), "it depends on what is below");
}

#[test]
fn the_file_capability_and_the_set_user_id_bit_survive() {
    let bench = Bench::new();
    bench.sh("mkdir src; cp /bin/true src/ping; chown 5:6 src/ping; chmod 4711 src/ping; setcap cap_net_raw+ep src/ping
              tar -C src --xattrs --xattrs-include='*' --format=pax -cf a.tar .");
    let snapshot = bench.unpack(&bench.snapshots.scratch(), &fs_err::read(bench.directory.path().join("a.tar")).expect("reads"));
    let entry = snapshot.tree.get(b"ping").expect("there");
    assert_eq!((entry.mode, entry.uid, entry.gid), (0o4711, 5, 6));
    // VFS_CAP_REVISION_2 with the effective bit; capability 13 permitted.
    let mut capability = vec![1, 0, 0, 2, 0, 0x20, 0, 0];
    capability.resize(20, 0);
    assert_eq!(entry.xattrs.get(&b"security.capability"[..]), Some(&capability));
}

#[test]
fn a_pax_header_of_gigabytes_is_refused_before_it_is_read() {
    let mut header = ::tar::Header::new_ustar();
    header.set_entry_type(::tar::EntryType::XHeader);
    header.set_size(8 << 30);
    header.set_cksum();
    let endless = io::Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(b'1'));
    assert!(matches!(Reader::new(endless).next(), Err(UntarError::TooLarge(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn damaged_archives_give_errors_and_no_panic(at in 0..4096usize, byte in any::<u8>(), cut in 0..6000usize) {
        let directory = tempfile::tempdir().expect("temp dir");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/builder/embedded");
        static ARCHIVE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let archive = ARCHIVE.get_or_init(|| {
            Command::new("tar").args(["--format=pax", "-S", "--sparse-version=1.0", "-c", "parallel.rs", "copy/mode.rs"])
                .current_dir(source).output().expect("runs").stdout
        });
        let mut damaged = archive.clone();
        damaged[at] = byte;
        damaged.truncate(damaged.len().saturating_sub(cut));
        let file = tempfile::tempfile_in(directory.path()).expect("makes");
        let mut reader = Reader::new(&damaged[..]);
        let mut count = 0;
        while let Ok(Some(member)) = reader.next() {
            count += 1;
            prop_assert!(count < 100);
            if let MemberKind::File { size, pieces } = &member.kind
                && *size < 1 << 30
            {
                let _ = reader.copy_data(*size, pieces.as_deref(), &file);
            }
        }
    }
}
