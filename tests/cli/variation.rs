//! `--target`, `--build-context` and `--no-cache-filter`.

use crate::support::{Program, Repository};

fn repository() -> Repository {
    let repository = Repository::new();
    repository.write("pkgbuild.yml", "defaults:\n  org: example.org/team\n  arches: [amd64]\n");
    repository.write("pkg/app/build.yml", "image: app\n").write("pkg/app/f", "of the package\n");
    repository.write(
        "pkg/app/Dockerfile",
        "FROM scratch AS files\nCOPY f /f\nFROM files AS debug\nENV DEBUG=1\nFROM scratch\nCOPY --from=files /f /f\n",
    );
    repository.write("other/f", "of a directory\n");
    repository.commit("all");
    repository
}

#[test]
fn another_image_is_built_under_another_name_only() {
    let (repository, program) = (repository(), Program::new());
    let run = |arguments: &[&str]| program.run(repository.path(), arguments);
    for flags in [["--target", "debug"], ["--build-context", "files=other"]] {
        let refused = run(&[&["--offline", "build", "pkg/app"], &flags[..]].concat()).exits_with(2);
        assert!(refused.stderr.contains("another image than the package's tag stands for"), "{}", refused.stderr);
    }
    let name = |out: String| out.trim().split('@').next().expect("a name").to_owned();
    let plain = run(&["--offline", "build", "pkg/app"]).success().stdout;
    let debug = run(&["--offline", "build", "--tag", "debug-{{.Hash}}", "--target", "debug", "pkg/app"]).success();
    assert!(debug.stdout.contains("app:debug-") && !debug.stdout.ends_with(plain.split('@').nth(1).expect("a digest")));
    // The same name again, with other files: what is there already is not taken for it.
    let with = ["--offline", "build", "--tag", "debug-{{.Hash}}", "--build-context", "files=other", "pkg/app"];
    let other = name(run(&with).success().stdout);
    assert_eq!(other, name(debug.stdout));
    let exported = program.cache().join("rootfs.tar");
    let exported = exported.to_str().expect("text");
    run(&["cache", "export", "--format", "filesystem", "-o", exported, &other]).success();
    let file = std::process::Command::new("tar").args(["-xOf", exported, "f"]).output().expect("tar runs");
    assert_eq!(String::from_utf8_lossy(&file.stdout), "of a directory\n");
    assert_eq!(run(&["--offline", "build", "pkg/app"]).success().stdout, plain, "the package's own image is as it was");
}

#[test]
fn what_is_named_must_be_there() {
    let (repository, program) = (repository(), Program::new());
    let run = |arguments: &[&str]| {
        program.run(repository.path(), &[&["--offline", "build", "--hash", "own", "pkg/app"], arguments].concat())
    };
    let error = run(&["--target", "debgu"]).exits_with(2).stderr;
    assert!(error.contains("no stage `debgu`") && error.contains("`debug`"), "{error}");
    let error = run(&["--build-context", "files=oci-layout://x"]).exits_with(2).stderr;
    assert!(error.contains("cache import"), "{error}");
    let warning = run(&["--no-cache-filter", "fiels"]).success().stderr;
    assert!(warning.contains("no stage is called `fiels`"), "{warning}");
}
