//! Rules of the differ, against a real overlay.

use proptest::prelude::*;

use super::super::testing::{Bench, assert_mounts_as_its_tree, list_directory, list_tree};
use super::super::tree::Change;
use super::*;
use crate::store::Store;
use crate::time::SourceDate;

/// Makes a base of `files`, runs `script` over it in an overlay, and returns the changes, one a line.
fn changes_of(base: &str, script: &str) -> Vec<String> {
    let bench = Bench::new();
    let draft = bench.snapshots.draft(&bench.snapshots.scratch()).expect("drafts");
    bench.sh(&format!("cd {}; {base}; find . -exec touch -hd @1000 {{}} +", draft.upper.display()));
    let parent = bench.snapshots.commit(draft).expect("commits");
    let draft = bench.snapshots.draft(&parent).expect("drafts");
    bench.in_overlay(&draft, script);
    let snapshot = bench.snapshots.commit(draft).expect("commits");
    assert_mounts_as_its_tree(&bench, &snapshot);
    let changes = bench.snapshots.changes(&snapshot.layers[1]).expect("reads").expect("there");
    let line = |(path, change): (&[u8], &Change)| {
        let path = String::from_utf8_lossy(path).into_owned();
        match change {
            Change::Whiteout => format!("-{path}"),
            Change::Header(_) => format!(" {path}/"),
            Change::Put(Entry { kind: Kind::Directory, .. }) => format!("+{path}/"),
            Change::Put(Entry { kind: Kind::HardLink { to }, .. }) => format!("+{path}={}", String::from_utf8_lossy(to)),
            Change::Put(_) => format!("+{path}"),
        }
    };
    changes.iter().map(line).collect()
}

const BASE: &str = "mkdir -p d/s e; echo a > d/a; echo b > d/b; echo z > d/s/z; echo f > f; ln -s f l; ln f h; mkfifo p";

#[test]
fn only_what_changed_is_a_change() {
    for (script, expected) in [
        ("true", &[][..]),
        ("chmod 644 f; chown 0:0 d/a; mv f g; mv g f", &[]),
        ("touch -d @1000 f d/a; chmod 755 d", &[]),
        ("echo new > d/n; rm d/n", &[]),
        ("touch d", &[]),
        ("chmod 700 d", &["+d/"]),
        ("echo n > d/s/n", &[" d/", " d/s/", "+d/s/n"]),
        ("rm d/a", &[" d/", "-d/a"]),
        ("rm -r d", &["-d"]),
        ("touch f", &["+f"]),
        ("chmod 600 f", &["+f"]),
        ("echo other > f", &["+f"]),
        ("rm -r d; mkdir d; echo n > d/n; chmod 755 d", &[" d/", "-d/a", "-d/b", "+d/n", "-d/s"]),
        ("rm -r d; mkdir -p d/s; echo n > d/s/n", &[" d/", "-d/a", "-d/b", " d/s/", "+d/s/n", "-d/s/z"]),
        ("rm -r d; echo file > d", &["+d"]),
        ("rm f; mkdir f; echo x > f/x", &["+f/", "+f/x"]),
        ("rm f; mkdir f; rmdir f", &["-f"]),
        ("ln -sfn other l", &["+l"]),
        ("mkdir n; echo 1 > n/1; ln n/1 n/2; ln n/1 n/0", &["+n/", "+n/0", "+n/1=n/0", "+n/2=n/0"]),
        ("ln f n", &["+n"]),
        ("ln f n; rm f", &["-f", "+n"]),
        ("mkdir n; mv n e/n", &[" e/", "+e/n/"]),
        ("rm p; mkfifo p; touch -d @1000 p", &[]),
        ("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'", &[]),
        ("rm f; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"f\")'", &["-f"]),
        ("chmod 777 .", &[]),
        ("cp -a d n", &["+n/", "+n/a", "+n/b", "+n/s/", "+n/s/z"]),
        ("cp -a d n; rm -r d; mv n d", &[]),
    ] {
        assert_eq!(changes_of(BASE, script), expected, "{script}");
    }
}

#[test]
fn a_layer_means_the_same_above_any_parent() {
    // The same change list, once with a copy-up that changed nothing and once without.
    let bench = Bench::new();
    let base = |text: &str| {
        let draft = bench.snapshots.draft(&bench.snapshots.scratch()).expect("drafts");
        bench.sh(&format!("cd {}; echo {text} > f; echo k > k; find . -exec touch -hd @5 {{}} +", draft.upper.display()));
        bench.snapshots.commit(draft).expect("commits")
    };
    let step = |parent, script: &str| {
        let draft = bench.snapshots.draft(parent).expect("drafts");
        bench.in_overlay(&draft, &format!("{script}; echo n > n; touch -d @7 n"));
        bench.snapshots.commit(draft).expect("commits")
    };
    let (one, two) = (base("one"), base("two"));
    let (over_one, over_two) = (step(&one, "chmod 600 f; chmod 644 f"), step(&two, "true"));
    assert_eq!(over_one.layers[1], over_two.layers[1]);
    assert_mounts_as_its_tree(&bench, &over_one);
    assert_mounts_as_its_tree(&bench, &over_two);
}

