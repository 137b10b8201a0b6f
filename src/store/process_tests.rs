//! Rules between processes: many writers, a writer killed at any moment, a disk that fills up.
//!
//! Children are this test program itself, which runs the one ignored test [`child`].

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::tests::{image, index, name, store};
use super::*;
use crate::diagnostic::ErrorClass;
use crate::oci::Platform;

/// Says to a child which cache it works on and what it does there.
const TASK: &str = "PKGBUILD_TEST_CHILD";

fn spawn(store: &Store, task: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "store::process_tests::child", "--ignored", "--nocapture"])
        .env(TASK, format!("{task}:{}", store.directory().display()))
        .stdout(Stdio::null())
        .spawn()
        .expect("starts")
}

#[test]
#[ignore = "the part of a child process in other tests"]
fn child() {
    #[expect(clippy::disallowed_methods, reason = "the parent's word")]
    let Ok(task) = std::env::var(TASK) else { return };
    let (task, directory) = task.split_once(':').expect("task:directory");
    let store = Store::open(Path::new(directory)).expect("opens");
    match task.split_once('=').expect("what=which") {
        ("name", which) => {
            for n in 0..12 {
                let root = index(&store, vec![image(&store, "amd64", &format!("{which} {n}")), image(&store, "arm64", "shared")]);
                name(&store, &format!("r/{which}:{n}"), &root);
            }
        }
        ("loop", _) => {
            for n in 0.. {
                let root = index(&store, vec![image(&store, "amd64", &format!("{n} {}", "x".repeat(200_000)))]);
                name(&store, &format!("r/loop:{}", n % 3), &root);
            }
        }
        ("collect", _) => {
            let until = Instant::now() + Duration::from_millis(1500);
            while Instant::now() < until {
                store.collect(Duration::ZERO).expect("collects");
            }
        }
        (other, _) => panic!("{other}"),
    }
}

fn clean(store: &Store) -> Verified {
    let verified = store.verify(Repair::No, &|_, _| {}).expect("verifies");
    assert!(verified.faults.is_empty(), "{:?}", verified.faults);
    verified
}

#[test]
fn many_processes_lose_no_name_and_no_content_while_collectors_run() {
    let (_keep, store) = store();
    let mut children: Vec<Child> = (0..6).map(|n| spawn(&store, &format!("name={n}"))).collect();
    children.extend((0..2).map(|_| spawn(&store, "collect=0")));
    for mut child in children {
        assert!(child.wait().expect("waits").success());
    }
    let roots = store.roots().expect("reads");
    assert_eq!(roots.len(), 72);
    for root in roots.iter() {
        for architecture in ["amd64", "arm64"] {
            let found = roots.lookup(&root.name, &Platform::linux(architecture)).expect("looks");
            assert!(matches!(found, Presence::Complete(_)), "{}: {found:?}", root.name);
        }
    }
    clean(&store);
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_cache_without_fault() {
    let (_keep, store) = store();
    let mut named = 0;
    for n in 0..40_u64 {
        let mut child = spawn(&store, "loop=0");
        std::thread::sleep(Duration::from_millis(5 + n * 7 % 120));
        child.kill().expect("kills");
        child.wait().expect("waits");
        clean(&store);
        named = store.roots().expect("reads").len();
    }
    assert_eq!(named, 3, "the writers got as far as writing");
    // What they left unfinished goes, and what they named stays.
    let collector = Store::open(store.directory()).expect("opens");
    std::thread::sleep(Duration::from_millis(20));
    collector.collect(Duration::ZERO).expect("collects");
    let verified = clean(&store);
    assert_eq!((verified.unreferenced, collector.files().expect("lists").len()), (0, verified.blobs));
}

/// A small file system, unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(kilobytes: u32) -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let options = std::ffi::CString::new(format!("size={kilobytes}k")).expect("no zeros");
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str())
            .expect("these tests run as root, who may mount");
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).expect("unmounts");
    }
}

#[test]
fn a_full_disk_is_said_to_be_full_and_what_was_there_stays() {
    let small = Small::mount(512);
    let store = Store::open(&small.0.path().join("cache")).expect("creates");
    let root = image(&store, "amd64", "x");
    name(&store, "r/a:1", &root);
    let mut writer = store.writer().expect("starts");
    let error = (0..1024).find_map(|_| writer.write_all(&[7; 1024]).err()).expect("512 KiB cannot hold 1 MiB");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    drop(writer);
    // The same through the seam, and with not even room for a new index.json.
    let mut archive = Vec::new();
    let mut builder = tar::Builder::new(&mut archive);
    let mut header = tar::Header::new_ustar();
    header.set_size(2 << 20);
    builder.append_data(&mut header, "layer.tar", &vec![1; 2 << 20][..]).expect("memory");
    drop(builder);
    let full = store.import(&archive[..], None).expect_err("does not fit");
    assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
    assert_eq!(full.class(), ErrorClass::Damaged);
    let filler = fs_err::File::create(small.0.path().join("filler")).expect("creates");
    let mut filler = filler.into_parts().0;
    while filler.write_all(&[1; 4096]).is_ok() {}
    while filler.write_all(&[1; 64]).is_ok() {}
    let full = store.set_roots(&[("r/b:1".into(), root.clone())]).expect_err("no room");
    assert!(matches!(full, StoreError::Full { .. }), "{full:?}");
    assert_eq!(store.roots().expect("reads").iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["r/a:1"]);
    drop(filler);
    fs_err::remove_file(small.0.path().join("filler")).expect("removes");
    clean(&store);
    name(&store, "r/b:1", &root);
}

