//! A cache with builders in it, and what a collector takes.

use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::*;
use crate::builder::embedded::snapshot::{Snapshot, Snapshots};
use crate::builder::embedded::solve::testing::record;

struct Bench {
    directory: tempfile::TempDir,
    store: Store,
    snapshots: Option<Snapshots>,
}

/// A layer with the paths of its records.
struct Made {
    layer: String,
    snapshot: Snapshot,
    record: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let store = Store::open(&directory.path().join("cache")).expect("opens");
        // Its file is a part of what the cache takes, from now on.
        store.lease().expect("takes a lease");
        let snapshots = Some(Snapshots::open(store.directory()).expect("opens"));
        Self { directory, store, snapshots }
    }

    fn home(&self) -> PathBuf {
        self.store.directory().join("pkgbuild/v1")
    }

    /// Makes a layer with one file of `bytes` random bytes, used `age` seconds ago, with a record.
    fn layer(&self, parent: Option<&Made>, name: &str, bytes: usize, age: i64) -> Made {
        let snapshots = self.snapshots.as_ref().expect("a builder lives");
        let parent = parent.map_or_else(|| snapshots.scratch(), |made| made.snapshot.clone());
        let draft = snapshots.draft(&parent).expect("drafts");
        fs_err::write(draft.upper.join(name), vec![7; bytes]).expect("writes");
        let snapshot = snapshots.commit(draft).expect("commits");
        let layer = snapshot.layers.last().expect("a layer").to_string();
        let record = record(&self.home(), name, &layer, &snapshot.tree.id().to_string(), &parent.tree.id().to_string());
        set_age(&self.home().join("layers").join(&layer).join("changes"), age);
        set_age(&record, age);
        Made { layer, snapshot, record }
    }

    fn has(&self, made: &Made) -> bool {
        let layer = self.home().join("layers").join(&made.layer).exists();
        assert_eq!(layer, made.record.exists(), "a layer and its record go together");
        layer
    }

    fn collect(&self, max_size: u64) -> Outcome {
        let limits = Limits { max_size: Some(max_size), ..Limits::default() };
        collect(&self.store, &limits, Duration::ZERO, Action::Delete).expect("collects")
    }

    fn look(&self) -> Outcome {
        collect(&self.store, &Limits::default(), Duration::ZERO, Action::Look).expect("looks")
    }

    /// Ends the builder that made everything, so that nothing is in use any more.
    fn end(&mut self) {
        self.snapshots = None;
    }

    /// Returns what `du` says that the cache takes.
    fn du(&self) -> u64 {
        let output = Command::new("du").args(["-s", "--block-size=1"]).arg(self.store.directory()).output().expect("du runs");
        let text = String::from_utf8(output.stdout).expect("text");
        text.split_whitespace().next().expect("a number").parse().expect("a number")
    }
}

fn set_age(path: &std::path::Path, seconds: i64) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    let time = Timespec { tv_sec: now - seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("sets the time");
}

const MB: usize = 1_000_000;

#[test]
fn what_was_used_least_recently_goes_until_the_limit_holds_by_the_count_of_another_program() {
    let mut bench = Bench::new();
    let base = bench.layer(None, "base", MB, 900);
    let old = bench.layer(Some(&base), "old", 2 * MB, 800);
    let new = bench.layer(Some(&base), "new", 3 * MB, 100);
    let other = bench.layer(None, "other", 4 * MB, 500);
    bench.end();
    let whole = bench.du();
    assert_eq!(bench.look().before, whole, "du agrees");
    // `base` is the oldest, but `new` stands on it.
    let outcome = bench.collect(whole - 1_500_000);
    assert!(outcome.holds());
    assert_eq!([&base, &old, &new, &other].map(|made| bench.has(made)), [true, false, true, true]);
    assert!(bench.du() <= whole - 1_500_000);
    bench.collect(5 * MB as u64);
    assert_eq!([&base, &new, &other].map(|made| bench.has(made)), [true, true, false]);
    assert!(bench.du() <= 5 * MB as u64, "{}", bench.du());
    let outcome = bench.collect(0);
    assert!(!outcome.holds(), "directories stay");
    assert_eq!([&base, &new].map(|made| bench.has(made)), [false, false]);
    // Directories of records that are empty now went, too.
    assert!(bench.du() <= outcome.after && outcome.after - bench.du() <= 4 * 4096);
}

