//! Rules of copying and validating, between real caches and a source that fails on purpose.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::io::AsyncReadExt;

use super::*;
use crate::content::{BlobReader, ContentError, ContentSink, ContentSource};
use crate::diagnostic::ErrorClass;
use crate::oci::{Descriptor, DiffId, Digest, ImageConfig, Index, Manifest, MediaType, Platform, Raw, Reference};
use crate::store::{Presence, Store};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().expect("temp dir");
    let store = Store::open(&directory.path().join("cache")).expect("creates");
    (directory, store)
}

/// Writes an image whose layer, config and manifest a test may bend.
struct Image {
    media_type: &'static str,
    layer: Vec<u8>,
    diff_id: Digest,
    architecture: &'static str,
    listed: &'static str,
}

impl Image {
    fn of(architecture: &'static str) -> Self {
        let tar = vec![0; 1024];
        Self { media_type: MediaType::LAYER_TAR, diff_id: Digest::of(&tar), layer: tar, architecture, listed: architecture }
    }

    fn write(self, store: &Store) -> Descriptor {
        let layer = store.write(self.media_type, &self.layer).expect("writes");
        let mut config = ImageConfig::scratch(Platform::linux(self.architecture));
        config.rootfs.diff_ids.push(DiffId(self.diff_id));
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MediaType::MANIFEST.to_owned()),
            artifact_type: None,
            config: store.write(MediaType::CONFIG, Raw::encode(config).bytes()).expect("writes"),
            layers: vec![layer],
            subject: None,
            annotations: BTreeMap::new(),
        };
        let mut descriptor = store.write(MediaType::MANIFEST, Raw::encode(manifest).bytes()).expect("writes");
        descriptor.platform = Some(Platform::linux(self.listed));
        descriptor
    }
}

/// Writes what BuildKit attaches to an image.
fn attestation(store: &Store, about: &Descriptor) -> Descriptor {
    let mut descriptor = Image {
        media_type: MediaType::IN_TOTO,
        layer: b"{}".to_vec(),
        diff_id: Digest::of(b"{}"),
        architecture: "unknown",
        listed: "unknown",
    }
    .write(store);
    descriptor.platform = Some(Platform::new("unknown", "unknown", None));
    descriptor.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
    descriptor.annotations.insert("vnd.docker.reference.digest".into(), about.digest.to_string());
    descriptor
}

fn write_index(store: &Store, children: Vec<Descriptor>) -> Descriptor {
    store.write(MediaType::INDEX, Raw::encode(Index::new(children)).bytes()).expect("writes")
}

fn two_platforms(store: &Store) -> Descriptor {
    let (amd64, arm64) = (Image::of("amd64").write(store), Image::of("arm64").write(store));
    let about = attestation(store, &arm64);
    write_index(store, vec![amd64, arm64, about])
}

/// Fails the first readings of each blob half-way, and writes down the order in which a sink is given content.
struct Shaky {
    inner: Store,
    failures: AtomicUsize,
    written: Mutex<Vec<Descriptor>>,
}

#[async_trait]
impl ContentSource for Shaky {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Descriptor>, ContentError> {
        self.inner.resolve(reference).await
    }

    async fn open(&self, descriptor: &Descriptor) -> Result<BlobReader, ContentError> {
        let reader = self.inner.open(descriptor).await?;
        if descriptor.is_document()
            || self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_err()
        {
            return Ok(reader);
        }
        Ok(Box::pin(reader.take(descriptor.size / 2)))
    }
}

#[async_trait]
impl ContentSink for Shaky {
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool, ContentError> {
        self.inner.contains(descriptor).await
    }

    async fn put(&self, descriptor: &Descriptor, blob: BlobReader) -> Result<(), ContentError> {
        self.inner.put(descriptor, blob).await?;
        self.written.lock().expect("no panics").push(descriptor.clone());
        Ok(())
    }

    async fn tag(&self, reference: &Reference, root: &Descriptor) -> Result<(), ContentError> {
        self.inner.tag(reference, root).await
    }
}

fn shaky(inner: Store, failures: usize) -> Shaky {
    Shaky { inner, failures: AtomicUsize::new(failures), written: Mutex::default() }
}

#[tokio::test]
async fn a_copy_is_valid_and_a_second_one_sends_nothing() {
    let ((_a, from), (_b, to)) = (store(), store());
    let root = two_platforms(&from);
    let name: Reference = "org/a:1".parse().expect("valid");
    from.tag(&name, &root).await.expect("names");
    let (copied_root, copied) = copy_named(&from, &name, &to, &name, &CopyOptions::default()).await.expect("copies");
    assert_eq!((copied_root, copied.found), (root.clone(), 0));
    let valid = validate(&to, &to.resolve(&name).await.expect("resolves").expect("named")).await.expect("valid");
    assert_eq!((valid.platforms, valid.attestations), (vec![Platform::linux("amd64"), Platform::linux("arm64")], 1));
    let again = copy(&from, &to, &root, &CopyOptions::default()).await.expect("copies");
    assert_eq!((again.sent, again.found), (0, copied.sent));
    let absent = copy_named(&from, &"org/b:1".parse().expect("valid"), &to, &name, &CopyOptions::default()).await;
    assert!(matches!(absent, Err(TransferError::Absent { .. })));
}