#[test]
fn a_cache_that_cannot_be_written_to_can_be_read() {
    let small = Small::mount(512);
    let directory = small.0.path().join("cache");
    let root = {
        let store = Store::open(&directory).expect("creates");
        let root = image(&store, "amd64", "x");
        name(&store, "r/a:1", &root);
        root
    };
    rustix::mount::mount_remount(small.0.path(), rustix::mount::MountFlags::RDONLY, "").expect("remounts");
    let store = Store::open(&directory).expect("opens");
    let found = store.roots().expect("reads").lookup("r/a:1", &Platform::linux("amd64")).expect("looks");
    assert_eq!(found, Presence::Complete(root.clone()));
    assert!(store.has(&root).expect("looks"));
    let mut out = Vec::new();
    store.export(&[Export { name: "r/a:1", platform: None, name_inside: None }], ArchiveFormat::Oci, &mut out).expect("exports");
    clean(&store);
    assert_eq!(store.usage().expect("adds up").images.len(), 1);
    assert!(store.writer().is_err());
}

#[test]
fn verifying_tells_damage_missing_and_dangling_apart_and_repair_removes_only_damage() {
    let (_keep, store) = store();
    let (a, b, c) = (image(&store, "amd64", "a"), image(&store, "amd64", "b"), image(&store, "amd64", "c"));
    for (n, root) in [("r/a:1", &a), ("r/b:1", &b), ("r/c:1", &c)] {
        name(&store, n, root);
    }
    let layer = |root| match store.document(root).expect("reads") {
        Some(crate::oci::Document::Manifest(manifest)) => manifest.layers[0].clone(),
        _ => panic!("no manifest"),
    };
    let (damaged, missing) = (layer(&a), layer(&b));
    let path = store.blob_path(&damaged.digest);
    let mut bytes = fs_err::read(&path).expect("reads");
    bytes[600] ^= 1;
    fs_err::write(path, bytes).expect("damages");
    fs_err::remove_file(store.blob_path(&missing.digest)).expect("removes");
    fs_err::remove_file(store.blob_path(&c.digest)).expect("removes");
    let verified = store.verify(Repair::RemoveDamaged, &|done, total| assert!(done <= total)).expect("verifies");
    let mut found = [false; 3];
    for fault in &verified.faults {
        match fault {
            Fault::Damaged { digest, images, .. } => found[0] = *digest == damaged.digest && *images == ["r/a:1"],
            Fault::Missing { name, digest } => found[1] = name == "r/b:1" && *digest == missing.digest,
            Fault::Dangling { name, digest } => found[2] = name == "r/c:1" && *digest == c.digest,
            other => panic!("{other}"),
        }
    }
    assert_eq!((found, verified.faults.len(), verified.removed), ([true; 3], 3, 1));
    let found = store.roots().expect("reads").lookup("r/a:1", &Platform::linux("amd64")).expect("looks");
    assert_eq!(found, Presence::Incomplete(vec![damaged]));
}

#[test]
fn usage_counts_what_is_shared_once() {
    let (_keep, store) = store();
    let shared = image(&store, "amd64", "shared");
    let (a, b) = (index(&store, vec![shared.clone()]), index(&store, vec![shared.clone(), image(&store, "arm64", "own")]));
    store
        .set_roots(&[("r/a:1".into(), a.clone()), ("r/a:release".into(), a.clone()), ("r/b:1".into(), b.clone())])
        .expect("names");
    store.write("text/plain", b"garbage").expect("writes");
    fs_err::create_dir_all(store.directory().join("pkgbuild/v1/layers")).expect("creates");
    fs_err::write(store.directory().join("pkgbuild/v1/layers/x"), vec![1; 10_000]).expect("writes");
    let usage = store.usage().expect("adds up");
    let rows: Vec<_> = usage.images.iter().map(|image| (image.names.join(" "), image.unique)).collect();
    let alone = usage.images[1].unique;
    assert_eq!(rows, [("r/a:1 r/a:release".to_owned(), a.size), ("r/b:1".to_owned(), alone)]);
    assert_eq!(usage.images[0].shared(), usage.images[1].shared());
    assert_eq!(usage.unreferenced, 7);
    assert_eq!(usage.blobs, a.size + usage.images[1].total + 7);
    assert!(usage.builder["layers"] >= 10_000);
}