#[test]
fn looking_says_the_same_and_changes_nothing() {
    let mut bench = Bench::new();
    let base = bench.layer(None, "base", MB, 900);
    bench.layer(Some(&base), "old", 2 * MB, 800);
    bench.end();
    let list = || {
        let output = Command::new("find").arg(bench.directory.path()).args(["-printf", "%p %T@ %s\n"]).output().expect("runs");
        let mut lines: Vec<String> = String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect();
        // The collector's own lease and its lock come and go.
        lines.retain(|line| !line.contains("leases"));
        lines.sort();
        lines
    };
    let limits = Limits { max_size: Some(MB as u64), ..Limits::default() };
    let before = list();
    let looked = collect(&bench.store, &limits, Duration::ZERO, Action::Look).expect("looks");
    assert_eq!(list().len(), before.len());
    let deleted = collect(&bench.store, &limits, Duration::ZERO, Action::Delete).expect("collects");
    assert_eq!(looked.things, deleted.things);
    assert_eq!(looked.after, deleted.after);
    assert!(looked.things.iter().any(|thing| matches!(thing.fate, Fate::Goes(Go::LeastRecent))));
}

#[test]
fn what_a_living_builder_found_stays_and_is_said_to_be_in_use() {
    let mut bench = Bench::new();
    let (used, unused) = (bench.layer(None, "used", MB, 900), bench.layer(None, "unused", MB, 100));
    bench.end();
    let builder = Snapshots::open(bench.store.directory()).expect("opens");
    assert!(builder.load(&used.snapshot.layers).expect("loads").is_some());
    let outcome = bench.collect(0);
    assert_eq!([&used, &unused].map(|made| bench.has(made)), [true, false]);
    let thing = outcome.things.iter().find(|thing| thing.name == used.layer).expect("is listed");
    assert_eq!(thing.fate, Fate::Stays(Stay::InUse));
    drop(builder);
    bench.collect(0);
    assert!(!bench.has(&used));
}

#[test]
fn what_was_used_within_the_time_to_keep_stays_with_all_it_stands_on() {
    let mut bench = Bench::new();
    let base = bench.layer(None, "base", MB, 9000);
    let (top, old) = (bench.layer(Some(&base), "top", MB, 100), bench.layer(None, "old", MB, 9000));
    bench.end();
    let limits = Limits { max_size: Some(0), min_free: None, keep: Duration::from_secs(3600) };
    let outcome = collect(&bench.store, &limits, Duration::ZERO, Action::Delete).expect("collects");
    assert!(!outcome.holds());
    assert_eq!([&base, &top, &old].map(|made| bench.has(made)), [true, true, false]);
    let kept = outcome.things.iter().filter(|thing| thing.fate == Fate::Stays(Stay::Recent));
    assert_eq!(kept.filter(|thing| thing.kind == Kind::Layer).count(), 2);
}

#[test]
fn what_nothing_leads_to_goes_without_any_limit() {
    let mut bench = Bench::new();
    let (kept, lost, dead) =
        (bench.layer(None, "kept", MB, 10), bench.layer(None, "lost", MB, 10), bench.layer(None, "dead", 1, 10));
    fs_err::remove_file(&lost.record).expect("removes");
    fs_err::remove_dir_all(bench.home().join("layers").join(&dead.layer)).expect("removes");
    bench.end();
    fs_err::create_dir_all(bench.home().join("drafts/1-2-3.0/fs")).expect("creates");
    let outcome = collect(&bench.store, &Limits::default(), Duration::ZERO, Action::Delete).expect("collects");
    assert!(outcome.holds());
    assert!(bench.has(&kept));
    assert!(!bench.home().join("layers").join(&lost.layer).exists());
    assert!(!dead.record.exists());
    assert_eq!(fs_err::read_dir(bench.home().join("drafts")).expect("reads").count(), 0);
}

#[test]
fn a_file_that_layers_share_is_freed_with_the_last_of_them() {
    let mut bench = Bench::new();
    let (one, two) = (bench.layer(None, "one", 3 * MB, 900), bench.layer(None, "two", 1, 100));
    let layers = bench.home().join("layers");
    fs_err::hard_link(layers.join(&one.layer).join("fs/one"), layers.join(&two.layer).join("fs/one")).expect("links");
    bench.end();
    let whole = bench.du();
    assert_eq!(bench.look().before, whole);
    // Taking away one of them frees nothing, so both have to go.
    bench.collect(whole - 1_000_000);
    assert_eq!([&one, &two].map(|made| bench.has(made)), [false, false]);
    assert!(bench.du() <= whole - 1_000_000);
}

