//! Steps that fail, are kept, entered and removed.

use crate::support::{Program, Repository};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A package whose last RUN step fails, after it wrote a file.
fn failing() -> Repository {
    let repository = Repository::new();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    repository.write("pkg/one/busybox", fs::read(busybox.expect("setup has installed busybox-static")).expect("reads"));
    repository.write("pkg/one/build.yml", "image: one\norg: test\n").write(
        "pkg/one/Dockerfile",
        r#"FROM scratch AS other
COPY build.yml /other
FROM scratch
COPY --chmod=755 busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir /work && chmod 777 /work
ENV SAID=hello
WORKDIR /work
USER 7:8
RUN --mount=type=secret,id=key,required=true --mount=type=bind,from=other,target=/mnt --mount=type=cache,target=/kept,uid=7 \
    test -s /run/secrets/key && echo cached > /kept/x && echo made > /work/file; exit 3
"#,
    );
    repository.write("key", "the very secret key\n");
    repository.commit("package");
    repository
}

/// Builds with `--keep-failed` and returns the id that the failure names.
fn keep(program: &Program, repository: &Repository) -> String {
    let build = ["build", "--offline", "--platform", "local", "--keep-failed", "--secret", "id=key,src=key"];
    let run = program.run(repository.path(), &build).exits_with(1);
    let words = run.stderr.split("`pkgbuild debug exec ").nth(1).unwrap_or_else(|| panic!("no id in {}", run.stderr));
    words.split('`').next().expect("text before").to_owned()
}

fn steps(program: &Program) -> PathBuf {
    program.cache().join("pkgbuild/v1/steps")
}

#[test]
fn a_failed_step_is_entered_as_it_was_and_removed() {
    let (program, repository) = (Program::new(), failing());
    let id = keep(&program, &repository);
    let list = program.run(repository.path(), &["debug", "ls", "--json"]).success().json();
    assert_eq!(list["schema"], "pkgbuild.debug-ls/v1");
    assert_eq!((&list["steps"][0]["id"], &list["steps"][0]["outcome"]), (&id.clone().into(), &"exited with status 3".into()));
    assert_eq!(list["steps"][0]["notGiven"], serde_json::json!(["secret key"]));

    let exec = |command: &[&str]| program.run(repository.path(), &[&["debug", "exec", &id], command].concat());
    let seen =
        exec(&["sh", "-c", "id -u; id -g; pwd; echo $SAID $HOME; cat file /kept/x; ls /mnt /run/secrets/key 2>&1; hostname"])
            .success();
    let lines = [
        "7",
        "8",
        "/work",
        "hello /",
        "made",
        "cached",
        "ls: /run/secrets/key: No such file or directory",
        "/mnt:",
        "other",
        "pkgbuild",
    ];
    assert_eq!(seen.lines(), lines, "{}", seen.stderr);
    assert!(seen.stderr.contains("secret key"), "{}", seen.stderr);
    // What one command changes the next one sees; how it ends, the program ends.
    exec(&["sh", "-c", "echo more >> file"]).success();
    assert_eq!(exec(&["cat", "/work/file"]).success().stdout, "made\nmore\n");
    exec(&["sh", "-c", "exit 42"]).exits_with(42);
    exec(&["sh", "-c", "kill -9 $$"]).exits_with(137);
    let with = program.run(repository.path(), &["debug", "exec", "-e", "SAID=other", &id, "sh", "-c", "echo $SAID"]).success();
    assert_eq!(with.stdout, "other\n");

    let mut piped = program.command(repository.path(), &["debug", "exec", &id]);
    let mut piped = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    piped.stdin.take().expect("piped").write_all(b"echo from standard input\n").expect("writes");
    let piped = piped.wait_with_output().expect("ends");
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "from standard input\n");

    program.run(repository.path(), &["debug", "exec", "none"]).exits_with(2);
    assert_eq!(program.run(repository.path(), &["debug", "rm", &id]).success().stdout, format!("{id}\n"));
    assert_eq!(fs::read_dir(steps(&program)).expect("reads").count(), 0);
    exec(&["true"]).exits_with(2);
}

#[test]
fn with_a_terminal_the_step_has_one_of_its_own() {
    let (program, repository) = (Program::new(), failing());
    let id = keep(&program, &repository);
    let pkgbuild = env!("CARGO_BIN_EXE_pkgbuild");
    let inside = "test -t 0 && test -t 1 && echo a terminal; stty size; exec 3<>/dev/tty && echo it controls the session";
    let line = format!("stty rows 33 cols 99; {pkgbuild} debug exec {id} sh -c '{inside}'");
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("HOME", program.home()).env("SHELL", "/bin/sh");
    let output = command.current_dir(repository.path()).stdin(Stdio::null()).output().expect("util-linux has `script`");
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let wanted = "a terminal\n33 99\nit controls the session\n";
    assert!(text.contains(wanted), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_state_is_private_holds_no_secret_and_is_refused_when_it_is_another_versions() {
    let (program, repository) = (Program::new(), failing());
    let id = keep(&program, &repository);
    let state = steps(&program).join(&id).join("state.json");
    let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    assert_eq!((mode(&state), mode(&steps(&program))), (0o600, 0o700));
    let text = fs::read_to_string(&state).expect("reads");
    assert!(!text.contains("very secret"), "{text}");
    let everything = Command::new("grep").args(["-r", "-l", "very secret"]).arg(program.cache()).output().expect("greps");
    assert_eq!(String::from_utf8_lossy(&everything.stdout), "");
    fs::write(&state, text.replace("pkgbuild-step 1", "pkgbuild-step 2")).expect("writes");
    let refused = program.run(repository.path(), &["debug", "exec", &id, "true"]).exits_with(2);
    assert!(refused.stderr.contains("pkgbuild-step 2"), "{}", refused.stderr);
    assert!(program.run(repository.path(), &["debug", "ls"]).success().stderr.contains("pkgbuild-step 2"));
    program.run(repository.path(), &["debug", "rm", "--all"]).success();
    assert!(!state.exists());
}

#[test]
fn a_collector_counts_kept_steps_and_takes_one_before_the_layers_it_stands_on() {
    let (program, repository) = (Program::new(), failing());
    let id = keep(&program, &repository);
    let looked = program.run(repository.path(), &["cache", "gc", "--max-size", "0", "--dry-run", "--json"]).exits_with(4).json();
    let things = looked["things"].as_array().expect("a list");
    let position = |kind: &str| things.iter().position(|thing| thing["kind"] == kind && thing["goes"] == true);
    let (step, layer) = (position("failed step").expect("goes"), position("layer").expect("goes"));
    assert!(step < layer, "{things:#?}");
    assert_eq!(things[step]["name"], id.as_str());
    program.run(repository.path(), &["debug", "exec", &id, "true"]).success();
    let _ = program.run(repository.path(), &["cache", "gc", "--max-size", "0"]).exits_with(4);
    assert_eq!(fs::read_dir(steps(&program)).expect("reads").count(), 0);
}

#[test]
fn without_being_asked_nothing_is_kept() {
    let (program, repository) = (Program::new(), failing());
    let build = ["build", "--offline", "--platform", "local", "--secret", "id=key,src=key"];
    let run = program.run(repository.path(), &build).exits_with(1);
    assert!(!run.stderr.contains("debug exec"), "{}", run.stderr);
    assert!(!steps(&program).exists());
    assert_eq!(program.run(repository.path(), &["debug", "ls"]).success().lines().len(), 1);
}
