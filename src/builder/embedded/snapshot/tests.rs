//! Rules of snapshots: what is on disk, and what remains when a process dies.

use super::super::testing::Bench;
use super::*;

fn commit(bench: &Bench, parent: &Snapshot, script: &str) -> Snapshot {
    let draft = bench.snapshots.draft(parent).expect("drafts");
    bench.in_overlay(&draft, script);
    bench.snapshots.commit(draft).expect("commits")
}

#[test]
fn a_commit_adds_exactly_one_layer_even_when_nothing_changed() {
    let bench = Bench::new();
    let one = commit(&bench, &bench.snapshots.scratch(), "true");
    let two = commit(&bench, &one, "true");
    assert_eq!((one.layers.len(), two.layers.len()), (1, 2));
    assert_eq!(two.layers[0], two.layers[1]);
    assert_eq!(two.tree.id(), bench.snapshots.scratch().tree.id());
    let three = commit(&bench, &two, "echo 1 > f");
    assert_eq!(three.tree.origin(b"f"), Some(2));
}

#[test]
fn a_layer_may_be_there_several_times() {
    let bench = Bench::new();
    let step = |parent: &Snapshot, script: &str| commit(&bench, parent, &format!("{script}; find . -exec touch -hd @5 {{}} +"));
    let put = "rm -rf d/gone e; echo 1 > d/f; echo file > e";
    let base = step(&bench.snapshots.scratch(), "mkdir d e; touch d/f d/gone e/x");
    let one = step(&base, put);
    let two = step(&one, "rm e; mkdir e; echo 2 > d/f; touch e/y d/gone");
    let three = step(&two, put);
    assert_eq!(one.layers[1], three.layers[3], "the case that is meant");
    super::super::testing::assert_mounts_as_its_tree(&bench, &three);
    let four = step(&three, "echo more > d/g");
    super::super::testing::assert_mounts_as_its_tree(&bench, &four);
}

#[test]
fn layers_that_are_gone_or_damaged_are_not_there() {
    let bench = Bench::new();
    let one = commit(&bench, &bench.snapshots.scratch(), "echo 1 > f");
    let two = commit(&bench, &one, "echo 2 > g");
    let directory = bench.layer(&two.layers[1]).parent().expect("has one").to_owned();
    fs_err::write(directory.join("changes"), "pkgbuild changes 1\njunk").expect("writes");
    let again = bench.again();
    assert!(again.load(&two.layers).expect("tells").is_none());
    assert!(!directory.exists(), "a damaged layer is deleted, so that it can be made again");
    assert!(again.load(&one.layers).expect("tells").is_some());
    assert!(bench.snapshots.load(&two.layers).expect("tells").is_none(), "memory does not hide it");
    assert_eq!(commit(&bench, &one, "touch -r f f; echo 2 > g").layers.len(), 2);
}

#[test]
fn files_are_read_through_links_and_layers() {
    let bench = Bench::new();
    let one = commit(
        &bench,
        &bench.snapshots.scratch(),
        "mkdir -p usr/etc; echo root > usr/etc/passwd; ln -s usr/etc etc; mkfifo fifo",
    );
    let two = commit(&bench, &one, "echo group > etc/group; ln -s fifo etc/trap");
    let read = |path: &str| {
        bench.snapshots.open_file(&two, path.as_bytes()).expect("opens").map(|file| io::read_to_string(file).expect("reads"))
    };
    assert_eq!(read("/etc/passwd").as_deref(), Some("root\n"));
    assert_eq!(read("etc/group").as_deref(), Some("group\n"));
    assert_eq!((read("etc"), read("etc/none"), read("etc/trap"), read("fifo")), (None, None, None, None));
}

#[test]
fn drafts_of_dead_processes_are_swept_and_those_of_living_ones_stay() {
    let bench = Bench::new();
    let draft = bench.snapshots.draft(&bench.snapshots.scratch()).expect("drafts");
    fs_err::write(draft.upper.join("f"), "x").expect("writes");
    let home = bench.path("cache/pkgbuild/v1");
    fs_err::create_dir_all(home.join("drafts/dead-1-0.0/fs/d")).expect("makes");
    fs_err::os::unix::fs::symlink(bench.path("cache"), home.join("drafts/dead-1-0.0/fs/link")).expect("links");
    fs_err::write(home.join("leases/dead-1-0"), "").expect("writes");
    let again = bench.again();
    assert!(!home.join("drafts/dead-1-0.0").exists() && !home.join("leases/dead-1-0").exists());
    assert!(draft.upper.join("f").exists(), "no link was followed and no living draft touched");
    drop(again);
    assert_eq!(fs_err::read_dir(home.join("leases")).expect("reads").count(), 1, "a lease ends with its process");
    let upper = draft.upper.clone();
    drop(draft);
    assert!(!upper.exists());
}

#[test]
fn layers_that_were_not_on_disk_when_the_machine_stopped_are_not_trusted() {
    let bench = Bench::new();
    let kept = commit(&bench, &bench.snapshots.scratch(), "echo 1 > f");
    bench.snapshots.sync().expect("syncs");
    let lost = commit(&bench, &bench.snapshots.scratch(), "echo 2 > f");
    let marks = bench.path("cache/pkgbuild/v1/unsynced");
    assert_eq!(fs_err::read_dir(&marks).expect("reads").count(), 1);
    assert!(bench.again().load(&lost.layers).expect("tells").is_some(), "the machine did not stop");
    fs_err::write(marks.join(lost.layers[0].to_string()), "another boot").expect("writes");
    let again = bench.again();
    assert!(again.load(&lost.layers).expect("tells").is_none());
    assert!(again.load(&kept.layers).expect("tells").is_some());
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    // The umask belongs to the process, so another one is asked: this test, as a child.
    let run = |mask: &str| {
        let test = std::env::current_exe().expect("known");
        let script = format!(
            "umask {mask}; TZ=Asia/Tokyo exec \"$0\" --exact --ignored --nocapture {}",
            "builder::embedded::snapshot::tests::print_a_layer"
        );
        let output = std::process::Command::new("sh").arg("-c").arg(script).arg(test).output().expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|line| line.split("layer ").nth(1)).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    assert_eq!(run("000"), run("077"));
}

#[test]
#[ignore = "run by another test with other umasks"]
fn print_a_layer() {
    let bench = Bench::new();
    let mut draft = bench.snapshots.draft(&bench.snapshots.scratch()).expect("drafts");
    super::super::copy::make_directory(&mut draft, b"a/b", (1, 1), 0o755, crate::time::SourceDate(5)).expect("makes");
    let snapshot = bench.snapshots.commit(draft).expect("commits");
    println!("layer {}", snapshot.layers[0]);
}
