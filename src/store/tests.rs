//! Rules of the store as a whole.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::oci::{Descriptor, Digest, ImageConfig, Index, Manifest, MediaType, Platform, Raw};

/// Returns a store in a new directory.
pub(super) fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().expect("temp dir");
    let store = Store::open(&directory.path().join("cache")).expect("creates");
    (directory, store)
}

/// Writes an image of one layer that holds `text`, and returns its manifest.
pub(crate) fn image(store: &Store, architecture: &str, text: &str) -> Descriptor {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", text.as_bytes()).expect("memory");
    let layer = store.write(MediaType::LAYER_TAR, &tar.into_inner().expect("memory")).expect("writes");
    let mut config = ImageConfig::scratch(Platform::linux(architecture));
    config.rootfs.diff_ids.push(crate::oci::DiffId(layer.digest));
    let config = store.write(MediaType::CONFIG, Raw::encode(config).bytes()).expect("writes");
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::MANIFEST.to_owned()),
        artifact_type: None,
        config,
        layers: vec![layer],
        subject: None,
        annotations: Default::default(),
    };
    let mut descriptor = store.write(MediaType::MANIFEST, Raw::encode(manifest).bytes()).expect("writes");
    descriptor.platform = Some(Platform::linux(architecture));
    descriptor
}

/// Writes an index of `children`.
pub(super) fn index(store: &Store, children: Vec<Descriptor>) -> Descriptor {
    store.write(MediaType::INDEX, Raw::encode(Index::new(children)).bytes()).expect("writes")
}

pub(super) fn name(store: &Store, name: &str, descriptor: &Descriptor) {
    store.set_roots(&[(name.to_owned(), descriptor.clone())]).expect("names");
}

fn blobs(store: &Store) -> usize {
    store.files().expect("lists").len()
}

/// Makes everything in the cache look as old as the epoch.
fn age(store: &Store) {
    for file in store.files().expect("lists") {
        let file = fs_err::File::options().write(true).open(file.path).expect("opens");
        file.file().set_modified(std::time::UNIX_EPOCH).expect("ages");
    }
}

#[test]
fn a_new_cache_has_linuxkits_files_byte_for_byte() {
    let (_keep, store) = store();
    let read = |name: &str| fs_err::read_to_string(store.directory().join(name)).expect(name);
    assert_eq!(read("oci-layout"), "{\n    \"imageLayoutVersion\": \"1.0.0\"\n}");
    assert_eq!(read("index.json"), r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#);
}

#[test]
fn a_name_is_written_as_linuxkit_writes_it() {
    let (_keep, store) = store();
    let manifest = image(&store, "amd64", "x");
    let root = index(&store, vec![manifest]);
    name(&store, "docker.io/org/a:1", &root);
    let expected = format!(
        r#"{{
   "schemaVersion": 2,
   "mediaType": "application/vnd.oci.image.index.v1+json",
   "manifests": [
      {{
         "mediaType": "application/vnd.oci.image.index.v1+json",
         "size": {},
         "digest": "{}",
         "annotations": {{
            "org.opencontainers.image.ref.name": "docker.io/org/a:1"
         }}
      }}
   ]
}}"#,
        root.size, root.digest
    );
    assert_eq!(fs_err::read_to_string(store.directory().join("index.json")).expect("reads"), expected);
}

#[test]
fn a_blob_is_named_by_its_bytes_and_nothing_remains_of_one_that_was_not_committed() {
    let (_keep, store) = store();
    let mut writer = store.writer().expect("starts");
    writer.write_all(b"hel").expect("writes");
    writer.write_all(b"lo").expect("writes");
    let descriptor = writer.commit("text/plain").expect("commits");
    assert_eq!(descriptor, Descriptor::of("text/plain", b"hello"));
    assert_eq!(&store.read(&descriptor).expect("reads")[..], b"hello");
    let mut writer = store.writer().expect("starts");
    writer.write_all(b"other").expect("writes");
    assert!(matches!(writer.commit_as(&descriptor), Err(StoreError::Refused { .. })));
    drop(store.writer().expect("starts"));
    assert_eq!(blobs(&store), 1);
}

