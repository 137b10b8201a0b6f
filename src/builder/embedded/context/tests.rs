//! Rules of the build context.

use super::super::testing::Bench;
use super::*;
use crate::builder::ContextRoot;

fn scan(bench: &Bench, roots: &[(&str, &str)], ignore: &str) -> Result<ContextTree, ContextError> {
    let ignore = Ignore::parse(Path::new(".dockerignore"), ignore.as_bytes()).expect("parses");
    let roots = roots
        .iter()
        .map(|(source, target)| ContextRoot { source: bench.path(source), target: target.into(), replaces: false })
        .collect();
    ContextTree::scan(&Context { roots }, &ignore, &bench.path("cache"))
}

fn paths(context: &ContextTree) -> String {
    context.tree().range(b"").skip(1).map(|(path, _)| String::from_utf8_lossy(&path).into_owned()).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_ignored_is_not_there_and_not_read() {
    let bench = Bench::new();
    bench.sh("mkdir -p c/a/b c/node c/node/keep c/empty; touch c/a/x.o c/a/y c/a/b/z.o c/node/1 c/node/keep/2 c/Dockerfile");
    for (ignore, expected) in [
        ("", "Dockerfile a a/b a/b/z.o a/x.o a/y empty node node/1 node/keep node/keep/2"),
        ("node", "Dockerfile a a/b a/b/z.o a/x.o a/y empty"),
        ("**/*.o\nempty", "Dockerfile a a/b a/y node node/1 node/keep node/keep/2"),
        ("node\n!node/keep", "Dockerfile a a/b a/b/z.o a/x.o a/y empty node node/keep node/keep/2"),
        ("*\n!a/y", "a a/y"),
        ("*\n!node/none", ""),
    ] {
        assert_eq!(paths(&scan(&bench, &[("c", "")], ignore).expect("scans")), expected, "{ignore:?}");
    }
}

#[test]
fn later_roots_are_laid_over_earlier_ones() {
    let bench = Bench::new();
    bench.sh("mkdir -p one/d two three; echo 1 > one/d/f; echo 1 > one/g; echo 2 > two/f; echo 3 > three/h; ln -s /etc two/l");
    let context = scan(&bench, &[("one", ""), ("two", "d"), ("three", "new/way")], "").expect("scans");
    assert_eq!(paths(&context), "d d/f d/l g new new/way new/way/h");
    let read = |path: &str| io::read_to_string(context.open(path.as_bytes()).expect(path)).expect("reads");
    assert_eq!((&*read("d/f"), &*read("g"), &*read("new/way/h")), ("2\n", "1\n", "3\n"));
    assert!(context.open(b"d/l").is_err(), "links are not followed");
    assert!(matches!(context.open(b"nothing"), Err(ContextError::Missing { .. })));
}

#[test]
fn only_names_modes_kinds_and_data_make_the_content() {
    let bench = Bench::new();
    bench.sh("mkdir a b; echo x > a/f; echo y > a/g; ln -s f a/l
              echo y > b/g; (umask 077; echo x > b/f); chmod 644 b/f b/g; ln -s f b/l; chown 1:1 b/f b/l; touch -d @7 b/g b
              cp -a a c; chmod 755 c/f; cp -a a d; ln -sfn g d/l; cp -a a e; rm e/g; ln e/f e/g; cp -a a h; cp -p h/f h/g");
    let id = |root: &str| scan(&bench, &[(root, "")], "").expect("scans").tree().hash_of(b"").expect("root");
    assert_eq!(id("a"), id("b"));
    assert_ne!(id("a"), id("c"));
    assert_ne!(id("a"), id("d"));
    assert_eq!(id("e"), id("h"), "hard links on this machine are not part of the content");
}

#[test]
fn remembered_hashes_are_those_of_files_that_did_not_change() {
    let bench = Bench::new();
    bench.sh("mkdir c; echo one > c/f; echo two > c/g; touch -d @1000 c/f c/g; sleep 3.1");
    let id = || scan(&bench, &[("c", "")], "").expect("scans").tree().id();
    let first = id();
    let store = bench.path("cache/pkgbuild/v1/files");
    let file = fs_err::read_dir(&store).expect("reads").next().expect("one").expect("reads").path();
    let bytes = fs_err::read(&file).expect("reads");
    assert_eq!((bytes.len() - 17 - 32) / 88, 2, "both files are remembered");
    assert_eq!(id(), first);
    // Same size, same modification time: only the change time tells.
    bench.sh("echo six > c/f; touch -d @1000 c/f");
    assert_ne!(id(), first);
    assert_eq!((fs_err::read(&file).expect("reads").len() - 17 - 32) / 88, 1, "what changed just now is not trusted");
    bench.sh("echo one > c/f; touch -d @1000 c/f");
    assert_eq!(id(), first);
    for damaged in [&b"junk"[..], &bytes[..bytes.len() - 1], b""] {
        fs_err::write(&file, damaged).expect("writes");
        assert_eq!(id(), first);
    }
}

#[test]
fn sockets_are_left_out_with_a_word_and_what_cannot_be_read_is_named() {
    let bench = Bench::new();
    bench.sh("mkdir -p c/d; cd c; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"s\")'");
    let context = scan(&bench, &[("c", "")], "").expect("scans");
    assert_eq!(paths(&context), "d");
    assert_eq!(context.warnings(), ["the socket `/s` is left out of the build context"]);
    let error = scan(&bench, &[("none", "")], "").err().expect("no such directory");
    assert!(error.to_string().contains("none"), "{error}");
}
