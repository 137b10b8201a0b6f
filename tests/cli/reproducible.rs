//! The same tree gives the same image.

use crate::support::{Program, Repository};

/// Builds a package whose tree is always the same, in a repository, cache and commit of its own, and returns what `build`
/// prints: the reference with the index's digest.
fn built(history: &[&str]) -> String {
    let (program, repository) = (Program::new(), Repository::new());
    repository
        .write("pkg/same/build.yml", "org: test\nimage: same\narches: [amd64, arm64]\n")
        .write("pkg/same/Dockerfile", "FROM scratch\nLABEL kind=test\nCOPY file /file\nCOPY file /other/\n")
        .write("pkg/same/file", "content\n");
    repository.commit("the package");
    for elsewhere in history {
        repository.write("elsewhere", elsewhere);
        repository.commit(elsewhere);
    }
    program.run(repository.path(), &["build", "--offline", "pkg/same"]).success().stdout
}

#[test]
fn one_tree_is_one_image_in_any_directory_and_whatever_is_committed_beside_it() {
    let once = built(&[]);
    assert!(once.contains("@sha256:"), "{once}");
    assert_eq!(once, built(&[]));
    assert_eq!(once, built(&["one", "two"]));
}

#[test]
fn in_a_shallow_clone_the_revision_is_where_history_ends() {
    let (program, repository, clone) = (Program::new(), Repository::new(), tempfile::tempdir().expect("temp dir"));
    repository
        .write("pkg/a/build.yml", "org: test\nimage: a\narches: [amd64]\n")
        .write("pkg/a/Dockerfile", "FROM scratch\nCOPY build.yml /\n");
    repository.commit("a package");
    repository.write("elsewhere", "x");
    let head = repository.commit("elsewhere");
    let shallow = clone.path().join("shallow");
    let url = format!("file://{}", repository.path().display());
    repository.git(&["clone", "--quiet", "--depth=1", &url, shallow.to_str().expect("a temporary path is UTF-8")]);
    program.run(&shallow, &["build", "--offline", "pkg/a"]).success();
    let name = program.run(&shallow, &["show-tag", "pkg/a"]).success().stdout;
    let shown = program.run(&shallow, &["inspect", "--json", name.trim()]).success().json();
    let labels = &shown["platforms"][0]["config"]["config"]["Labels"];
    assert_eq!(labels["org.opencontainers.image.revision"], head.as_str(), "{labels}");
}
