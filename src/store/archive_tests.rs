//! Rules of archives: round trips, other tools' archives, hostile archives.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use super::tests::{image, index, name, store};
use super::*;
use crate::archive::ArchiveError;
use crate::oci::{Descriptor, Document, MediaType, Platform};

const NAME: &str = "docker.io/org/a:1";

fn two_platforms() -> (tempfile::TempDir, Store, Descriptor) {
    let (keep, store) = store();
    let root = index(&store, vec![image(&store, "amd64", "for amd64"), image(&store, "arm64", "for arm64")]);
    name(&store, NAME, &root);
    (keep, store, root)
}

fn export(store: &Store, format: ArchiveFormat, platform: Option<&str>) -> Vec<u8> {
    let platform = platform.map(Platform::linux);
    let mut out = Vec::new();
    let wanted = Export { name: NAME, platform: platform.as_ref(), name_inside: None };
    store.export(&[wanted], format, &mut out).expect("exports");
    out
}

/// Every blob is what its name says, and nothing is missing below any name.
fn clean(store: &Store) {
    let verified = store.verify(Repair::No, &|_, _| {}).expect("verifies");
    assert!(verified.blobs > 0 && verified.faults.is_empty(), "{:?}", verified.faults);
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn an_oci_archive_keeps_every_digest_and_has_the_same_bytes_twice() {
    let (_keep, from, root) = two_platforms();
    let bytes = export(&from, ArchiveFormat::Oci, None);
    assert_eq!(bytes, export(&from, ArchiveFormat::Oci, None));
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    for packed in [bytes.clone(), gzip, zstd::encode_all(&bytes[..], 1).expect("memory")] {
        let (_keep, to) = store();
        let roots = to.import(&packed[..], None).expect("imports");
        assert_eq!(roots, [Root { name: NAME.to_owned(), descriptor: root.clone() }]);
        assert_eq!(bytes, export(&to, ArchiveFormat::Oci, None));
        clean(&to);
    }
}

#[test]
fn one_platform_of_an_oci_archive_is_that_image() {
    let (_keep, from, _) = two_platforms();
    let (_keep_too, to) = store();
    to.import(&export(&from, ArchiveFormat::Oci, Some("arm64"))[..], Some("other/name")).expect("imports");
    let root = to.root("docker.io/other/name:latest").expect("reads").expect("named");
    assert_eq!(root.platform, Some(Platform::linux("arm64")));
    clean(&to);
    let missing = Export { name: NAME, platform: Some(&Platform::linux("riscv64")), name_inside: None };
    let error = from.export(&[missing], ArchiveFormat::Oci, io::sink()).expect_err("has none");
    assert!(matches!(error, StoreError::NoPlatform { has, .. } if has == ["linux/amd64", "linux/arm64"]));
}

#[test]
fn a_docker_archive_keeps_config_and_layers_byte_for_byte() {
    let (_keep, from, _) = two_platforms();
    let wanted = Export { name: NAME, platform: None, name_inside: None };
    let unclear = from.export(&[wanted], ArchiveFormat::Docker, io::sink());
    assert!(matches!(unclear, Err(StoreError::ManyPlatforms { .. })));
    let bytes = export(&from, ArchiveFormat::Docker, Some("arm64"));
    assert_eq!(bytes, export(&from, ArchiveFormat::Docker, Some("arm64")));
    let (_keep_too, to) = store();
    to.import(&bytes[..], None).expect("imports");
    let root = to.root(NAME).expect("reads").expect("named");
    clean(&to);
    let Presence::Complete(original) = from.roots().expect("reads").lookup(NAME, &Platform::linux("arm64")).expect("looks")
    else {
        panic!("incomplete")
    };
    assert_eq!((root.digest, root.platform), (original.digest, original.platform));
}

#[test]
fn a_file_system_is_what_the_layers_make() {
    let (_keep, from, _) = two_platforms();
    let bytes = export(&from, ArchiveFormat::Filesystem, Some("arm64"));
    let mut archive = tar::Archive::new(&bytes[..]);
    let texts: Vec<String> =
        archive.entries().expect("reads").map(|e| io::read_to_string(e.expect("reads")).expect("text")).collect();
    assert_eq!(texts, ["for arm64"]);
}

#[test]
fn skopeo_reads_the_cache_and_the_archives_and_we_read_skopeos() {
    let (keep, from, _) = two_platforms();
    let at = |name: &str| keep.path().join(name).display().to_string();
    let cache = from.directory().display().to_string();
    let config = run("skopeo", &["inspect", "--override-arch=arm64", "--config", &format!("oci:{cache}:{NAME}")]);
    assert!(config.contains(r#""architecture": "arm64""#), "{config}");
    fs_err::write(at("oci.tar"), export(&from, ArchiveFormat::Oci, None)).expect("writes");
    fs_err::write(at("docker.tar"), export(&from, ArchiveFormat::Docker, Some("arm64"))).expect("writes");
    for (source, target) in [
        (format!("oci-archive:{}", at("oci.tar")), format!("oci-archive:{}:{NAME}", at("from-oci.tar"))),
        (format!("docker-archive:{}", at("docker.tar")), format!("oci-archive:{}:{NAME}", at("from-docker.tar"))),
        (format!("oci:{cache}:{NAME}"), format!("docker-archive:{}:org/a:1", at("from-cache.tar"))),
    ] {
        run("skopeo", &["copy", "--quiet", "--override-arch=arm64", "--insecure-policy", &source, &target]);
    }
    for archive in ["from-oci.tar", "from-docker.tar", "from-cache.tar"] {
        let (_keep, to) = store();
        let roots = to.import(fs_err::File::open(at(archive)).expect("opens"), None).expect(archive);
        assert_eq!(roots.iter().map(|root| root.name.as_str()).collect::<Vec<_>>(), [NAME], "{archive}");
        let found = to.roots().expect("reads").lookup(NAME, &Platform::linux("arm64")).expect("looks");
        assert!(matches!(found, Presence::Complete(_)), "{archive}: {found:?}");
        clean(&to);
    }
    // Into our cache, as if it were skopeo's own layout.
    run(
        "skopeo",
        &["copy", "--quiet", "--all", "--insecure-policy", &format!("oci:{cache}:{NAME}"), &format!("oci:{cache}:r/b:2")],
    );
    assert!(from.root("r/b:2").expect("reads").is_some());
    clean(&from);
    assert!(from.root(NAME).expect("reads").is_some());
}

/// Returns a tar of `files`.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, *bytes).expect("memory");
    }
    builder.into_inner().expect("memory")
}

fn blob<'a>(store: &Store, descriptor: &Descriptor) -> (String, &'a [u8]) {
    let bytes = store.read(descriptor).expect("reads").to_vec();
    (format!("blobs/sha256/{}", descriptor.digest.hex()), Box::leak(bytes.into_boxed_slice()))
}