#[test]
fn attributes_of_the_machine_and_of_overlays_are_not_kept() {
    for (name, kept) in [
        (&b"user.note"[..], true),
        (b"security.capability", true),
        (b"user.overlay.opaque", false),
        (b"trusted.overlay.origin", false),
        (b"trusted.note", false),
        (b"security.selinux", false),
        (b"security.ima", false),
        (b"system.posix_acl_access", false),
    ] {
        assert_eq!(is_kept(name), kept, "{}", String::from_utf8_lossy(name));
    }
    let mut third = vec![1, 0, 0, 3];
    third.extend([7; 16]);
    third.extend([0; 4]);
    let mut second = third[..20].to_vec();
    second[3] = 2;
    assert_eq!(normal_value(b"security.capability", third.clone()), second);
    third[20] = 1;
    assert_eq!(normal_value(b"security.capability", third.clone()), third);
}

/// One command of a random script, over few names so that they meet.
fn any_command() -> impl Strategy<Value = String> {
    let path = || "[abc](/[abc]){0,2}";
    prop_oneof![
        4 => path().prop_map(|p| format!("mkdir -p {p}")),
        4 => (path(), "[xyz]{1,2}").prop_map(|(p, text)| format!("[ -p {p} ] || {{ mkdir -p $(dirname {p}) && echo {text} > {p}; }}")),
        3 => path().prop_map(|p| format!("rm -rf {p}")),
        2 => (path(), path()).prop_map(|(a, b)| format!("mv -T {a} {b}")),
        2 => (path(), path()).prop_map(|(a, b)| format!("mv {a} {b}")),
        2 => (path(), path()).prop_map(|(a, b)| format!("ln -f {a} {b}")),
        1 => (path(), path()).prop_map(|(a, b)| format!("ln -sfn {a} {b}")),
        1 => (path(), path()).prop_map(|(a, b)| format!("[ -f {a} ] && cp -a {a} {b}")),
        1 => (path(), prop_oneof!["600", "755", "4711"]).prop_map(|(p, mode)| format!("[ -L {p} ] || chmod {mode} {p}")),
        1 => (path(), 0..3u32).prop_map(|(p, id)| format!("chown -h {id}:{id} {p}")),
        1 => path().prop_map(|p| format!("[ -f {p} ] && echo more >> {p}")),
        1 => path().prop_map(|p| format!("mkfifo {p}")),
        1 => path().prop_map(|p| format!("rm -rf {p} && mkdir {p} && echo new > {p}/a")),
    ]
}

fn any_script() -> impl Strategy<Value = String> {
    // What fails here fails on both sides.
    proptest::collection::vec(any_command(), 1..25)
        .prop_map(|commands| format!("exec 2>/dev/null\n{}\ntrue\n", commands.join("\n")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn layers_of_random_scripts_are_what_plain_directories_become(scripts in proptest::collection::vec(any_script(), 3)) {
        let bench = Bench::new();
        let store = Store::open(&bench.path("store")).expect("opens");
        let mut snapshot = bench.snapshots.scratch();
        fs_err::create_dir(bench.path("plain")).expect("makes");
        for script in &scripts {
            let parent = snapshot.clone();
            let draft = bench.snapshots.draft(&parent).expect("drafts");
            bench.in_overlay(&draft, script);
            snapshot = bench.snapshots.commit(draft).expect("commits");
            bench.sh("cd plain; bash ../script");
            prop_assert_eq!(list_tree(&snapshot.tree), list_directory(&bench.path("plain")));
            // A layer that changes one name of a file below it changes only that one: overlayfs copies it up alone.
            bench.sh("find plain ! -type d -links +1 -exec sh -c 'cp -a \"$1\" \"$1.apart\" && mv -fT \"$1.apart\" \"$1\"' - {} \\;");
            assert_mounts_as_its_tree(&bench, &snapshot);
            prop_assert_eq!(bench.again().load(&snapshot.layers).expect("loads").expect("there").tree, snapshot.tree.clone());

            let layer = snapshot.layers.last().expect("one");
            let packed = bench.snapshots.pack(layer, SourceDate(i64::MAX), &store).expect("packs");
            let blob = store.open_blob(&packed.descriptor.digest).expect("opens");
            let unpacked = bench.snapshots.unpack(&parent, &packed.diff_id, blob).expect("unpacks");
            prop_assert_eq!(unpacked.tree, snapshot.tree.clone());
        }
    }
}
