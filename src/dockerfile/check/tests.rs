//! The table of cases, and what it cannot say.

use std::path::Path;

use super::*;
use crate::oci::Platform;

fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse(Path::new("Dockerfile"), text.as_bytes()).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

fn checked(text: &str, ignore: Option<&str>) -> Checked {
    let ignore = ignore.map(|text| Ignore::parse(Path::new(".dockerignore"), text.as_bytes()).expect("a valid ignore file"));
    let options = StageOptions::new(Platform::linux("amd64"));
    let surroundings = Surroundings { options: &options, ignore: ignore.as_ref(), images: &BTreeMap::new(), stages: None };
    check(&parse(text), &surroundings).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

fn found(checked: &Checked) -> Vec<String> {
    let mut found: Vec<String> = checked
        .found
        .iter()
        .map(|found| format!("{}@{}", found.rule.unwrap_or("-"), found.span.expect("a place").line))
        .collect();
    found.sort();
    found
}

/// Divides the table into title, ignore file, Dockerfile and expectation.
fn cases() -> Vec<(&'static str, Option<&'static str>, &'static str, Vec<&'static str>)> {
    let cases = include_str!("cases.txt").split("\n=== ").skip(1);
    cases
        .map(|case| {
            let (title, rest) = case.split_once('\n').expect("a title");
            let (ignore, rest) = match rest.strip_prefix("--- ignore\n") {
                Some(rest) => {
                    let (ignore, rest) = rest.split_once("--- dockerfile\n").expect("a Dockerfile");
                    (Some(ignore), rest)
                }
                None => (None, rest),
            };
            let (dockerfile, expected) = rest.split_once("--- expect").expect("an expectation");
            let expected = expected.split("\n---").next().expect("a first part").lines().filter(|line| !line.is_empty());
            (title, ignore, dockerfile, expected.collect())
        })
        .collect()
}

#[test]
fn each_case_finds_what_it_should() {
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = Vec::new();
    for (title, ignore, dockerfile, mut expected) in cases {
        let dockerfile = if title == "windows line ends" { dockerfile.replace('\n', "\r\n") } else { dockerfile.to_owned() };
        let found = found(&checked(&dockerfile, ignore));
        expected.sort_unstable();
        if found != expected {
            wrong.push(format!("{title}: found {found:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_in_some_case_and_has_help() {
    let named: BTreeSet<&str> =
        cases().into_iter().flat_map(|(.., expected)| expected).filter_map(|found| Some(found.split_once('@')?.0)).collect();
    let all: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(named, all);
    assert!(Rule::ALL.iter().all(|rule| !rule.help().is_empty()));
    assert!(Rule::ALL.is_sorted_by_key(|rule| rule.name().to_lowercase()));
}

#[test]
fn error_makes_errors_of_what_is_found() {
    let checked = checked("# check=error=true\nFROM scratch\nCMD a\n", None);
    assert!(checked.stops());
    assert_eq!(found(&checked), ["JSONArgsRecommended@3"]);
    let skipped = self::checked("# check=error=true;skip=JSONArgsRecommended\nFROM scratch\nCMD a\n", None);
    assert!(!skipped.stops() && skipped.found.is_empty());
}

#[test]
fn options_that_cannot_be_read_are_a_mistake_in_their_line() {
    for (text, message) in [
        (
            "# check=skip\nFROM scratch\n",
            "`skip` is no option of `check`: there are `skip=…`, `error=…` and `experimental=…`, divided by `;`",
        ),
        ("# check=error=yes\nFROM scratch\n", "`error=yes` must be `error=true` or `error=false`"),
        (
            "# check=skip=all;warn=x\nFROM scratch\n",
            "`warn=x` is no option of `check`: there are `skip=…`, `error=…` and `experimental=…`, divided by `;`",
        ),
    ] {
        let options = StageOptions::new(Platform::linux("amd64"));
        let surroundings = Surroundings { options: &options, ignore: None, images: &BTreeMap::new(), stages: None };
        let mistakes = check(&parse(text), &surroundings).expect_err(text).0;
        assert_eq!((mistakes[0].span.map(|span| span.line), &mistakes[0].message[..]), (Some(1), message), "{text}");
    }
}

#[test]
fn a_check_that_does_not_exist_is_told_with_the_nearest() {
    let checked = checked("# check=skip=StagenameCase,InvalidBaseImagePlatform\nFROM scratch\n", None);
    let told: Vec<_> = checked.found.iter().map(|found| (&found.message[..], found.help.as_deref())).collect();
    assert_eq!(told, [("no check is called `StagenameCase`", Some("did you mean `StageNameCasing`?"))]);
}

#[test]
fn what_a_base_image_sets_counts_where_it_is_known() {
    let dockerfile = parse("FROM image AS a\nENV x=$GOPATH/$y\nCMD run\n");
    let options = StageOptions::new(Platform::linux("amd64"));
    let with = |images| {
        let surroundings = Surroundings { options: &options, ignore: None, images: &images, stages: None };
        check(&dockerfile, &surroundings).expect("no mistakes")
    };
    let unknown = with(BTreeMap::new());
    assert_eq!(found(&unknown), ["JSONArgsRecommended@3", "UndefinedVar@2", "UndefinedVar@2"]);
    let reserved =
        |found: &&Diagnostic| found.help.as_ref().is_some_and(|help| help.ends_with("(unless the base image sets it)"));
    assert_eq!(unknown.found.iter().filter(reserved).count(), 2);
    assert_eq!(unknown.uncertain.iter().map(|span| span.line).collect::<Vec<_>>(), [2]);

    let name = ImageUse { reference: "image".to_owned(), platform: Platform::linux("amd64") };
    let known = with([(name, ImageFacts { environment: vec!["GOPATH=/go".to_owned()], has_shell: true })].into());
    assert_eq!(found(&known), ["UndefinedVar@2"]);
    assert!(known.uncertain.is_empty());
}

#[test]
fn a_value_made_of_one_that_is_not_known_is_not_known_either() {
    let checked = checked("FROM image\nENV a=$b\nEXPOSE $a\nEXPOSE 80\nFROM scratch\nENV a=$b\n", None);
    assert_eq!(checked.uncertain.iter().map(|span| span.line).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn only_stages_that_are_asked_for_are_looked_into() {
    let dockerfile = parse("FROM scratch AS a\nCMD x\nFROM scratch AS b\nENTRYPOINT y\n");
    let options = StageOptions::new(Platform::linux("amd64"));
    let surroundings =
        Surroundings { options: &options, ignore: None, images: &BTreeMap::new(), stages: Some(&BTreeSet::from([1])) };
    assert_eq!(found(&check(&dockerfile, &surroundings).expect("no mistakes")), ["JSONArgsRecommended@4"]);
}