#[test]
fn a_directory_of_something_else_is_not_made_a_cache() {
    let directory = tempfile::tempdir().expect("temp dir");
    fs_err::write(directory.path().join("thesis.tex"), "").expect("writes");
    assert!(matches!(Store::open(directory.path()), Err(StoreError::NotALayout { .. })));
    assert_eq!(fs_err::read_dir(directory.path()).expect("lists").count(), 1);
    assert!(Store::open_existing(directory.path()).expect("looks").is_none());
}

#[test]
fn a_lookup_tells_absent_incomplete_and_complete_apart() {
    let (_keep, store) = store();
    let (amd64, arm64) = (image(&store, "amd64", "a"), image(&store, "arm64", "b"));
    let root = index(&store, vec![amd64.clone(), arm64.clone()]);
    name(&store, "r/a:1", &root);
    name(&store, "r/a:1-arm64", &arm64);
    let platform = Platform::linux;
    let look =
        |name: &str, architecture: &str| store.roots().expect("reads").lookup(name, &platform(architecture)).expect("looks");
    assert_eq!(look("r/a:2", "amd64"), Presence::Absent);
    assert_eq!(look("r/a:1", "riscv64"), Presence::Absent);
    assert_eq!(look("r/a:1", "amd64"), Presence::Complete(amd64.clone()));
    assert_eq!(look("r/a:1-arm64", "arm64"), Presence::Complete(arm64));
    // linuxkit returns the image of a single-image name for any platform.
    assert_eq!(look("r/a:1-arm64", "amd64"), Presence::Absent);

    let layer = Descriptor::new(MediaType::LAYER_TAR, 0, Digest::of(b""));
    let Some(crate::oci::Document::Manifest(manifest)) = store.document(&amd64).expect("reads") else { panic!("no manifest") };
    let layer = Descriptor { media_type: layer.media_type, ..manifest.layers[0].clone() };
    fs_err::OpenOptions::new().write(true).open(store.blob_path(&layer.digest)).expect("opens").set_len(5).expect("cuts");
    assert_eq!(look("r/a:1", "amd64"), Presence::Incomplete(vec![layer]));
    fs_err::write(store.blob_path(&amd64.digest), vec![b'x'; amd64.size as usize]).expect("damages");
    assert_eq!(look("r/a:1", "amd64"), Presence::Incomplete(vec![amd64]));
    fs_err::remove_file(store.blob_path(&root.digest)).expect("removes");
    assert_eq!(look("r/a:1", "amd64"), Presence::Incomplete(vec![root]));
}

#[test]
fn a_name_is_refused_for_content_that_is_not_there() {
    let (_keep, store) = store();
    let manifest = image(&store, "amd64", "a");
    let absent = Descriptor::of(MediaType::MANIFEST, b"absent");
    // A platform that was never fetched is no fault.
    name(&store, "r/a:1", &index(&store, vec![manifest.clone(), absent.clone()]));
    let refused = store.set_roots(&[("r/a:2".into(), manifest.clone()), ("r/a:3".into(), absent)]);
    assert!(matches!(refused, Err(StoreError::Incomplete { .. })));
    assert_eq!(store.root("r/a:2").expect("reads"), None);
    let Some(crate::oci::Document::Manifest(parts)) = store.document(&manifest).expect("reads") else { panic!("no manifest") };
    fs_err::remove_file(store.blob_path(&parts.layers[0].digest)).expect("removes");
    assert!(matches!(store.set_roots(&[("r/a:2".into(), manifest)]), Err(StoreError::Incomplete { .. })));
}

#[test]
fn removing_a_name_deletes_only_what_no_other_name_needs() {
    let (_keep, store) = store();
    let (shared, own) = (image(&store, "amd64", "shared"), image(&store, "arm64", "own"));
    name(&store, "r/a:1", &index(&store, vec![shared.clone(), own]));
    name(&store, "r/b:1", &index(&store, vec![shared.clone()]));
    age(&store);
    let other = Store::open(store.directory()).expect("opens");
    assert_eq!(blobs(&store), 8);
    let (removed, collected) = other.remove(&["r/a:1".into(), "r/none:1".into()], Duration::ZERO).expect("removes");
    assert_eq!(removed, ["r/a:1"]);
    assert_eq!(collected.blobs, 4);
    let roots = store.roots().expect("reads");
    assert_eq!(roots.lookup("r/b:1", &Platform::linux("amd64")).expect("looks"), Presence::Complete(shared));
}

