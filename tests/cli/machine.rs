//! What the other tests assume of the machine and of their own helpers.

use crate::support::{Program, Registry, Repository, Request, Setup};

#[test]
fn equal_files_in_an_equal_order_give_equal_commits() {
    let commit = || {
        let repository = Repository::new();
        repository.write("pkg/a/build.yml", "image: a\n").write("pkg/a/run", "#!/bin/sh\n").make_executable("pkg/a/run");
        assert!(repository.path().join("pkg/a/run").exists());
        (repository.commit("first"), repository.tree("pkg/a"))
    };
    assert_eq!(commit(), commit());
}

#[test]
fn a_registry_of_a_test_starts_empty_and_counts_its_requests() {
    let setup = Setup::require();
    let mut registry = Registry::start();
    let tags = format!("{}/hello/tags", registry.address());
    let asked = setup.try_skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{tags}")]);
    assert!(!asked.status.success());

    let request = Request { method: "GET".to_owned(), path: "/v2/hello/tags/tags/list".to_owned(), status: 404 };
    assert_eq!(registry.requests(), std::slice::from_ref(&request));
    assert!(!request.writes());

    registry.stop();
    let asked = setup.try_skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{tags}")]);
    assert!(String::from_utf8_lossy(&asked.stderr).contains("connection refused"));
}

#[test]
fn a_registry_may_ask_for_a_password_and_speak_tls() {
    let setup = Setup::require();
    let list = |registry: &Registry, options: &[&str], expected: &str| {
        let repository = format!("docker://{}/hello", registry.address());
        let asked = setup.try_skopeo(&[["list-tags", &repository].as_slice(), options].concat());
        let stderr = String::from_utf8(asked.stderr).expect("skopeo prints UTF-8");
        assert!(stderr.contains(expected), "{options:?}: {stderr}");
    };
    // The repository is unknown, which only who is let in is told.
    let unknown = "404 (Not Found)";
    let protected = Registry::with_password("builder", "word");
    list(&protected, &["--tls-verify=false"], "authentication required");
    list(&protected, &["--tls-verify=false", "--creds", "builder:word"], unknown);

    let encrypted = Registry::with_tls();
    list(&encrypted, &[], "certificate signed by unknown authority");
    let trust = encrypted.authority();
    let trust = trust.parent().and_then(|directory| directory.to_str()).expect("a temporary path is UTF-8");
    list(&encrypted, &["--cert-dir", trust], unknown);
}

#[test]
fn the_engine_runs_both_architectures() {
    let setup = Setup::require();
    for (arch, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let tar = setup.rootfs().join(format!("rootfs-{arch}.tar"));
        let image =
            setup.docker(&["import", tar.to_str().expect("the state directory is UTF-8"), &format!("machine-test:{arch}")]);
        assert_eq!(setup.docker(&["run", "--rm", "--network", "none", &image, "/bin/uname", "-m"]), machine);
        setup.docker(&["rmi", &image]);
    }
}

#[test]
fn the_program_starts_with_an_empty_home() {
    let program = Program::new();
    let repository = Repository::new();
    let run = program.run(repository.path(), &["--version"]).success();
    assert_eq!(run.stderr, "");
    assert!(!program.cache().exists(), "asking for the version makes no cache");
}
