//! The rows are facts of moby's pattern matcher.

use proptest::prelude::*;

use super::*;

fn ignore(text: &str) -> Ignore {
    Ignore::parse(Path::new(".dockerignore"), text.as_bytes()).expect(text)
}

fn check(rows: &[(&str, &[&str], &[&str])]) {
    for (patterns, left_out, kept) in rows {
        let ignore = ignore(patterns);
        for path in *left_out {
            assert!(ignore.excludes(path.as_bytes()), "{patterns:?} should leave out {path}");
        }
        for path in *kept {
            assert!(!ignore.excludes(path.as_bytes()), "{patterns:?} should keep {path}");
        }
    }
}

#[test]
fn one_pattern_matches_whole_paths_and_all_below() {
    check(&[
        ("a", &["a", "a/b", "a/b/c"], &["b/a", "ab", "b"]),
        ("a/b", &["a/b", "a/b/c"], &["a", "a/bc", "b"]),
        ("*", &["a", ".a", "a/b", "a/b/c"], &["", "."]),
        ("*.o", &["x.o", ".o", "x.o/y"], &["d/x.o", "x.oo", "x.c"]),
        ("d/*.o", &["d/x.o"], &["x.o", "d/e/x.o"]),
        ("*/*", &["a/b", "a/b/c"], &["a"]),
        ("*/x", &["a/x", "b/x/y"], &["x", "a/b/x"]),
        ("lib*/x", &["lib/x", "lib64/x"], &["li/x", "lib/y/x"]),
        ("a?c", &["abc", "a.c", "aéc", "a☺c"], &["ac", "abbc", "a/c"]),
        ("?", &["a", "é"], &["ab", ""]),
        ("a*b?c", &["axbyc", "abbc", "axxbxc"], &["abc", "a/bbc"]),
        ("a.c", &["a.c"], &["abc", "a/c"]),
        ("(x)|{y}$+", &["(x)|{y}$+", "(x)|{y}$+/z"], &["x", "(x)"]),
        ("(x)*", &["(x)", "(x)y"], &["x", "xy"]),
        ("x.tar.gz-1.0+rc1", &["x.tar.gz-1.0+rc1"], &["x-tar.gz-1.0+rc1"]),
        ("a^b", &["a^b"], &["ab"]),
        (".*", &[".a", ".git/config"], &["a", "a/.b"]),
    ]);
}

