//! SIGKILL at any moment of a build, many times, in caches that live through many of them.

use crate::killed::{Random, leaked_processes, mentions, seed};
use crate::support::{Program, Repository, variable};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

/// How many states of the files are built in turn, all with one cache.
const STATES: u32 = 10;

/// Two stages of which one is built on from another, a step that writes to a cache mount, and one that reads a stage.
const DOCKERFILE: &str = r#"FROM scratch AS base
COPY --chmod=755 busybox /bin/busybox
FROM base AS made
COPY own /own
RUN ["/bin/busybox", "sh", "-c", "busybox cp /own /made; busybox dd if=/dev/zero of=/zeros bs=64k count=8 2>/dev/null"]
FROM base
RUN --mount=type=cache,target=/kept ["/bin/busybox", "sh", "-c", "echo $$ >> /kept/log; busybox mkdir -p /var/lib"]
COPY own /etc/own
RUN --mount=type=bind,from=made,target=/mnt ["/bin/busybox", "cp", "/mnt/made", "/mnt/zeros", "/var/lib/"]
"#;

/// `PKGBUILD_TEST_KILLS` says how many builds are killed (default 24; scripts/chaos asks for more), `PKGBUILD_TEST_WORKERS` how
/// many are under way at once (default 2), `PKGBUILD_TEST_SEED` repeats the moments of another run.
#[test]
fn builds_that_are_killed_leave_caches_in_which_later_builds_give_the_same_bytes() {
    let number = |name, default| variable(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")));
    let (kills, workers): (u32, u32) = (number("PKGBUILD_TEST_KILLS", 24), number("PKGBUILD_TEST_WORKERS", 2));
    let seed = seed();
    let started = Instant::now();
    let workers: Vec<_> = (0..workers)
        .map(|worker| (worker, kills / workers + u32::from(worker < kills % workers)))
        .map(|(worker, rounds)| spawn(move || work(worker, rounds, Random(seed ^ u64::from(worker) << 32))))
        .collect();
    let early = workers.into_iter().map(|worker| worker.join().expect("a worker found nothing wrong")).sum::<u32>();
    eprintln!("{kills} builds killed in {:?}; {early} of them had ended before", started.elapsed());
    assert!(kills < 8 || early < kills / 4 * 3, "builds are killed while they run, mostly");
}

/// Kills `rounds` builds and returns how many of them had ended before.
fn work(worker: u32, rounds: u32, mut random: Random) -> u32 {
    let repository = Repository::new();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    repository.write("pkg/one/busybox", fs::read(busybox.expect("setup has installed busybox-static")).expect("reads"));
    repository.write("pkg/one/build.yml", "image: one\norg: test\n").write("pkg/one/Dockerfile", DOCKERFILE);
    repository.write("pkg/one/own", "0\n");
    repository.commit("package");
    // Each state has a name of its own: an image that is there by its name is not built again.
    let state = |number: u32| {
        let name = format!("state-{}", number % STATES);
        repository.write("pkg/one/own", &name);
        name
    };
    fn build(hash: &str) -> [&str; 8] {
        ["build", "--offline", "--platform", "local", "--hash", hash, "--progress", "plain"]
    }
    let digests = |program: &Program, hash: &str| program.run(repository.path(), &build(hash)).success().stdout;
    let (mut expected, mut whole) = (Vec::new(), Duration::ZERO);
    for number in 0..STATES.min(rounds) {
        let hash = state(number);
        let program = Program::new();
        let started = Instant::now();
        expected.push(digests(&program, &hash));
        whole = whole.max(started.elapsed());
    }
    let (mut program, mut early) = (Program::new(), 0);
    for round in 0..rounds {
        if round % STATES == 0 {
            program = Program::new();
        }
        let hash = state(round);
        // What one build leaves in the cache, the next need not do.
        let whole = if round % STATES == 0 { whole } else { whole / 2 };
        let delay = Duration::from_micros(random.next() % u64::try_from(whole.as_micros()).expect("less than an age"));
        let mut command = program.command(repository.path(), &build(&hash));
        let mut running = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program can be started");
        sleep(delay);
        early += u32::from(running.try_wait().expect("it is ours").is_some());
        running.kill().expect("it is ours");
        running.wait().expect("it is ours");
        let moment = format!("worker {worker}, round {round}, killed after {delay:?} of {whole:?}");

        assert_eq!(leaked_processes(program.home()), Vec::<String>::new(), "{moment}");
        assert_eq!(mentions(Path::new("/proc/self/mountinfo"), program.home()), Vec::<String>::new(), "{moment}");
        if program.cache().exists() {
            program.run(repository.path(), &["cache", "verify"]).success();
        }
        if round % 3 == 2 {
            // A collector in between takes all it may, and breaks nothing either.
            let limit = ["cache", "gc", "--max-size", "1MB", "--quiet"];
            let _ = program.run(repository.path(), &limit);
        }
        assert_eq!(digests(&program, &hash), expected[(round % STATES) as usize], "{moment}");
        program.run(repository.path(), &["cache", "verify"]).success();
        let left: Vec<_> = fs::read_dir(program.cache().join("pkgbuild/v1/drafts"))
            .expect("a build makes it")
            .map(|entry| entry.expect("reads").file_name())
            .collect();
        assert!(left.is_empty(), "{moment}: {left:?}");
    }
    early
}
