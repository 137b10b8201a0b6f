//! `verify-repro`: two builds that should be one.

use crate::support::{Program, Registry, Repository, Setup};
use std::fs;
use std::path::Path;

/// Returns a repository with a base image of Debian's static busybox, and a package `same` and a package `moody` on it.
fn repository(registry: &Registry) -> Repository {
    let repository = Repository::new();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let bytes = fs::read(busybox.expect("busybox-static is installed: run scripts/setup")).expect("reads");
    repository.write("pkgbuild.yml", format!("defaults:\n  org: {}/team\n  arches: [amd64]\n", registry.address()));
    repository.write("pkg/base/busybox", bytes).make_executable("pkg/base/busybox");
    repository.write("pkg/base/build.yml", "image: base\n");
    repository.write("pkg/base/Dockerfile", "FROM scratch\nCOPY busybox /bin/sh\n");
    let from = "ARG BASE\nFROM $BASE\n";
    let build_yml = |name: &str| format!("image: {name}\nbuildArgs: [\"BASE=@lkt:pkg:../base\"]\n");
    repository.write("pkg/same/build.yml", build_yml("same")).write("pkg/same/file", "x");
    repository
        .write("pkg/same/Dockerfile", format!("{from}COPY . /src\nRUN umask >/mask; echo $TZ $LANG >/language; pwd >/here\n"));
    repository.write("pkg/moody/build.yml", build_yml("moody"));
    repository.write("pkg/moody/Dockerfile", format!("{from}RUN echo steady >/steady\nRUN read -r up rest </proc/uptime; echo $up >/seed; umask 077; echo x >/other\nENV A=1\n"));
    repository.commit("all");
    repository
}

#[test]
fn what_is_reproducible_is_the_same_and_what_is_not_is_named_by_file_and_step() {
    drop(Setup::require());
    let registry = Registry::start();
    let (repository, program) = (repository(&registry), Program::new());
    let run = |arguments: &[&str]| program.run(repository.path(), arguments);
    let names = || run(&["cache", "ls", "--json"]).success().stdout;
    run(&["build", "pkg/base"]).success();
    let before = names();

    let same = run(&["verify-repro", "--json", "pkg/same"]).success().json();
    assert_eq!(same["schema"], "pkgbuild.verify-repro/v1");
    assert_eq!(same["units"][0]["same"], true, "{same}");
    assert_eq!(same["units"].as_array().map(Vec::len), Some(1));

    let moody = run(&["verify-repro", "pkg/moody"]).exits_with(1);
    assert!(moody.stdout.contains("moody linux/amd64: not the same"), "{}", moody.stdout);
    assert!(moody.stdout.contains("/seed: content"), "{}", moody.stdout);
    assert!(moody.stdout.contains("RUN /bin/sh -c read -r up"), "{}", moody.stdout);
    assert!(!moody.stdout.contains("/steady:") && !moody.stdout.contains("/other:"), "{}", moody.stdout);

    assert_eq!(names(), before, "the user's cache has the names it had");
    let scratch = program.cache().join("pkgbuild/v1/scratch");
    assert_eq!(fs::read_dir(scratch).expect("a directory").count(), 1, "only the lock of makers is left");
}

#[test]
fn a_build_that_fails_ends_with_its_own_code() {
    drop(Setup::require());
    let registry = Registry::start();
    let (repository, program) = (repository(&registry), Program::new());
    repository.write("pkg/same/Dockerfile", "FROM scratch\nCOPY nothing /\n");
    program.run(repository.path(), &["verify-repro", "pkg/same"]).exits_with(1);
    program.run(repository.path(), &["verify-repro", "pkg/same", "--", "--no-such-option"]).exits_with(2);
}
