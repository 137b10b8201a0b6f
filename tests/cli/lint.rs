//! `lint`: mistakes, refusals and checks, with their places and an exit code.

use crate::support::{Program, Repository};

fn repository(dockerfile: &str) -> Repository {
    let repository = Repository::new();
    repository
        .write("pkg/a/build.yml", "org: test\nimage: a\narches: [amd64, arm64]\n")
        .write("pkg/a/Dockerfile", dockerfile)
        .write("pkg/a/.dockerignore", "secret\n");
    repository
}

#[test]
fn a_check_is_told_once_with_its_place_name_and_help_and_fails_nothing() {
    let (program, repository) = (Program::new(), repository("FROM scratch\nCOPY secret /\n  CMD run\n"));
    let run = program.run(repository.path(), &["lint"]).success();
    assert_eq!(
        run.stdout,
        "warning: pkg/a/Dockerfile:2:1: COPY of `secret`, which the ignore file leaves out [CopyIgnoredFile]
  2 | COPY secret /
    | ^
  help: it is not in the context: take it out of the ignore file, or do not copy it
warning: pkg/a/Dockerfile:3:3: CMD goes through a shell [JSONArgsRecommended]
  3 |   CMD run
    |   ^
  help: write a JSON array: a shell in between keeps signals from the program
"
    );
    let found = program.run(repository.path(), &["lint", "--json"]).success().json();
    let found = &found["mistakes"][1];
    assert_eq!(
        (&found["rule"], &found["severity"], &found["line"], &found["column"]),
        (&"JSONArgsRecommended".into(), &"warning".into(), &3.into(), &3.into())
    );
}

#[test]
fn warnings_fail_where_the_caller_or_the_dockerfile_says_so() {
    let (program, plain) = (Program::new(), repository("FROM scratch\nCMD run\n"));
    program.run(plain.path(), &["lint", "--strict"]).exits_with(2);
    let strict = repository("# check=error=true\nFROM scratch\nCMD run\n");
    let run = program.run(strict.path(), &["lint"]).exits_with(2);
    assert!(run.stdout.starts_with("error: pkg/a/Dockerfile:3:1: CMD goes"), "{}", run.stdout);
    strict.commit("a package");
    let run = program.run(strict.path(), &["build", "--offline"]).exits_with(2);
    assert!(run.stderr.contains("[JSONArgsRecommended]"), "{}", run.stderr);
    let skipped = repository("# check=skip=JSONArgsRecommended;error=true\nFROM scratch\nCMD run\n");
    assert_eq!(program.run(skipped.path(), &["lint", "--strict"]).success().stdout, "");
}

#[test]
fn what_the_builder_refuses_is_told_by_lint_with_its_line() {
    let (program, repository) = (Program::new(), repository("FROM scratch\nRUN --security=insecure x\nRUN --device=a/b x\n"));
    let run = program.run(repository.path(), &["lint"]).exits_with(2);
    let told: Vec<&str> = run.stdout.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(told.len(), 2, "{}", run.stdout);
    assert!(told[0].starts_with("error: pkg/a/Dockerfile:2:1: ") && told[1].starts_with("error: pkg/a/Dockerfile:3:1: "));
}

#[test]
fn a_build_tells_in_one_line_for_all_platforms_that_there_are_checks_to_look_at() {
    let (program, repository) = (Program::new(), repository("FROM scratch\nCOPY build.yml /\nCMD run\n"));
    repository.commit("a package");
    let run = program.run(repository.path(), &["build", "--offline"]).success();
    let warnings: Vec<&str> = run.stderr.lines().filter(|line| line.contains("warning")).collect();
    let expected = "warning: a: pkg/a/Dockerfile: checks found 1 place: JSONArgsRecommended; `pkgbuild lint` shows where";
    assert_eq!(warnings, [expected]);
}
