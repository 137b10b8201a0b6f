//! What the command line gives to steps, and that no file of the program ever holds it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{Program, Repository, Run};

const VALUE: &str = "s3cret-value-of-the-test";

struct World {
    repository: Repository,
    program: Program,
}

impl World {
    /// Returns a repository with a package `app` made of busybox alone, whose last instructions are `instructions`.
    fn new(build_yml: &str, instructions: &str) -> Self {
        let repository = Repository::new();
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let bytes = fs::read(busybox.expect("busybox-static is installed: run scripts/setup")).expect("reads");
        repository
            .write("pkg/app/build.yml", format!("image: app\norg: 127.0.0.1:1/test\narches: [{}]\n{build_yml}", host()))
            .write("pkg/app/busybox", bytes)
            .make_executable("pkg/app/busybox")
            .write(
                "pkg/app/Dockerfile",
                format!("FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/busybox\n{instructions}\n"),
            );
        repository.commit("packages");
        fs::write(repository.path().parent().expect("a home").join("token"), format!("{VALUE}\n")).expect("writes");
        Self { repository, program: Program::new() }
    }

    #[must_use = "a run that nobody looks at proves nothing"]
    #[track_caller]
    fn build(&self, flags: &[&str]) -> Run {
        self.program.run(self.repository.path(), &[["build", "--offline"].as_slice(), flags].concat())
    }

    /// Asserts that neither the program's files nor what it printed hold the value.
    #[track_caller]
    fn assert_hidden(&self, run: &Run) {
        assert!(!run.stdout.contains(VALUE) && !run.stderr.contains(VALUE), "{}{}", run.stdout, run.stderr);
        assert_eq!(files_with(self.program.home(), VALUE), Vec::<String>::new());
    }
}

fn host() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn files_with(directory: &Path, value: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("reads") {
        let path = entry.expect("reads").path();
        let Ok(kind) = path.symlink_metadata().map(|found| found.file_type()) else { continue };
        if kind.is_dir() {
            found.extend(files_with(&path, value));
        } else if kind.is_file() && fs::read(&path).unwrap_or_default().windows(value.len()).any(|w| w == value.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn secrets_come_from_files_and_variables_and_show_up_nowhere() {
    let world = World::new(
        "secrets: [token, word]\n",
        "RUN --mount=type=secret,id=token --mount=type=secret,id=word,env=WORD busybox cat /run/secrets/token; echo word $WORD\n\
         RUN --mount=type=secret,id=unlisted busybox test ! -e /run/secrets/unlisted",
    );
    let run = |flags: &[&str]| {
        let mut command = world
            .program
            .command(world.repository.path(), &[["build", "--offline", "--progress", "json"].as_slice(), flags].concat());
        command.env("THE_WORD", VALUE);
        String::from_utf8(command.output().expect("starts").stderr).expect("text")
    };
    let told =
        run(&["--secret", "id=token,src=../token", "--secret", "id=word,env=THE_WORD", "--secret", "id=unlisted,src=../token"]);
    assert!(told.contains("word ***") && told.contains("\"***\\n") && !told.contains(VALUE), "{told}");
    assert!(told.contains("\"outcome\":\"built\""), "a secret that build.yml does not name is not given: {told}");
    assert_eq!(files_with(world.program.home(), VALUE), Vec::<String>::new());
    let logs = fs::read_dir(world.program.cache().join("pkgbuild/v1/logs")).expect("logs are kept").count();
    assert_eq!(logs, 1);
}

#[test]
fn what_build_yml_names_must_be_given_and_found() {
    let world = World::new("secrets: [token]\nssh: [git]\n", "RUN true");
    let run = world.build(&[]).exits_with(2);
    assert!(run.stderr.contains("`app` needs the secret `token`") && run.stderr.contains("--secret id=token"), "{}", run.stderr);
    let run = world.build(&["--secret", "id=token,src=../token"]).exits_with(2);
    assert!(run.stderr.contains("needs the SSH agent `git`"), "{}", run.stderr);
    for (flags, said) in [
        (["--secret", "id=token,src=absent"], "cannot read the secret in"),
        (["--secret", "id=token,env=ABSENT"], "the variable `ABSENT` is not set"),
        (["--secret", "id=token"], "cannot read the secret in"),
        (["--secret", "token"], "is no `key=value`"),
        (["--ssh", "default"], "SSH_AUTH_SOCK is not set"),
        (["--ssh", "git=../token"], "keys are not read from files"),
    ] {
        let run = world.build(&flags).exits_with(2);
        assert!(run.stderr.contains(said), "{flags:?}: {}", run.stderr);
    }
}

#[test]
fn a_secret_in_a_layer_fails_the_build_with_the_files_name() {
    let world = World::new("", "RUN --mount=type=secret,id=token busybox cp /run/secrets/token /kept");
    let run = world.build(&["--secret", "id=token,src=../token"]).exits_with(1);
    assert!(run.stderr.contains("the file `/kept` in the step's layer holds the value of the secret `token`"), "{}", run.stderr);
    world.assert_hidden(&run);
}

#[test]
fn a_killed_run_leaves_no_secret_behind() {
    let world = World::new(
        "",
        "RUN --mount=type=secret,id=token --mount=type=secret,id=token,env=TOKEN busybox echo started; busybox sleep 60",
    );
    let flags = ["build", "--offline", "--progress", "plain", "--secret", "id=token,src=../token"];
    let mut command = world.program.command(world.repository.path(), &flags);
    let temporary = world.program.home().join("tmp");
    fs::create_dir(&temporary).expect("creates");
    let log = world.program.home().join("stderr");
    command.env("TMPDIR", &temporary).stderr(fs::File::create(&log).expect("creates")).process_group(0);
    let mut running = command.spawn().expect("starts");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !fs::read_to_string(&log).expect("reads").contains("started\n") {
        assert!(Instant::now() < deadline, "{}", fs::read_to_string(&log).expect("reads"));
        sleep(Duration::from_millis(10));
    }
    running.kill().expect("it is ours");
    running.wait().expect("it is ours");
    assert_eq!(files_with(world.program.home(), VALUE), Vec::<String>::new());
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc");
    assert!(!mounts.contains(world.program.home().to_str().expect("text")), "{mounts}");
}
