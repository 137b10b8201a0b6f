//! SIGKILL at any moment loses time, never anything else.

use crate::demo::{self, PACKAGES, PLATFORMS};
use crate::support::{Program, Registry, Setup, variable};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Numbers that look random and are the same for the same seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Returns the seed of this run, and prints it.
#[expect(clippy::print_stderr, reason = "a run that failed is repeated with what stands in its output")]
pub fn seed() -> u64 {
    let seed = match variable("PKGBUILD_TEST_SEED") {
        Some(seed) => seed.parse().expect("PKGBUILD_TEST_SEED is a number"),
        None => std::process::id().into(),
    };
    eprintln!("PKGBUILD_TEST_SEED={seed}");
    seed
}

/// `PKGBUILD_TEST_PUSH_KILLS` says how many rounds (default 10; scripts/chaos asks for more), `PKGBUILD_TEST_SEED` repeats those
/// of another run.
#[test]
fn a_killed_run_leaves_nothing_behind_and_can_be_repeated() {
    let rounds: u32 =
        variable("PKGBUILD_TEST_PUSH_KILLS").map_or(10, |rounds| rounds.parse().expect("PKGBUILD_TEST_PUSH_KILLS is a number"));
    let mut random = Random(seed());

    let (setup, mut registry) = (Setup::require(), Registry::start());
    let repository = demo::packages(&setup, &format!("{}/demo", registry.address()));
    let push = ["push", "--platforms", PLATFORMS, "--progress", "plain"];
    let indexes = |program: &Program| -> Vec<String> {
        let tags = program.run(repository.path(), &[["show-tag", "--canonical"].as_slice(), &PACKAGES].concat()).success();
        let raw = |reference: &&str| setup.skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{reference}")]);
        tags.lines().iter().map(raw).collect()
    };

    let program = Program::new();
    let started = Instant::now();
    program.run(repository.path(), &push).success();
    let whole = started.elapsed();
    let expected = indexes(&program);

    for round in 0..rounds {
        registry.empty();
        let program = Program::new();
        let delay =
            Duration::from_micros(random.next() % u64::try_from(whole.as_micros()).expect("a run takes less than an age"));
        let mut running = program.command(repository.path(), &push).spawn().expect("the program can be started");
        sleep(delay);
        running.kill().expect("it is ours");
        running.wait().expect("it is ours");
        let moment = format!("round {round}, killed after {delay:?} of {whole:?}");

        assert_eq!(leaked_processes(program.home()), Vec::<String>::new(), "{moment}");
        assert_eq!(mentions(Path::new("/proc/self/mountinfo"), program.home()), Vec::<String>::new(), "{moment}");
        if program.cache().exists() {
            program.run(repository.path(), &["cache", "verify"]).success();
        }
        program.run(repository.path(), &push).success();
        assert_eq!(indexes(&program), expected, "{moment}");
        program.run(repository.path(), &["cache", "verify"]).success();
    }
}

#[test]
fn a_process_that_outlives_its_run_is_found() {
    let program = Program::new();
    let mut left = Command::new("sleep").arg("60").env("HOME", program.home()).spawn().expect("sleep is there");
    // The kernel tells a process's environment a moment after its program has begun.
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut found = Vec::new();
    while found.is_empty() && Instant::now() < deadline {
        found = processes_that_know(program.home());
    }
    left.kill().expect("it is ours");
    left.wait().expect("it is ours");
    assert_eq!(found, [format!("{}: sleep 60 ", left.id())]);
    assert_eq!(leaked_processes(program.home()), Vec::<String>::new());
}

/// Returns the processes that still know of `home`, by their environment, arguments or mounts, after they had time to end.
pub fn leaked_processes(home: &Path) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        // Looked at twice: one that is just being executed shows no environment yet.
        let mut found = processes_that_know(home);
        sleep(Duration::from_millis(20));
        found.extend(processes_that_know(home));
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
    }
}

fn processes_that_know(home: &Path) -> Vec<String> {
    let this = std::process::id().to_string();
    let processes =
        fs::read_dir("/proc").expect("proc is mounted").filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    processes
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && *name != this)
        .filter(|name| {
            ["environ", "cmdline", "mountinfo"]
                .iter()
                .any(|file| !mentions(&Path::new("/proc").join(name).join(file), home).is_empty())
        })
        .map(|name| {
            format!("{name}: {}", fs::read_to_string(format!("/proc/{name}/cmdline")).unwrap_or_default().replace('\0', " "))
        })
        .collect()
}

/// Returns the lines of a file that name `path`; a file that is gone has none.
pub fn mentions(file: &Path, path: &Path) -> Vec<String> {
    let text = fs::read(file).unwrap_or_default();
    let path = path.to_str().expect("a temporary path is UTF-8");
    String::from_utf8_lossy(&text).split(['\n', '\0']).filter(|line| line.contains(path)).map(str::to_owned).collect()
}