#[test]
fn linuxkits_own_archive_is_understood_although_it_calls_an_image_an_index() {
    let (_keep, from) = store();
    let manifest = image(&from, "amd64", "x");
    let Some(Document::Manifest(parts)) = from.document(&manifest).expect("reads") else { panic!("no manifest") };
    let entry = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","size":{},"digest":"{}","annotations":{{"org.opencontainers.image.ref.name":"{NAME}"}}}}]}}"#,
        MediaType::INDEX,
        manifest.size,
        manifest.digest
    );
    let blobs: Vec<_> = [&manifest, &parts.config, &parts.layers[0]].map(|part| blob(&from, part)).to_vec();
    let mut files: Vec<(&str, &[u8])> = blobs.iter().map(|(path, bytes)| (path.as_str(), *bytes)).collect();
    files.push(("index.json", entry.as_bytes()));
    let (_keep_too, to) = store();
    let roots = to.import(&archive(&files)[..], None).expect("imports");
    assert_eq!(roots, [Root { name: NAME.to_owned(), descriptor: manifest }]);
}

#[test]
fn an_old_docker_archive_with_links_between_layers_is_understood() {
    let (_keep, from) = store();
    let manifest = image(&from, "amd64", "x");
    let Some(Document::Manifest(parts)) = from.document(&manifest).expect("reads") else { panic!("no manifest") };
    let (config, layer) = (blob(&from, &parts.config).1, blob(&from, &parts.layers[0]).1);
    let mut builder = tar::Builder::new(Vec::new());
    let mut link = tar::Header::new_ustar();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "bbb/layer.tar", "../aaa/layer.tar").expect("memory");
    let listed = br#"[{"Config":"c.json","RepoTags":["org/a:1","a:2"],"Layers":["bbb/layer.tar"]}]"#;
    for (path, bytes) in [("aaa/VERSION", &b"1.0"[..]), ("aaa/layer.tar", layer), ("c.json", config), ("manifest.json", listed)] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).expect("memory");
    }
    let (_keep_too, to) = store();
    let roots = to.import(&builder.into_inner().expect("memory")[..], None).expect("imports");
    let names: Vec<_> = roots.iter().map(|root| (root.name.as_str(), root.descriptor.digest)).collect();
    assert_eq!(names, [("docker.io/library/a:2", manifest.digest), (NAME, manifest.digest)]);
}

