//! Both tag schemes, as users meet them.

use crate::support::{Program, Repository};
use serde_json::Value;
use std::fs;

/// Two packages, the second built from the first, in a workspace of a scheme.
fn packages(scheme: &str) -> Repository {
    let repository = Repository::new();
    repository
        .write("pkgbuild.yml", format!("tag-scheme: {scheme}\n"))
        .write("pkg/app/build.yml", "image: app\narches: [amd64]\nbuildArgs: ['BASE=@lkt:pkg:../base']\n")
        .write("pkg/app/Dockerfile", "ARG BASE\nFROM ${BASE}\nCOPY Dockerfile /\n")
        .write("pkg/base/build.yml", "image: base\narches: [amd64]\n")
        .write("pkg/base/Dockerfile", "FROM scratch\nCOPY file /\n")
        .write("pkg/base/file", "1\n");
    repository.commit("first");
    repository
}

/// Returns the manifests of the cache that hold a key of inputs, as text, sorted.
fn keyed(program: &Program) -> Vec<String> {
    let blobs = fs::read_dir(program.cache().join("blobs/sha256")).expect("the cache has blobs");
    let texts = blobs.filter_map(|blob| String::from_utf8(fs::read(blob.expect("lists").path()).expect("reads")).ok());
    let mut keyed: Vec<String> = texts.filter(|text| text.contains("\"org.pkgbuild.input-key\"")).collect();
    keyed.sort();
    keyed
}

#[test]
fn a_changed_base_moves_the_tag_of_what_needs_it_only_under_the_complete_scheme() {
    let program = Program::new();
    let show = |repository: &Repository| program.run(repository.path(), &["show-tag"]).success().stdout;
    for (scheme, moves) in [("linuxkit", false), ("complete", true)] {
        let repository = packages(scheme);
        let before = show(&repository);
        repository.write("pkg/base/file", "2\n");
        repository.commit("second");
        let after = show(&repository);
        let (before, after): (Vec<_>, Vec<_>) = (before.lines().collect(), after.lines().collect());
        assert_eq!((before[0] != after[0], before[1] != after[1]), (moves, true), "{scheme}: {before:?} {after:?}");
        let tree = format!("linuxkit/base:{}", repository.tree("pkg/base"));
        assert_eq!(after[1] == tree, !moves, "{scheme}");
    }
}

#[test]
fn images_say_what_they_are_made_of_and_a_plan_tells_when_that_moved() {
    let (program, repository) = (Program::new(), packages("linuxkit"));
    let run = |program: &Program, arguments: &[&str]| program.run(repository.path(), arguments).success();
    let build = ["build", "--offline", "--progress", "plain"];
    run(&program, &build);
    let manifests = keyed(&program);
    assert_eq!(manifests.len(), 2, "one for each package");
    let second = Program::new();
    run(&second, &build);
    assert_eq!(keyed(&second), manifests, "equal inputs give equal bytes");

    let plan = run(&program, &["plan", "--offline"]);
    assert_eq!(plan.stderr, "", "nothing moved");
    let plan = run(&program, &["plan", "--offline", "--json", "--build-arg", "X=1", "app"]);
    assert!(
        plan.stderr.contains("warning: linuxkit/app:") && plan.stderr.contains("(arguments, dependencies)"),
        "{}",
        plan.stderr
    );
    let unit = &plan.json()["packages"][0]["platforms"][0];
    assert_eq!(
        (&unit["decision"], &unit["moved-inputs"]),
        (&"use-local".into(), &Value::from(vec!["arguments", "dependencies"]))
    );
}

#[test]
fn what_the_complete_scheme_tags_is_what_is_built_from() {
    let (program, repository) = (Program::new(), packages("complete"));
    let run = |arguments: &[&str]| program.run(repository.path(), arguments).success();
    let tags = run(&["show-tag"]).stdout;
    let built = run(&["build", "--offline", "--progress", "plain"]).stdout;
    let names: Vec<&str> = built.lines().filter_map(|line| line.split_once('@')).map(|(name, _)| name).collect();
    assert_eq!(names, tags.lines().collect::<Vec<_>>());
    repository.write("pkg/base/file", "2\n");
    repository.commit("second");
    let plan = run(&["plan", "--offline", "--json"]).json();
    let decisions = plan["packages"].as_array().expect("a list").iter().map(|package| &package["platforms"][0]["decision"]);
    assert_eq!(decisions.collect::<Vec<_>>(), ["build", "build"]);
}