#[test]
fn a_cache_mount_in_use_stays_and_another_goes_with_its_lock() {
    let mut bench = Bench::new();
    bench.end();
    for name in ["a/shared", "b/private-0"] {
        let path = bench.home().join("mounts").join(name);
        fs_err::create_dir_all(&path).expect("creates");
        fs_err::write(path.join("f"), vec![1; MB]).expect("writes");
        let lock = bench.home().join("mounts").join(format!("{name}.lock"));
        fs_err::write(&lock, "").expect("writes");
        set_age(&lock, 100);
    }
    let held = crate::sys::fs::Lock::share(&bench.home().join("mounts/a/shared.lock")).expect("locks");
    let outcome = bench.collect(0);
    let thing = outcome.things.iter().find(|thing| thing.name == "a/shared").expect("is listed");
    assert_eq!(thing.fate, Fate::Stays(Stay::InUse));
    assert!(bench.home().join("mounts/a/shared/f").exists());
    assert!(!bench.home().join("mounts/b").exists());
    drop(held);
    bench.collect(0);
    assert!(!bench.home().join("mounts/a").exists());
}

#[test]
fn a_link_that_somebody_put_into_the_cache_leads_a_collector_nowhere() {
    let mut bench = Bench::new();
    bench.end();
    let outside = bench.directory.path().join("outside");
    fs_err::create_dir_all(outside.join("mounts/x/shared")).expect("creates");
    fs_err::write(outside.join("mounts/x/shared/canary"), "alive").expect("writes");
    fs_err::os::unix::fs::symlink(&outside, bench.home().join("layers/link")).expect("links");
    fs_err::create_dir_all(bench.home().join("mounts/m/shared")).expect("creates");
    fs_err::os::unix::fs::symlink(&outside, bench.home().join("mounts/m/shared/link")).expect("links");
    // A directory of the cache that is a link is refused as a whole.
    let limits = Limits { max_size: Some(0), ..Limits::default() };
    collect(&bench.store, &limits, Duration::ZERO, Action::Delete).expect_err("no directory");
    fs_err::remove_file(bench.home().join("layers/link")).expect("removes");
    bench.collect(0);
    assert!(!bench.home().join("mounts/m").exists());
    fs_err::os::unix::fs::symlink(outside.join("mounts"), bench.home().join("moved")).expect("links");
    fs_err::remove_dir(bench.home().join("mounts")).expect("is empty");
    fs_err::rename(bench.home().join("moved"), bench.home().join("mounts")).expect("moves");
    collect(&bench.store, &limits, Duration::ZERO, Action::Delete).expect_err("a link is no directory");
    assert!(outside.join("mounts/x/shared/canary").exists());
}

#[test]
fn layers_of_users_with_other_ids_count_and_go_like_all_others() {
    let mut bench = Bench::new();
    bench.end();
    let form = bench.home().join("forms/subids-0");
    fs_err::create_dir_all(form.join("layers/a/fs")).expect("creates");
    fs_err::write(form.join("layers/a/fs/f"), vec![1; MB]).expect("writes");
    fs_err::create_dir_all(form.join("mounts/m/shared")).expect("creates");
    fs_err::write(form.join("form"), "subids-0").expect("writes");
    let whole = bench.du();
    assert_eq!(bench.look().before, whole);
    let names: Vec<String> = bench.look().things.into_iter().map(|thing| thing.name).collect();
    assert!(names.contains(&"subids-0/a".to_owned()) && names.contains(&"subids-0/m/shared".to_owned()), "{names:?}");
    // A builder of that form that is at work keeps its drafts, and counts like any other.
    fs_err::create_dir_all(form.join("leases")).expect("creates");
    let living = crate::sys::fs::Lock::acquire(&form.join("leases/boot-1-0"), crate::sys::fs::LockKind::Flock).expect("locks");
    fs_err::create_dir_all(form.join("drafts/boot-1-0.0/fs")).expect("creates");
    bench.collect(0);
    assert!(form.join("drafts/boot-1-0.0/fs").exists() && !form.join("layers/a").exists());
    drop(living);
    bench.collect(0);
    assert!(!form.join("drafts/boot-1-0.0").exists() && !form.join("mounts/m").exists());
}

#[test]
fn names_keep_their_content_and_what_is_in_the_way_is_said() {
    let mut bench = Bench::new();
    bench.end();
    let root = crate::store::tests::image(&bench.store, "amd64", &"x".repeat(MB));
    bench.store.set_roots(&[("r/a:1".into(), root)]).expect("names");
    bench.store.write("text/plain", &vec![1; MB]).expect("writes");
    drop(std::mem::replace(&mut bench.store, Store::open(&bench.directory.path().join("cache")).expect("opens")));
    let outcome = bench.collect(0);
    assert!(!outcome.holds());
    let blobs = |fate: Fate| outcome.things.iter().filter(|thing| thing.kind == Kind::Blob && thing.fate == fate).count();
    assert_eq!((blobs(Fate::Stays(Stay::Named)), blobs(Fate::Goes(Go::Unneeded))), (3, 1));
    assert_eq!(bench.store.verify(crate::store::Repair::No, &|_, _| {}).expect("verifies").faults.len(), 0);
    assert_eq!(outcome.after, bench.du());
}
