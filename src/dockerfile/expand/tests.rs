//! The rows are facts of BuildKit's shell lexer; `!` in place of a result means an error.

use proptest::prelude::*;

use super::*;

const VARIABLES: [(&str, &str); 12] = [
    ("dir", "/srv"),
    ("sh", "dash"),
    ("none", ""),
    ("straße", "grün"),
    ("word", "aabb"),
    ("path", "/usr/local/lib/x.tar.gz"),
    ("stars", "a**b*"),
    ("marks", "??x"),
    ("meta", "(x)[y]{z}^$.+|"),
    ("star", "*"),
    ("p", "a?"),
    ("blanks", " one  two "),
];

fn lookup(name: &str) -> Option<String> {
    VARIABLES.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
}

fn word(text: &str, mode: Mode) -> String {
    expand_word(text, '\\', &lookup, mode).unwrap_or_else(|_| "!".to_owned())
}

fn check(mode: Mode, rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        assert_eq!(word(text, mode), *expected, "{text}");
    }
}

#[test]
fn quotes_are_taken_off_and_escapes_resolved() {
    check(
        Mode::WORD,
        &[
            ("", ""),
            ("plain", "plain"),
            ("a b  c", "a b  c"),
            ("p'l'ain", "plain"),
            ("p'lain", "!"),
            ("p\"lain", "!"),
            (r"p\'lain", "p'lain"),
            (r"p\\'lain", "!"),
            (r"p\\'lain'", r"p\lain"),
            (r"x\ny", "xny"),
            (r#""x\ny""#, r"x\ny"),
            (r#""x\\ny""#, r"x\ny"),
            (r"'x\ny'", r"x\ny"),
            (r"'x\\ny'", r"x\\ny"),
            (r"end\", "end"),
            (r"end\\", r"end\"),
            (r#""end\"#, "!"),
            (r#""end\""#, "!"),
            (r#""end\\""#, r"end\"),
            (r"'end\'", r"end\"),
            (r#""it's""#, "it's"),
            (r#"'say "x"'"#, r#"say "x""#),
            (r#""''""#, "''"),
            (r#"'""'"#, r#""""#),
            (r#""a"'b'c"#, "abc"),
            (r#""a\"b""#, r#"a"b"#),
            (r#""a\'b""#, r"a\'b"),
            (r#""a\`b""#, r"a\`b"),
            ("ä'ö'ü", "äöü"),
            (r"ä\ö", "äö"),
            (r#""ä\ö""#, r"ä\ö"),
            ("日'本", "!"),
            ("a\tb", "a\tb"),
            ("\u{feff}x", "x"),
            ("x\u{feff}", "x\u{feff}"),
        ],
    );
}

#[test]
fn names_end_at_the_first_other_character() {
    check(
        Mode::WORD,
        &[
            ("$dir", "/srv"),
            ("x$dir", "x/srv"),
            ("$dir.", "/srv."),
            ("$dir/$sh", "/srv/dash"),
            ("$dir$sh", "/srvdash"),
            ("$directory", ""),
            ("$dir-y", "/srv-y"),
            ("$Dir", ""),
            ("$straße!", "grün!"),
            ("${straße}", "grün"),
            ("$none", ""),
            ("x${none}y", "xy"),
            ("x${unset}y", "xy"),
            ("x$unset.y", "x.y"),
            ("$", "$"),
            ("x$", "x$"),
            ("$.", "$."),
            ("$ dir", "$ dir"),
            ("$(dir)", "$(dir)"),
            ("$'dir'", "$dir"),
            ("$\"dir\"", "$dir"),
            (r"\$dir", "$dir"),
            (r"\\$dir", r"\/srv"),
            (r#""\$dir""#, "$dir"),
            (r#""\\$dir""#, r"\/srv"),
            ("\"$dir\"", "/srv"),
            ("\"'$dir'\"", "'/srv'"),
            ("'$dir'", "$dir"),
            ("'${dir}'", "${dir}"),
            (r"'\$dir'", r"\$dir"),
            (r"\${dir}", "${dir}"),
            (r"\${}x", "${}x"),
            ("${dir}}", "/srv}"),
            ("${dir", "!"),
            ("${", "!"),
            ("${}", "!"),
            ("x${}y", "!"),
            ("${.}", "!"),
            ("${ dir}", "!"),
            ("${dir }", "!"),
            ("${{dir}", "!"),
            ("${:}", "!"),
            ("${:-x}", "!"),
            ("${:+x}", "!"),
            ("${dir:", "!"),
            ("${dir:}", "!"),
            ("$1", ""),
            ("a$1b", "ab"),
            ("$12b", "b"),
            ("$@@", "@"),
            ("$$dir", "dir"),
            ("<", "<"),
            ("<x", "<x"),
            ("a<<b", "a<<b"),
            ("a<< b", "a<< b"),
            ("<<$dir", "<</srv"),
        ],
    );
}

#[test]
fn parameters_of_a_shell_are_consumed_and_never_set() {
    for name in ["0", "1", "7", "42", "007", "@", "*", "#", "?", "-", "$", "!"] {
        for (text, expected) in [
            (format!("${name}"), ""),
            (format!("a${name}"), "a"),
            (format!("${{{name}}}"), ""),
            (format!("a${{{name}}}b"), "ab"),
            (format!("${{{name}:-else}}"), "else"),
            (format!("${{{name}-else}}"), "else"),
            (format!("${{{name}:+then}}"), ""),
            (format!("${{{name}+then}}"), ""),
        ] {
            assert_eq!(word(&text, Mode::WORD), expected, "{text}");
        }
    }
}

#[test]
fn defaults_and_alternatives_depend_on_being_set_and_with_a_colon_on_being_empty() {
    check(
        Mode::WORD,
        &[
            ("${dir:-x}", "/srv"),
            ("${dir-x}", "/srv"),
            ("${none:-x}", "x"),
            ("${none-x}", ""),
            ("${unset:-x}", "x"),
            ("${unset-x}", "x"),
            ("${unset:-}", ""),
            ("${unset-}", ""),
            ("${dir:+x}", "x"),
            ("${dir+x}", "x"),
            ("${none:+x}", ""),
            ("${none+x}", "x"),
            ("${unset:+x}", ""),
            ("${unset+x}", ""),
            ("${dir:+}", ""),
            ("${unset:-$dir}", "/srv"),
            ("${unset:-${dir}}", "/srv"),
            ("${unset:-${gone:-deep}}", "deep"),
            ("${unset:-${dir:-deep}}y", "/srvy"),
            ("${dir:+${sh}}", "dash"),
            ("${dir:+${unset}}", ""),
            ("${dir:+${dir}:}", "/srv:"),
            ("${unset:-a b}", "a b"),
            ("${unset:-a {b}", "a {b"),
            ("${unset:-x}}", "x}"),
            ("${unset:-x", "!"),
            ("${unset:-${gone}", "!"),
            ("${unset:-'}'}", "}"),
            ("${unset:-\"}\"}", "}"),
            (r"${unset:-\}}", "}"),
            (r"${unset:-\$dir}", "$dir"),
            (r"${unset:-\${dir}z}", "${dirz}"),
            ("${unset:-'a}", "!"),
            ("\"${unset:-x y}\"", "x y"),
            ("x${unset:-000}y", "x000y"),
            ("${unset:=x}", "!"),
            ("${dir:=x}", "!"),
            ("${unset=x}", "!"),
            ("${unset:x}", "!"),
            ("${dir:1:2}", "!"),
            ("${dir^}", "!"),
            ("${dir@Q}", "!"),
            ("${#dir}", "!"),
            ("${!dir}", "!"),
        ],
    );
}

#[test]
fn a_required_variable_that_is_missing_gives_the_message_of_the_file() {
    check(
        Mode::WORD,
        &[
            ("${dir?}", "/srv"),
            ("${dir:?}", "/srv"),
            ("${none?}", ""),
            ("${none:?}", "!"),
            ("${unset?}", "!"),
            ("${unset:?}", "!"),
        ],
    );
    let message = |text| expand_word(text, '\\', &lookup, Mode::WORD).expect_err(text).to_string();
    assert_eq!(message("${unset:?give one below $dir}"), "unset: give one below /srv");
    assert_eq!(message("${unset?}"), "unset: is not allowed to be unset");
    assert_eq!(message("${none:?}"), "none: is not allowed to be empty");
}

#[test]
fn prefixes_and_suffixes_are_removed_by_pattern() {
    check(
        Mode::WORD,
        &[
            ("${word#a}", "abb"),
            ("${word##a}", "abb"),
            ("${word#aa}", "bb"),
            ("${word#b}", "aabb"),
            ("${word#*}", "aabb"),
            ("${word##*}", ""),
            ("${word#*a}", "abb"),
            ("${word##*a}", "bb"),
            ("${word#?}", "abb"),
            ("${word#??}", "bb"),
            ("${word#}", "aabb"),
            ("${word##}", "aabb"),
            ("${word%b}", "aab"),
            ("${word%%b}", "aab"),
            ("${word%bb}", "aa"),
            ("${word%a}", "aabb"),
            ("${word%*}", "aabb"),
            ("${word%%*}", ""),
            ("${word%b*}", "aab"),
            ("${word%%b*}", "aa"),
            ("${word%?}", "aab"),
            ("${word%}", "aabb"),
            ("${path##*/}", "x.tar.gz"),
            ("${path#*/}", "usr/local/lib/x.tar.gz"),
            ("${path%/*}", "/usr/local/lib"),
            ("${path%%/*}", ""),
            ("${path%.*}", "/usr/local/lib/x.tar"),
            ("${path%%.*}", "/usr/local/lib/x"),
            (r"${stars%\*}", "a**b"),
            (r"${stars%%\**}", "a"),
            (r"${stars#a\*}", "*b*"),
            (r"${marks#\?}", "?x"),
            (r"${marks#?\?}", "x"),
            (r"${meta#(x)[y]{z\}^$.+|}", ""),
            ("${meta%|}", "(x)[y]{z}^$.+"),
            ("${meta#.}", "(x)[y]{z}^$.+|"),
            ("${word#$p}", "bb"),
            ("${word%%$star}", ""),
            ("${word#$none}", "aabb"),
            ("${none#x}", ""),
            ("${unset#x}", ""),
            ("${unset%x}", ""),
            ("${straße#g}", "rün"),
            ("${straße%?}", "grü"),
            ("${straße%ü*}", "gr"),
            ("${dir:#x}", "!"),
            ("${dir:##x}", "!"),
            ("${dir:%x}", "!"),
            ("${dir:%%x}", "!"),
            (r"${word#\a}", "!"),
            (r"${word%\b}", "!"),
            ("${unset:-.}${word%b}${unset:-.}", ".aab."),
        ],
    );
}

#[test]
fn matches_are_replaced_once_or_everywhere() {
    check(
        Mode::WORD,
        &[
            ("${word/a/x}", "xabb"),
            ("${word//a/x}", "xxbb"),
            ("${word/aa/x}", "xbb"),
            ("${word/z/x}", "aabb"),
            ("${word/a/}", "abb"),
            ("${word//a/}", "bb"),
            ("${word/?/x}", "xabb"),
            ("${word//?/x}", "xxxx"),
            ("${word/*/x}", "x"),
            ("${word/a*/x}", "x"),
            ("${path//\\//:}", ":usr:local:lib:x.tar.gz"),
            ("${path/\\//}", "usr/local/lib/x.tar.gz"),
            ("${path//./_}", "/usr/local/lib/x_tar_gz"),
            ("${path/$dir/}", "/usr/local/lib/x.tar.gz"),
            ("${word/b/$dir}", "aa/srvb"),
            ("${word/a/${sh}}", "dashabb"),
            (r"${stars//\*/+}", "a++b+"),
            (r"${marks//\?/!}", "!!x"),
            ("${none/a/x}", ""),
            ("${unset/a/x}", ""),
            ("${word/$none/x}", "xaabb"),
            ("${word//a", "!"),
            ("${word//a/", "!"),
            ("${word/a}", "!"),
            ("${word//}", "!"),
            ("${word///}", "aabb"),
            (r"${word/\a/x}", "!"),
        ],
    );
}

#[test]
fn in_a_global_replacement_a_dollar_sign_is_live() {
    let lookup = |name: &str| {
        Some(match name {
            "v" => "aXbX".to_owned(),
            "r" => "<$0>".to_owned(),
            "braced" => "<${0}>".to_owned(),
            "other" => "<$1$name>".to_owned(),
            "double" => "<$$>".to_owned(),
            "lone" => "<$>".to_owned(),
            "open" => "<${0>".to_owned(),
            _ => return None,
        })
    };
    for (text, expected) in [
        ("${v//X/$r}", "a<X>b<X>"),
        ("${v//X/$braced}", "a<X>b<X>"),
        ("${v//X/$other}", "a<>b<>"),
        ("${v//X/$double}", "a<$>b<$>"),
        ("${v//X/$lone}", "a<$>b<$>"),
        ("${v//X/$open}", "a<${0>b<${0>"),
        ("${v/X/$r}", "a<$0>bX"),
    ] {
        assert_eq!(expand_word(text, '\\', &lookup, Mode::WORD).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn another_escape_character_leaves_the_backslash_alone() {
    for (text, expected) in [
        (r"C:\dir\$dir", r"C:\dir\/srv"),
        ("`$dir", "$dir"),
        ("``$dir", "`/srv"),
        ("\"`$dir`\"\"", "$dir\""),
        ("'`$dir'", "`$dir"),
        ("end`", "end"),
        (r"end\", r"end\"),
    ] {
        assert_eq!(expand_word(text, '`', &lookup, Mode::WORD).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn in_a_heredoc_quotes_are_text() {
    check(
        Mode::HEREDOC,
        &[
            ("it's $dir\n", "it's /srv\n"),
            ("\"$dir\"", "\"/srv\""),
            ("'$dir'", "'/srv'"),
            (r"\$dir", "$dir"),
            (r"'\$dir'", "'$dir'"),
            ("${unset:-it's}", "it's"),
            ("a <<EOF", "a <<EOF"),
        ],
    );
}

#[test]
fn shown_text_keeps_quotes_and_what_is_not_set() {
    check(
        Mode::SHOWN,
        &[
            ("echo \"$dir\" '$sh'", "echo \"/srv\" '$sh'"),
            ("$unset ${unset}", "$unset ${unset}"),
            ("${unset:-x} ${unset:+x} ${unset?x}", "${unset:-x} ${unset:+x} ${unset?x}"),
            ("${unset#a} ${unset%%b}", "${unset#a} ${unset%%b}"),
            ("${unset/a/b}", "${unset/a/b}"),
            ("$1 $@", "$1 $@"),
            ("${dir:-x}", "/srv"),
        ],
    );
}

#[test]
fn words_are_divided_after_expansion_but_not_inside_of_quotes() {
    for (text, expected) in [
        ("", &[][..]),
        ("   ", &[]),
        ("a b", &["a", "b"]),
        (" a   b ", &["a", "b"]),
        ("a\tb\nc", &["a", "b", "c"]),
        ("'a b' c", &["a b", "c"]),
        ("\"a b\" c", &["a b", "c"]),
        ("a' b 'c", &["a b c"]),
        (r"a\ b c", &["a b", "c"]),
        ("$blanks", &["one", "two"]),
        ("x${blanks}y", &["x", "one", "two", "y"]),
        ("\"$blanks\"", &[" one  two "]),
        ("x\"$blanks\"y", &["x one  two y"]),
        ("'$blanks'", &["$blanks"]),
        ("$none", &[]),
        ("a $none b", &["a", "b"]),
        ("a $unset b", &["a", "b"]),
        (r#"x\" y"#, &["x\"", "y"]),
        ("a<<b c", &["a<<b", "c"]),
        ("a << b c", &["a", "<< b", "c"]),
        ("8${unset:-0}8", &["808"]),
    ] {
        assert_eq!(
            expand_words(text, '\\', &lookup, Mode::WORD).as_deref(),
            Ok(&expected.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()[..]),
            "{text}"
        );
    }
    for text in ["'a", "\"a b", "${", "a '"] {
        assert!(expand_words(text, '\\', &lookup, Mode::WORD).is_err(), "{text}");
    }
}

#[test]
fn the_variables_that_were_asked_for_are_told() {
    let names = |set: BTreeSet<String>| set.into_iter().collect::<Vec<_>>().join(" ");
    for (text, matched, unmatched) in [
        ("x", "", ""),
        ("$dir $gone", "dir", "gone"),
        ("${dir:-$gone}", "dir", "gone"),
        ("${a:-${b:-$sh}}", "sh", "a b"),
        ("'$dir'", "", ""),
        ("${word//$p/$none}", "none p word", ""),
        ("$dir$dir", "dir", ""),
    ] {
        let expanded = expand(text, '\\', &lookup, Mode::WORD).expect(text);
        assert_eq!((names(expanded.matched), names(expanded.unmatched)), (matched.to_owned(), unmatched.to_owned()), "{text}");
    }
}

#[test]
fn neither_nesting_nor_growth_exhausts_the_machine() {
    let deep = "${a:-".repeat(1_000_000);
    assert_eq!(expand_word(&deep, '\\', &|_| None, Mode::WORD), Err(ExpandError::TooDeep));
    let big = "x".repeat(LIMIT / 4);
    let grown = expand_word("$a$a$a$a$a", '\\', &|_| Some(big.clone()), Mode::WORD);
    assert_eq!(grown, Err(ExpandError::TooLong));
}

proptest! {
    #[test]
    fn no_text_panics(text in r#"[-a$\\{}:+?#%/*'"<`=x \n(é.0]{0,40}"#, escape in prop_oneof![Just('\\'), Just('`')]) {
        for mode in [Mode::WORD, Mode::HEREDOC, Mode::SHOWN] {
            let _ = expand_word(&text, escape, &|name| (name.len() % 2 == 1).then(|| format!("${name}*é")), mode);
            let _ = expand_words(&text, escape, &|_| None, mode);
        }
    }

    #[test]
    fn single_quotes_keep_any_text(text in "[^']*") {
        prop_assume!(!text.starts_with('\u{feff}'));
        prop_assert_eq!(expand_word(&format!("'{text}'"), '\\', &lookup, Mode::WORD), Ok(text));
    }
}