#[test]
fn the_collector_keeps_what_a_living_writer_wrote_or_found() {
    let (_keep, writer) = store();
    let unused = writer.write("text/plain", b"unused").expect("writes");
    let found = writer.write("text/plain", b"found").expect("writes");
    age(&writer);
    let written = writer.write("text/plain", b"written").expect("writes");
    assert!(writer.has(&found).expect("looks"));
    let collector = Store::open(writer.directory()).expect("opens");
    let collected = collector.collect(Duration::ZERO).expect("collects");
    assert_eq!((collected.blobs, collected.kept), (1, 2));
    for (blob, there) in [(&unused, false), (&found, true), (&written, true)] {
        assert_eq!(collector.sees(blob).expect("looks"), there);
    }
    drop(writer);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(collector.collect(Duration::ZERO).expect("collects").blobs, 2);
}

#[test]
fn cleaning_takes_what_a_cache_consists_of_and_nothing_else() {
    let (keep, store) = store();
    let outside = keep.path().join("outside");
    fs_err::create_dir(&outside).expect("creates");
    fs_err::write(outside.join("precious"), "p").expect("writes");
    name(&store, "r/a:1", &image(&store, "amd64", "a"));
    let directory = store.directory().to_owned();
    fs_err::create_dir_all(directory.join("pkgbuild/v1/layers/x/fs")).expect("creates");
    fs_err::os::unix::fs::symlink(&outside, directory.join("pkgbuild/v1/layers/x/fs/link")).expect("links");
    fs_err::os::unix::fs::symlink(&outside, directory.join("pkgbuild/v1/link")).expect("links");
    fs_err::write(directory.join("notes.txt"), "mine").expect("writes");
    fs_err::write(directory.join("blobs/sha256/readme"), "mine").expect("writes");

    let other = Store::open(&directory).expect("opens");
    assert!(matches!(other.clean(), Err(StoreError::InUse { .. })), "the writer still lives");
    drop(store);
    let cleaned = other.clean().expect("cleans");
    assert_eq!((cleaned.names, cleaned.blobs), (1, 3));
    assert_eq!(cleaned.left, [directory.join("blobs/sha256/readme"), directory.join("notes.txt")]);
    assert!(outside.join("precious").exists() && !directory.join("pkgbuild/v1/layers").exists());
    assert_eq!(other.roots().expect("reads").len(), 0);
    let nothing: &Path = &keep.path().join("none");
    assert!(Store::open_existing(nothing).expect("looks").is_none());
}

#[test]
fn entries_that_are_not_ours_keep_every_member_and_stop_the_collector_when_not_understood() {
    let (_keep, store) = store();
    let manifest = image(&store, "amd64", "a");
    let foreign =
        r#"{"schemaVersion":2,"manifests":[{"digest":"sha384:00","mediaType":"x","size":1,"new":{"a":[1]}}],"extra":"kept"}"#;
    fs_err::write(store.directory().join("index.json"), foreign).expect("writes");
    name(&store, "r/a:1", &manifest);
    store.remove_roots(&["r/a:1".into()]).expect("removes");
    let now: serde_json::Value =
        serde_json::from_slice(&fs_err::read(store.directory().join("index.json")).expect("reads")).expect("JSON");
    assert_eq!(now, serde_json::from_str::<serde_json::Value>(foreign).expect("JSON"));
    assert!(matches!(store.collect(Duration::ZERO), Err(StoreError::Entry { entry: 1, .. })));
}

#[test]
fn a_null_list_of_manifests_is_an_empty_cache() {
    let (_keep, store) = store();
    fs_err::write(store.directory().join("index.json"), "{\n   \"schemaVersion\": 2,\n   \"manifests\": null\n}")
        .expect("writes");
    assert_eq!(store.roots().expect("reads").len(), 0);
    name(&store, "r/a:1", &image(&store, "amd64", "a"));
    assert_eq!(store.roots().expect("reads").len(), 1);
}
