//! Rules of trees and change lists.

use proptest::prelude::*;

use super::*;

fn file(text: &str) -> Entry {
    let kind = Kind::File { size: text.len() as u64, hash: blake3::hash(text.as_bytes()) };
    Entry { kind, ..Entry::directory(0o644, 0, 0, 5) }
}

fn symlink(target: &str) -> Entry {
    Entry { kind: Kind::Symlink { target: target.into() }, ..Entry::directory(0o777, 0, 0, 0) }
}

fn tree(entries: &[(&str, Entry)]) -> Tree {
    let mut tree = Tree::default();
    for (path, entry) in entries {
        tree.put(path.as_bytes(), entry.clone(), 0);
    }
    tree
}

#[test]
fn times_and_the_order_of_making_do_not_change_the_id_and_all_else_does() {
    let base = tree(&[("a/b", file("x")), ("c", symlink("a"))]);
    let mut later = file("x");
    later.mtime = 99;
    assert_eq!(base.id(), tree(&[("c", symlink("a")), ("a/b", later)]).id());
    let change = |edit: fn(&mut Entry)| {
        let mut entry = file("x");
        edit(&mut entry);
        tree(&[("a/b", entry), ("c", symlink("a"))]).id()
    };
    let ids = [
        base.id(),
        change(|e| e.mode = 0o755),
        change(|e| e.uid = 1),
        change(|e| e.gid = 1),
        change(|e| drop(e.xattrs.insert(b"user.a".to_vec(), b"b".to_vec()))),
        change(|e| e.kind = Kind::Fifo),
        tree(&[("a/b", file("y")), ("c", symlink("a"))]).id(),
        tree(&[("a/b", file("x")), ("c", symlink("b"))]).id(),
        tree(&[("a/b2", file("x")), ("c", symlink("a"))]).id(),
        tree(&[
            ("a/b", file("x")),
            ("a/d", Entry { kind: Kind::HardLink { to: b"a/b".to_vec() }, ..file("x") }),
            ("c", symlink("a")),
        ])
        .id(),
        tree(&[("a/b", file("x")), ("a/d", file("x")), ("c", symlink("a"))]).id(),
    ];
    let distinct: std::collections::HashSet<TreeId> = ids.into_iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

#[test]
fn the_id_of_a_part_does_not_depend_on_where_it_is() {
    let one = tree(&[("a/b/f", file("x"))]);
    let two = tree(&[("z/f", file("x")), ("other", file("y"))]);
    assert_eq!(one.hash_of(b"a/b"), two.hash_of(b"z"));
    assert_eq!(one.hash_of(b"nothing"), None);
}

#[test]
fn a_changed_tree_leaves_the_one_it_was_made_from_alone() {
    let before = tree(&[("a/b", file("x")), ("c/d", file("y"))]);
    let id = before.id();
    let mut after = before.clone();
    after.put(b"a/b", file("z"), 1);
    after.remove(b"c");
    assert_eq!(before.id(), id);
    assert_ne!(after.id(), id);
    assert!(before.get(b"c/d").is_some() && after.get(b"c/d").is_none());
    assert_eq!(after.origin(b"a/b"), Some(1));
}

#[test]
fn links_are_followed_inside_the_root() {
    let tree = tree(&[
        ("usr/bin/sh", file("sh")),
        ("bin", symlink("usr/bin")),
        ("abs", symlink("/usr/../../../usr/bin")),
        ("up", symlink("../../../../etc/x")),
        ("usr/me", symlink(".")),
        ("loop", symlink("loop2")),
        ("loop2", symlink("loop")),
    ]);
    let resolve = |path: &str| String::from_utf8(tree.resolve(path.as_bytes()).expect(path)).expect("text");
    for (path, real) in [
        ("", ""),
        ("/", ""),
        ("bin/sh", "usr/bin/sh"),
        ("/bin/../lib", "usr/lib"),
        ("abs/sh", "usr/bin/sh"),
        ("up", "etc/x"),
        ("usr/me/me/me/bin", "usr/bin"),
        ("../../no/./such/../thing", "no/thing"),
        ("bin", "usr/bin"),
    ] {
        assert_eq!(resolve(path), real, "{path}");
    }
    assert!(tree.resolve(b"loop/x").is_err());
    assert_eq!(tree.resolve_parent(b"bin").expect("resolves"), b"bin");
    assert_eq!(tree.resolve_parent(b"bin/sh/").expect("resolves"), b"usr/bin/sh");
}

#[test]
fn a_directory_comes_before_its_content_and_that_before_its_sibling() {
    let tree = tree(&[("a.b", file("")), ("a/c", file("")), ("a", Entry::directory(0o755, 0, 0, 0)), ("a!", file(""))]);
    let paths: Vec<Vec<u8>> = tree.range(b"").map(|(path, _)| path).collect();
    assert_eq!(paths, [&b""[..], b"a", b"a/c", b"a!", b"a.b"]);
    let mut sorted = paths.clone();
    sorted.sort_by(|a, b| walk_order(a, b));
    assert_eq!(sorted, paths);
}

#[test]
fn a_file_over_a_directory_removes_its_content_and_a_directory_over_one_keeps_it() {
    let mut over = tree(&[("d/x", file("1"))]);
    over.put(b"d", Entry::directory(0o700, 1, 1, 0), 1);
    assert!(over.get(b"d/x").is_some());
    over.put(b"d", file("2"), 2);
    assert!(over.get(b"d/x").is_none());
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..20);
    let kind = prop_oneof![
        Just(Kind::Directory),
        (any::<u64>(), any::<[u8; 32]>()).prop_map(|(size, hash)| Kind::File { size, hash: hash.into() }),
        bytes().prop_map(|target| Kind::Symlink { target }),
        bytes().prop_map(|to| Kind::HardLink { to }),
        Just(Kind::Fifo),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
    ];
    (kind, 0..0o10000u32, any::<(u32, u32, i64)>(), proptest::collection::btree_map(bytes(), bytes(), 0..3))
        .prop_map(|(kind, mode, (uid, gid, mtime), xattrs)| Entry { kind, mode, uid, gid, mtime, xattrs })
}

fn any_changes() -> impl Strategy<Value = ChangeList> {
    let change = prop_oneof![Just(Change::Whiteout), any_entry().prop_map(Change::Put), any_entry().prop_map(Change::Header)];
    proptest::collection::btree_map("[a-c]{1,3}(/[a-c]{1,3}){0,3}", change, 0..20)
        .prop_map(|map| ChangeList::new(map.into_iter().map(|(path, change)| (path.into_bytes(), change)).collect()))
}

proptest! {
    #[test]
    fn a_change_list_reads_back_as_it_was_written(list in any_changes()) {
        let bytes = list.encode();
        let id = ChangeList::id_of(&bytes);
        prop_assert_eq!(ChangeList::decode(&bytes, &id).expect("reads"), list);
        for cut in 0..bytes.len() {
            prop_assert!(ChangeList::decode(&bytes[..cut], &ChangeList::id_of(&bytes[..cut])).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn junk_is_refused_without_a_panic(junk in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = b"pkgbuild changes 1\n".to_vec();
        bytes.extend(junk);
        let _ = ChangeList::decode(&bytes, &ChangeList::id_of(&bytes));
    }
}