#[tokio::test]
async fn children_arrive_before_parents() {
    let ((_a, from), (_b, to)) = (store(), store());
    let root = two_platforms(&from);
    let to = shaky(to, 0);
    copy(&from, &to, &root, &CopyOptions::default()).await.expect("copies");
    let order = to.written.into_inner().expect("no panics");
    let rank = |descriptor: &Descriptor| match descriptor.media_type.as_str() {
        MediaType::INDEX => 2,
        MediaType::MANIFEST => 1,
        _ => 0,
    };
    assert!(order.is_sorted_by_key(rank), "{order:?}");
    assert_eq!(order.last(), Some(&root));
}

#[tokio::test]
async fn chosen_platforms_come_with_what_attests_to_them() {
    let ((_a, from), (_b, to)) = (store(), store());
    let root = two_platforms(&from);
    let only =
        |architecture| CopyOptions { platforms: Platforms::Only(vec![Platform::linux(architecture)]), ..Default::default() };
    // Index, image, attestation: three documents, two configs, two layers.
    assert_eq!(copy(&from, &to, &root, &only("arm64")).await.expect("copies").sent, 7);
    to.set_roots(&[("r/a:1".into(), root.clone())]).expect("an index may be there in part");
    let roots = to.roots().expect("reads");
    assert!(matches!(roots.lookup("r/a:1", &Platform::linux("arm64")).expect("looks"), Presence::Complete(_)));
    assert!(matches!(roots.lookup("r/a:1", &Platform::linux("amd64")).expect("looks"), Presence::Incomplete(_)));
    let none = copy(&from, &to, &root, &only("riscv64")).await;
    assert!(matches!(none, Err(TransferError::NoPlatform { .. })));
}

#[tokio::test]
async fn a_stream_that_breaks_is_asked_for_again_and_bytes_are_counted_once() {
    let ((_a, from), (_b, to)) = (store(), store());
    let root = Image::of("amd64").write(&from);
    let last = std::sync::Arc::new(Mutex::new(Progress::default()));
    let seen = last.clone();
    let progress: std::sync::Arc<dyn Fn(Progress) + Send + Sync> =
        std::sync::Arc::new(move |now| *seen.lock().expect("no panics") = now);
    let options = CopyOptions { progress: Some(progress), ..Default::default() };
    copy(&shaky(from, 2), &to, &root, &options).await.expect("copies");
    validate(&to, &root).await.expect("valid");
    let last = *last.lock().expect("no panics");
    assert!(last.total > 1024 && last.done == last.total, "{last:?}");
}

#[tokio::test]
async fn a_source_that_never_recovers_is_an_error_and_leaves_nothing_half() {
    let ((_a, from), (_b, to)) = (store(), store());
    let root = Image::of("amd64").write(&from);
    let error = copy(&shaky(from, 1000), &to, &root, &CopyOptions::default()).await.expect_err("never recovers");
    assert_eq!(error.class(), ErrorClass::Retryable);
    assert!(to.verify(crate::store::Repair::No, &|_, _| {}).expect("verifies").faults.is_empty());
    assert!(!to.contains(&root).await.expect("looks"));
}

#[tokio::test]
async fn validating_finds_each_kind_of_lie() {
    let (_keep, store) = store();
    let gzip = MediaType::LAYER_GZIP;
    let wrong_diff_id = Image { diff_id: Digest::of(b"other"), ..Image::of("amd64") }.write(&store);
    let not_gzip = Image { media_type: gzip, ..Image::of("riscv64") }.write(&store);
    let wrong_platform = Image { listed: "s390x", ..Image::of("ppc64le") }.write(&store);
    let good = Image::of("arm64").write(&store);
    let stray = attestation(&store, &Descriptor::of(MediaType::MANIFEST, b"not listed"));
    let absent = Descriptor::of(MediaType::MANIFEST, b"absent");
    let called_manifest = Descriptor { media_type: MediaType::MANIFEST.to_owned(), ..write_index(&store, vec![]) };
    let root = write_index(
        &store,
        vec![wrong_diff_id, not_gzip, wrong_platform, good.clone(), good.clone(), stray, absent, called_manifest],
    );
    let Err(ValidateError::Invalid { problems, .. }) = validate(&store, &root).await else { panic!("found nothing") };
    let found: Vec<&str> = problems
        .iter()
        .map(|problem| match problem {
            Invalid::DiffId { .. } => "diff id",
            Invalid::Layer(..) => "layer",
            Invalid::Platform { .. } => "platform",
            Invalid::Twice { .. } => "twice",
            Invalid::Subject { .. } => "subject",
            Invalid::Missing(_) => "missing",
            Invalid::Document(..) => "document",
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(found, ["twice", "subject", "diff id", "layer", "platform", "missing", "document"]);
    fs_err::write(store.blob_path(&good.digest), vec![b'x'; good.size as usize]).expect("damages");
    let Err(ValidateError::Invalid { problems, .. }) = validate(&store, &good).await else { panic!("found nothing") };
    assert!(matches!(problems[..], [Invalid::Damaged(..)]), "{problems:?}");
}
