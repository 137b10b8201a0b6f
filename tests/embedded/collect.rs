//! Builders and collectors of one cache, in processes of their own.
//!
//! Children are this test program itself, which runs the one ignored test [`child`].

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pkgbuild::builder::embedded::EmbeddedBuilder;
use pkgbuild::builder::embedded::collect::{Action, Fate, Go, Kind, Limits, collect};
use pkgbuild::builder::embedded::sandbox::Sandbox;
use pkgbuild::store::{GRACE, Repair, Store};

use crate::fixture::{Built, Test};

/// Says to a child what it does, and where.
const TASK: &str = "PKGBUILD_TEST_CHILD";

fn spawn(directory: &tempfile::TempDir, task: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "collect::child", "--ignored", "--nocapture"])
        .env(TASK, format!("{task}:{}", directory.path().display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("starts")
}

/// Opens the cache of a test like another process does: with a lease of its own.
fn reopen(test: &mut Test, directory: &Path) {
    test.store = Store::open(&directory.join("cache")).expect("opens");
    let sandbox = Sandbox::of_program(Path::new(env!("CARGO_BIN_EXE_pkgbuild")));
    test.builder = Arc::new(EmbeddedBuilder::open(test.store.clone(), sandbox, 2).expect("opens"));
}

/// Prepares a context whose steps start Debian's static busybox from an image of nothing else.
fn with_steps(test: &mut Test, text: &str) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let bytes = std::fs::read(busybox.expect("busybox-static is installed: run scripts/setup")).expect("reads");
    test.write("busybox", &bytes);
    test.dockerfile(&format!("FROM scratch AS base\nCOPY --chmod=755 busybox /bin/busybox\n{text}"));
}

#[tokio::test]
#[ignore = "the part of a child process in other tests"]
async fn child() {
    #[expect(clippy::disallowed_methods, reason = "the parent's word")]
    let Ok(task) = std::env::var(TASK) else { return };
    let (task, directory) = task.split_once(':').expect("task:directory");
    let directory = Path::new(directory);
    match task.split_once('=').expect("what=which") {
        ("build", which) => {
            let which: usize = which.parse().expect("a number");
            let mut test = Test::new();
            // What one builder makes another one wants again, two builds later: in between, nobody uses it.
            for n in which * 2..which * 2 + 10 {
                reopen(&mut test, directory);
                test.write("own", n.to_string().as_bytes());
                with_steps(
                    &mut test,
                    "RUN [\"/bin/busybox\", \"touch\", \"/shared\"]\nCOPY own /own\nRUN [\"/bin/busybox\", \"cp\", \"/own\", \"/copy\"]\n\
                     FROM base\nCOPY --from=base /copy /result\nRUN --mount=type=cache,target=/c [\"/bin/busybox\", \"touch\", \"/c/x\"]\n",
                );
                let built = test.build().await;
                assert_eq!(test.file(&built, "result"), n.to_string());
            }
        }
        ("collect", which) => {
            let limits = Limits { max_size: Some(0), ..Limits::default() };
            let mut deleted = String::new();
            while !directory.join("stop").exists() {
                let store = Store::open(&directory.join("cache")).expect("opens");
                let outcome = collect(&store, &limits, GRACE, Action::Delete).expect("collects");
                let layers = outcome
                    .things
                    .into_iter()
                    .filter(|thing| thing.kind == Kind::Layer && thing.fate == Fate::Goes(Go::LeastRecent));
                layers.for_each(|layer| deleted.push_str(&format!("{}\n", layer.name)));
            }
            std::fs::write(directory.join(format!("deleted-{which}")), deleted).expect("writes");
        }
        ("once", _) => {
            let mut test = Test::new();
            reopen(&mut test, directory);
            // What a step leaves elsewhere tells how often it ran.
            with_steps(
                &mut test,
                "RUN --mount=type=cache,id=count,target=/count [\"/bin/busybox\", \"sh\", \"-c\", \
                 \"/bin/busybox sleep 0.3; echo ran >> /count/runs\"]\n",
            );
            test.build().await.image();
        }
        (other, _) => panic!("{other}"),
    }
}

fn wait(children: Vec<Child>) {
    for mut child in children {
        assert!(child.wait().expect("waits").success());
    }
}

#[test]
fn builders_lose_no_layer_while_collectors_take_all_they_may() {
    // No builder lives in this process: its lease would keep everything.
    let directory = tempfile::tempdir().expect("temp dir");
    let children: Vec<Child> = (0..3).map(|n| spawn(&directory, &format!("build={n}"))).collect();
    let collectors = (0..2).map(|n| spawn(&directory, &format!("collect={n}"))).collect();
    wait(children);
    std::fs::write(directory.path().join("stop"), "").expect("writes");
    wait(collectors);
    let deleted = |n| std::fs::read_to_string(directory.path().join(format!("deleted-{n}"))).expect("a collector's word");
    assert_ne!((deleted(0) + &deleted(1)).lines().count(), 0, "the collectors had something to take");
    let store = Store::open(&directory.path().join("cache")).expect("opens");
    assert_eq!(store.verify(Repair::No, &|_, _| {}).expect("verifies").faults.len(), 0);
    let left: Vec<_> = std::fs::read_dir(store.directory().join("pkgbuild/v1/drafts")).expect("reads").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_step_that_several_processes_want_runs_once() {
    let directory = tempfile::tempdir().expect("temp dir");
    wait((0..4).map(|_| spawn(&directory, "once=0")).collect());
    let mounts = directory.path().join("cache/pkgbuild/v1/mounts");
    let cache = std::fs::read_dir(mounts).expect("reads").next().expect("one cache").expect("reads").path();
    assert_eq!(std::fs::read_to_string(cache.join("shared/runs")).expect("ran"), "ran\n");
}

#[tokio::test]
async fn a_cache_mount_belongs_to_its_namespace_and_buildkits_argument_names_another() {
    let mut test = Test::new();
    with_steps(
        &mut test,
        "RUN --mount=type=cache,id=go,target=/c [\"/bin/busybox\", \"sh\", \"-c\", \
         \"echo one >> /c/log; /bin/busybox cp /c/log /log\"]\n",
    );
    let mut request = test.request.clone();
    request.cache = pkgbuild::builder::CacheUse::WriteOnly;
    let lines = |test: &Test, built: &Built| test.file(built, "log").lines().count();
    let mut seen = Vec::new();
    for (namespace, argument) in [("a", ""), ("a", ""), ("b", ""), ("b", "x"), ("a", "x"), ("a", "")] {
        request.keeping.cache_namespace = namespace.to_owned();
        request.args.clear();
        if !argument.is_empty() {
            request.args.insert("BUILDKIT_CACHE_MOUNT_NS".to_owned(), argument.to_owned());
        }
        let built = test.build_request(&request).await;
        assert_eq!(built.warnings(), [""; 0]);
        seen.push(lines(&test, &built));
    }
    assert_eq!(seen, [1, 2, 1, 1, 2, 3]);
}