#[test]
fn what_is_wrong_with_an_archive_is_said_and_nothing_is_named() {
    let (_keep, from, _) = two_platforms();
    let good = export(&from, ArchiveFormat::Oci, None);
    let (_keep_too, to) = store();
    let import = |bytes: &[u8]| to.import(bytes, None).expect_err("refuses");
    for cut in [good.len() / 3, good.len() / 2, 1100, 100] {
        let error = import(&good[..cut]);
        assert!(matches!(error, StoreError::Archive(ArchiveError::Truncated { .. } | ArchiveError::Lacks { .. })), "{error}");
    }
    let mut changed = good.clone();
    // Somewhere in the last blob's data: the last two blocks are the end of the archive.
    let at = good.len() - 1024 - 512;
    changed[at] ^= 1;
    assert!(matches!(import(&changed), StoreError::Refused { .. }));
    assert!(matches!(import(b"not a tar at all"), StoreError::Archive(ArchiveError::Truncated { .. })));
    assert!(matches!(import(&[b'x'; 4096]), StoreError::Archive(ArchiveError::Malformed { .. })));
    assert!(matches!(import(b""), StoreError::Archive(ArchiveError::NoImages)));
    assert!(matches!(import(&archive(&[("hello", b"x")])), StoreError::Archive(ArchiveError::NoImages)));
    let deep = "[".repeat(100_000);
    assert!(matches!(import(&archive(&[("index.json", deep.as_bytes())])), StoreError::Archive(ArchiveError::Document { .. })));
    let lacking = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]"#;
    assert!(matches!(import(&archive(&[("manifest.json", lacking)])), StoreError::Archive(ArchiveError::Lacks { .. })));
    assert_eq!(to.roots().expect("reads").len(), 0);
    assert!(matches!(to.import(&good[..], None).map(|roots| roots.len()), Ok(1)));
}

#[test]
fn an_image_without_a_name_needs_one() {
    let (_keep, from) = store();
    let manifest = image(&from, "amd64", "x");
    let mut bytes = Vec::new();
    name(&from, "r/a:1", &manifest);
    from.export(&[Export { name: "r/a:1", platform: None, name_inside: Some("UPPER") }], ArchiveFormat::Oci, &mut bytes)
        .expect("exports");
    let text = String::from_utf8_lossy(&bytes).replace("io.containerd.image.name", "io.containerd.image.nope");
    // The change keeps the length, and JSON members have no checksum of their own.
    let (_keep_too, to) = store();
    assert!(matches!(to.import(text.as_bytes(), None), Err(StoreError::Nameless { .. })));
    to.import(text.as_bytes(), Some("r/b:1")).expect("imports");
    assert_eq!(to.root("docker.io/r/b:1").expect("reads").map(|root| root.digest), Some(manifest.digest));
}

/// Runs the command line of the engine that scripts/setup started.
fn docker(arguments: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "scripts/test says where the engine is")]
    let state = std::env::var("PKGBUILD_TEST_STATE").unwrap_or_else(|_| "/var/tmp/pkgbuild-test".to_owned());
    let text = fs_err::read_to_string(Path::new(&state).join("env")).expect("scripts/setup has run");
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).expect(key).to_owned();
    run(&value("PKGBUILD_TEST_DOCKER"), &[&["--host", &value("PKGBUILD_TEST_DOCKER_HOST")][..], arguments].concat())
}

#[test]
fn docker_loads_our_archive_and_we_read_what_it_saves() {
    let (keep, from) = store();
    let text = format!("{}", std::process::id());
    let manifest = image(&from, "amd64", &text);
    let short = format!("pkgbuild-test/store:{text}");
    let full = format!("docker.io/{short}");
    name(&from, &full, &manifest);
    let path = keep.path().join("docker.tar").display().to_string();
    let wanted = Export { name: &full, platform: None, name_inside: None };
    from.export(&[wanted], ArchiveFormat::Docker, fs_err::File::create(&path).expect("creates")).expect("exports");
    assert_eq!(docker(&["load", "--quiet", "--input", &path]).trim(), format!("Loaded image: {short}"));
    let saved = keep.path().join("saved.tar").display().to_string();
    docker(&["save", "--output", &saved, &short]);
    docker(&["rmi", &short]);
    let (_keep_too, to) = store();
    to.import(fs_err::File::open(&saved).expect("opens"), None).expect("imports");
    // Engine 20.10 keeps config and layer as they are, so even the manifest is the same again.
    assert_eq!(to.root(&full).expect("reads").map(|root| root.digest), Some(manifest.digest));
}