#[test]
fn classes_are_ranges_sets_and_their_complements() {
    check(&[
        ("x[abc]", &["xa", "xc"], &["xd", "x", "x[abc]"]),
        ("x[a-c]y", &["xay", "xby"], &["xdy", "xy", "x-y"]),
        ("x[^a-c]", &["xd", "xé", "x^"], &["xa", "xb"]),
        ("x[a-ce-g]", &["xb", "xf"], &["xd"]),
        (r"x[\]a]", &["x]", "xa"], &[r"x\"]),
        (r"x[\-]", &["x-"], &[r"x\"]),
        (r"x[a\-]", &["xa", "x-"], &["xb"]),
        (r"x[\-a]", &["xa", "x-"], &["xb"]),
        (r"x[\\]", &[r"x\"], &["x"]),
        ("x[.]", &["x."], &["xa"]),
        ("x[a&&b]", &["xa", "x&", "xb"], &["xc"]),
        ("x[a~~b]", &["x~"], &["xc"]),
        ("[α-ω]*", &["λ", "λx"], &["l"]),
        ("a[^/]b", &["a-b"], &["a/b"]),
    ]);
}

#[test]
fn a_backslash_takes_the_meaning_from_the_next_character() {
    check(&[
        (r"a\*", &["a*"], &["ab", "a"]),
        (r"a\?c", &["a?c"], &["abc"]),
        (r"a\[b", &["a[b"], &["ab"]),
        (r"a\\", &[r"a\"], &["a"]),
        (r"a\ b", &["a b"], &[r"a\ b"]),
        (r"\#a", &["#a"], &["a"]),
        (r"\!a", &["!a"], &["a"]),
        // Letters reach the regular expression underneath with their backslash.
        (r"a\d", &["a1"], &["ad"]),
    ]);
}

#[test]
fn two_stars_reach_over_directories() {
    check(&[
        ("**", &["a", "a/b", ".a", "a/b/c"], &[]),
        ("**/", &["a", "a/b"], &[]),
        ("**/**", &["a", "a/b"], &[]),
        ("**/x", &["x", "a/x", "a/b/x", "a/x/y"], &["ax", "a/bx", "xa"]),
        ("**x", &["x", "ax", "a/x", "a/bx"], &["xa"]),
        ("**/.x", &[".x", "a/.x"], &["a.x", "a/b.x"]),
        ("**/*.o", &["x.o", "a/x.o", "a/b/x.o"], &["x.c"]),
        ("**/x*.o", &["x.o", "a/x1.o"], &["a/y.o"]),
        ("**/a/b", &["a/b", "x/a/b", "x/y/a/b/c"], &["b", "xa/b"]),
        ("**/a/*", &["a/b", "x/a/b"], &["a", "x/a"]),
        ("**/a/**", &["a/b", "x/a/b", "x/a/b/c"], &["a", "x/b"]),
        ("a/**", &["a/b", "a/b/c"], &["a", "ab", "b/a/c"]),
        ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["b", "a/xb", "ab"]),
        ("a**/*.o", &["a/x.o", "ab/x.o", "a/b/x.o"], &["b/x.o"]),
        ("a/*.o**", &["a/x.o", "a/x.old", "a/x.o/y"], &["a/x.c"]),
        ("a/b**", &["a/b", "a/bc", "a/b/c", "a/bc/d"], &["a/c"]),
        ("**/**/*.o", &["x.o", "a/x.o", "a/b/x.o"], &["a/b/x.c"]),
    ]);
}

#[test]
fn the_last_pattern_that_matches_decides() {
    check(&[
        ("*.md\n!README.md", &["a.md"], &["README.md"]),
        ("!README.md\n*.md", &["README.md"], &[]),
        ("*.md\n!README*.md\nREADME-secret.md", &["a.md", "README-secret.md"], &["README.md", "README-x.md"]),
        ("*\n!a", &["b", "b/a"], &["a", "a/b"]),
        ("**\n!a", &["b", "b/a"], &["a", "a/b/c"]),
        ("*\n!a/b", &["a", "a/c"], &["a/b", "a/b/c"]),
        ("**\n!a/b\na/b/c", &["a/b/c", "a/b/c/d"], &["a/b", "a/b/d"]),
        ("d\n!d/x", &["d", "d/y"], &["d/x", "d/x/z"]),
        ("d/\n!d/x", &["d", "d/y"], &["d/x"]),
        ("d/*\n!d/x", &["d/y"], &["d", "d/x"]),
        ("**\n!**/*.go", &["a", "a/b"], &["x.go", "a/b/x.go"]),
        ("**\n!d/*.go", &["x.go", "d/e/x.go"], &["d/x.go"]),
        ("!x", &[], &["x", "y"]),
        ("a\n!a\na", &["a", "a/b"], &[]),
    ]);
}

#[test]
fn lines_are_cleaned_into_paths() {
    check(&[
        ("/a", &["a"], &["b/a"]),
        ("./a", &["a"], &["b/a"]),
        ("a/", &["a", "a/b"], &[]),
        ("a//b", &["a/b"], &["b"]),
        ("x/../a", &["a"], &["x"]),
        ("../a", &[], &["a"]),
        ("  a  ", &["a"], &["  a  "]),
        ("a b", &["a b"], &["a", "b"]),
        ("a\r\nb\r\n", &["a", "b"], &[]),
        ("# a\na", &["a"], &["# a"]),
        (" # a", &["# a"], &["a"]),
        ("\n\n\na\n\n", &["a"], &[""]),
        ("\u{feff}a", &["a"], &[]),
        ("\u{feff}#a\nb", &["b"], &["a", "#a"]),
        ("*\n! /a", &["b"], &["a"]),
        ("*\n!./a", &["b"], &["a"]),
        ("*\n!x/../a", &["b", "x"], &["a"]),
        ("/", &[], &["a"]),
        (".", &[], &["a"]),
    ]);
    let patterns: Vec<String> = ignore("one\n/two\n/three/x/\n\n#no\n! /four/y\n").patterns().collect();
    assert_eq!(patterns, ["one", "two", "three/x", "!four/y"]);
}

#[test]
fn a_wrong_pattern_is_told_with_its_line() {
    for bad in [
        "!",
        "! ",
        "[",
        "[^",
        "a[",
        "[^ab",
        "[]a]",
        "[]",
        "[-]",
        "[x-]",
        "[-x]",
        "[a-b-c]",
        "[z-a]",
        "[A-z]/[o-A]",
        r"\",
        r"a\",
        r"[a\",
        r"\q",
    ] {
        assert!(Ignore::parse(Path::new("i"), bad.as_bytes()).is_err(), "{bad}");
    }
    let mistakes = Ignore::parse(Path::new("pkg/x/.dockerignore"), b"ok\n[\n# fine\n!\n").expect_err("two mistakes");
    let told: Vec<String> = mistakes.0.iter().map(|mistake| mistake.to_string()).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("pkg/x/.dockerignore:2:1: `[` is not a pattern"), "{}", told[0]);
    assert!(told[1].starts_with("pkg/x/.dockerignore:4:1: `!` needs a pattern"), "{}", told[1]);
    assert!(Ignore::parse(Path::new("i"), &vec![b'\n'; LIMIT + 1]).is_err());
}

#[test]
fn a_pattern_that_was_not_tried_on_a_directory_does_not_count_below_it() {
    // At `d` nothing is left out yet, so `!d` is not tried; what `d/x/*` leaves out further down stays out.
    let ignore = ignore("d/x/*\n!d");
    assert!(ignore.excludes(b"d/x/y"));
}

#[test]
fn the_ignore_file_of_a_dockerfile_comes_before_that_of_the_context() {
    assert_eq!(candidates(Path::new("Dockerfile")), [Path::new("Dockerfile.dockerignore"), Path::new(".dockerignore")]);
    assert_eq!(
        candidates(Path::new("build/app.Dockerfile")),
        [Path::new("build/app.Dockerfile.dockerignore"), Path::new(".dockerignore")]
    );
}

#[test]
fn a_walk_skips_a_directory_only_when_nothing_below_can_be_kept() {
    for (patterns, directory, may) in [
        ("a", "a", false),
        ("*\n!b", "a", false),
        ("*\n!a/b", "a", true),
        ("*\n!a/b/c", "a", true),
        ("*\n!a/b/c", "a/b", true),
        ("*\n!a/b/c", "a/x", false),
        ("*\n!ab", "a", false),
        ("*\n!**/x", "a", true),
        ("*\n!a/*.go", "a", true),
        ("*\n!a/*.go", "b", false),
        ("*\n!a/**", "a/b", true),
        ("*\n!*/x", "a", true),
        (
            r"*
!a\*/x",
            "a*",
            true,
        ),
    ] {
        assert_eq!(ignore(patterns).may_keep_below(directory.as_bytes()), may, "{patterns:?} {directory}");
    }
}

#[test]
fn names_that_are_not_utf8_are_matched_too() {
    assert!(ignore("*.o").excludes(b"\xff.o"));
    assert!(ignore("d").excludes(b"d/\xff"));
    assert!(!ignore("a?").excludes(b"b\xff"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'/'), Just(b'['), Just(b']'), Just(b'!'), Just(b'\\'), Just(b'\n'), Just(b'.'), Just(b'^'), Just(b'-'), any::<u8>()], 0..40), path in "[a-c/.]{0,12}") {
        if let Ok(ignore) = Ignore::parse(Path::new("i"), &bytes) {
            ignore.excludes(path.as_bytes());
            ignore.may_keep_below(path.as_bytes());
        }
    }

    /// A walk that skips whole directories sees the same as one that asks for every path.
    #[test]
    fn skipping_is_safe(patterns in prop::collection::vec("!?(\\*\\*/|[ab]/|\\*/)?[ab*?][ab*]?(/[ab*])?(/\\*\\*)?", 1..5), path in "[ab](/[ab]{1,2}){1,3}") {
        let ignore = ignore(&patterns.join("\n"));
        let cuts = path.match_indices('/').map(|(at, _)| at);
        for cut in cuts {
            let directory = &path.as_bytes()[..cut];
            if ignore.excludes(directory) && !ignore.may_keep_below(directory) {
                prop_assert!(ignore.excludes(path.as_bytes()), "{patterns:?}: {path} is kept below {}", &path[..cut]);
            }
        }
    }
}
