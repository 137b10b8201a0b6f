//! What must hold against a real registry.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::content::{ContentError, ContentSink, ContentSource, ErrorClass, from_bytes, read_whole, verifying};
use crate::oci::{Descriptor, Index, Manifest, MediaType, Platform, Raw, Reference};

use super::super::{Beyond, CredentialSources, Mirrors, Pushed, Registry, RemoteRepository, Settings, Settle, TagOutcome};
use super::distribution::Distribution;
use super::{named, noise, registry, repository, settings};

fn reference(repository: &RemoteRepository, tag: &str) -> Reference {
    repository.name().with_tag(tag.parse().expect("a tag"))
}

fn image(config: &Descriptor, layers: &[Descriptor]) -> Raw<Manifest> {
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": MediaType::MANIFEST, "config": config, "layers": layers,
    });
    Raw::parse(text.to_string().into()).expect("a manifest")
}

/// Pushes an image of one layer and lets `tag` name it, as the engine does.
async fn push_image(repository: &RemoteRepository, tag: &str, layer: &[u8]) -> Descriptor {
    let config = b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}";
    let contents = [(MediaType::CONFIG, &config[..]), (MediaType::LAYER_TAR, layer)];
    let mut children = Vec::new();
    for (media_type, bytes) in contents {
        let descriptor = Descriptor::of(media_type, bytes);
        if !repository.contains(&descriptor).await.expect("known") {
            repository.put(&descriptor, from_bytes(bytes.to_vec().into())).await.expect("stored");
        }
        children.push(descriptor);
    }
    let manifest = image(&children[0], &children[1..]);
    let root = manifest.descriptor(MediaType::MANIFEST);
    repository.put(&root, from_bytes(manifest.bytes().clone())).await.expect("stored");
    repository.tag(&reference(repository, tag), &root).await.expect("tagged");
    root
}

#[tokio::test]
async fn what_was_pushed_is_pulled_byte_for_byte() {
    let server = Distribution::start();
    let layer = noise(1, 3 << 20);
    let root = push_image(&repository(&server.host(), "a/b"), "1.0", &layer).await;

    let fresh = repository(&server.host(), "a/b");
    assert_eq!(fresh.resolve(&reference(&fresh, "1.0")).await.expect("known"), Some(root.clone()));
    assert_eq!(fresh.resolve(&reference(&fresh, "2.0")).await.expect("known"), None);
    assert_eq!(repository(&server.host(), "no/such").resolve(&reference(&fresh, "1.0")).await.expect("known"), None);

    let manifest = fresh.manifest(&reference(&fresh, "1.0")).await.expect("readable").expect("there");
    assert_eq!(manifest.descriptor, root);
    let parsed: Manifest = serde_json::from_slice(&manifest.bytes).expect("a manifest");
    let mut read = Vec::new();
    fresh.open(&parsed.layers[0]).await.expect("there").read_to_end(&mut read).await.expect("whole");
    assert!(read == layer, "{} bytes came back", read.len());
    let again = read_whole(&fresh, &root, 1 << 20).await.expect("readable");
    assert_eq!(again, manifest.bytes);
    assert_eq!(fresh.tags().await.expect("listed"), ["1.0".parse().expect("a tag")]);
}

#[tokio::test]
async fn a_second_push_uploads_nothing() {
    let server = Distribution::start();
    let layer = noise(2, 2 << 20);
    push_image(&repository(&server.host(), "a/b"), "1", &layer).await;
    let registry = registry(settings());
    let root = push_image(&registry.repository(&named(&server.host(), "a/b")), "1", &layer).await;
    let traffic = registry.traffic();
    assert_eq!((traffic.uploads, traffic.mounts), (0, 0));
    assert_eq!((traffic.manifests, traffic.sent), (0, 0));
    let repository = registry.repository(&named(&server.host(), "a/b"));
    let tagged = repository.tag_if(&reference(&repository, "1"), None, &root).await.expect("known");
    assert!(matches!(tagged, TagOutcome::Unchanged), "{tagged:?}");
    assert_eq!(registry.traffic().manifests, 0);
}

#[tokio::test]
async fn a_blob_is_taken_from_another_repository_instead_of_uploaded() {
    let server = Distribution::start();
    let layer = noise(3, 2 << 20);
    push_image(&repository(&server.host(), "a"), "1", &layer).await;
    let registry = registry(settings());
    let sources = [named("other.example", "a"), named(&server.host(), "absent"), named(&server.host(), "a")];
    let target = registry.repository(&named(&server.host(), "b/c")).mounting_from(sources);
    push_image(&target, "1", &layer).await;
    let traffic = registry.traffic();
    assert_eq!((traffic.uploads, traffic.mounts), (0, 2));
    let other = noise(4, 10);
    let descriptor = Descriptor::of(MediaType::LAYER_TAR, &other);
    let pushed = target.push_blob(&descriptor, || std::future::ready(Ok(from_bytes(other.clone().into()))));
    assert_eq!(pushed.await.expect("stored"), Pushed::Uploaded, "no source has it");
}

#[tokio::test]
async fn an_empty_blob_is_content_too() {
    let server = Distribution::start();
    let repository = repository(&server.host(), "a");
    let empty = Descriptor::of(MediaType::LAYER_TAR, b"");
    repository.put(&empty, from_bytes("".into())).await.expect("stored");
    let mut read = Vec::new();
    repository.open(&empty).await.expect("there").read_to_end(&mut read).await.expect("whole");
    assert_eq!(read, b"");
}

#[tokio::test]
async fn what_is_not_as_promised_does_not_get_in() {
    let server = Distribution::start();
    let repository = repository(&server.host(), "a");
    for size in [100, 2 << 20] {
        let promised = Descriptor::of(MediaType::LAYER_TAR, &noise(5, size));
        let other = noise(6, size);
        // The reader does not verify, so that the registry's own check is met for the large one.
        let error = repository.put(&promised, from_bytes(other.into())).await.expect_err("refused");
        assert_eq!(error.class(), ErrorClass::Damaged, "{error:?}");
        let fresh = self::repository(&server.host(), "a");
        assert!(!fresh.contains(&promised).await.expect("known"));
    }
    let lacking = image(&Descriptor::of(MediaType::CONFIG, b"absent"), &[]);
    let root = lacking.descriptor(MediaType::MANIFEST);
    let error = repository.put(&root, from_bytes(lacking.bytes().clone())).await.expect_err("refused");
    let ContentError::Failed { source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().contains("MANIFEST_BLOB_UNKNOWN"), "{source}");
    let missing = repository.tag(&reference(&repository, "1"), &root).await.expect_err("not there");
    assert!(matches!(missing, ContentError::Missing { .. }), "{missing:?}");
}

/// Adds one platform to an index, as each of several machines does at the end of its build.
async fn add_platform(repository: &RemoteRepository, architecture: &str, retries: &AtomicUsize) {
    let mut child = push_image(repository, &format!("1-{architecture}"), architecture.as_bytes()).await;
    child.platform = Some(Platform::linux(architecture));
    let reference = reference(repository, "1");
    let mut now = repository.manifest(&reference).await.expect("known").map(Box::new);
    loop {
        let mut children = match &now {
            Some(now) => serde_json::from_slice::<Index>(&now.bytes).expect("an index").manifests,
            None => Vec::new(),
        };
        if children.iter().any(|known| known.digest == child.digest) {
            // Somebody built upon what we wrote.
            return;
        }
        children.push(child.clone());
        children.sort_by_key(|child| child.digest);
        let index = Raw::encode(Index::new(children));
        let root = repository.push_manifest(MediaType::INDEX, index.bytes().clone()).await.expect("stored");
        let expected = now.map(|now| now.descriptor.digest);
        match repository.tag_if(&reference, expected, &root).await.expect("known") {
            TagOutcome::Written | TagOutcome::Unchanged => return,
            TagOutcome::Moved(other) => now = other,
        }
        assert!(retries.fetch_add(1, Ordering::Relaxed) < 200, "they never come to an end");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn platforms_pushed_at_the_same_time_are_all_there() {
    let server = Distribution::start();
    let retries = AtomicUsize::new(0);
    for round in 0..4 {
        // Each writer has its own client, as on a machine of its own.
        let pushers = ["amd64", "arm64", "riscv64", "s390x"].map(|architecture| {
            let (host, retries) = (server.host(), &retries);
            async move {
                let settings = Settings { settle: Settle(Duration::from_millis(150)), ..settings() };
                let repository = registry(settings).repository(&named(&host, &format!("round{round}")));
                add_platform(&repository, architecture, retries).await;
            }
        });
        futures_util::future::join_all(pushers).await;
        let repository = repository(&server.host(), &format!("round{round}"));
        let index = repository.manifest(&reference(&repository, "1")).await.expect("known").expect("there");
        let index: Index = serde_json::from_slice(&index.bytes).expect("an index");
        assert_eq!(index.manifests.len(), 4, "round {round}: {:?}", index.manifests);
    }
    assert!(retries.load(Ordering::Relaxed) > 0, "they did get in each other's way");
}

#[tokio::test]
async fn a_login_opens_a_registry_that_wants_one() {
    // A published test vector of bcrypt: this is the hash of `abc`.
    let home = tempfile::tempdir().expect("a directory");
    let htpasswd = home.path().join("htpasswd");
    fs_err::write(&htpasswd, "me:$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i\n").expect("written");
    let server = Distribution::with(&format!("auth: {{htpasswd: {{realm: here, path: {htpasswd:?}}}}}"));
    let with = |password: Option<&str>| {
        let mut credentials = CredentialSources::default();
        if let Some(password) = password {
            credentials.add(&format!("{}=me:{password}", server.host())).expect("valid");
        }
        registry(Settings { credentials, ..settings() }).repository(&named(&server.host(), "a"))
    };
    let layer = noise(7, 2 << 20);
    let root = push_image(&with(Some("abc")), "1", &layer).await;
    let repository = with(Some("abc"));
    let manifest = repository.manifest(&repository.name().with_digest(root.digest)).await.expect("known").expect("there");
    let manifest: Manifest = serde_json::from_slice(&manifest.bytes).expect("a manifest");
    let mut read = Vec::new();
    repository.open(&manifest.layers[0]).await.expect("there").read_to_end(&mut read).await.expect("whole");
    assert!(read == layer);

    for wrong in [Some("abd"), None] {
        let repository = with(wrong);
        let errors = [
            repository.resolve(&reference(&repository, "1")).await.err(),
            repository.contains(&manifest.layers[0]).await.err(),
            repository.open(&manifest.layers[0]).await.err(),
            repository.put(&Descriptor::of(MediaType::LAYER_TAR, b"x"), from_bytes("x".into())).await.err(),
        ];
        for error in errors {
            assert_eq!(error.expect("denied").class(), ErrorClass::Denied);
        }
    }
}

#[tokio::test]
async fn a_private_certificate_authority_is_trusted_when_it_is_named() {
    let home = tempfile::tempdir().expect("a directory");
    let path = |name: &str| home.path().join(name).display().to_string();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let subject = ["-subj", "/CN=test authority"];
    let [ca_key, ca, key, request, certificate, extensions] =
        ["ca.key", "ca.pem", "key", "request", "certificate", "extensions"].map(path);
    openssl(
        &[
            &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"][..],
            &subject,
            &["-addext", "keyUsage=critical,keyCertSign", "-keyout", &ca_key, "-out", &ca],
        ]
        .concat(),
    );
    openssl(&[
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=x",
        "-keyout",
        &key,
        "-out",
        &request,
    ]);
    fs_err::write(&extensions, "subjectAltName=IP:127.0.0.1\n").expect("written");
    openssl(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        &extensions,
        "-out",
        &certificate,
    ]);
    let server = Distribution::with(&format!("  tls: {{certificate: {certificate:?}, key: {key:?}}}"));
    // What is on this machine is asked by plain HTTP; a mirror's address may say otherwise.
    let mut mirrors = Mirrors::parse([format!("r.example=https://{}", server.host())]).expect("valid");
    mirrors.beyond = Beyond::Nobody;
    let with = |certificate_files| {
        registry(Settings { certificate_files, mirrors: mirrors.clone(), ..settings() }).repository(&named("r.example", "a"))
    };
    let trusting = with(vec![ca.clone().into()]);
    assert_eq!(trusting.resolve(&reference(&trusting, "1")).await.expect("known"), None);
    let error = trusting.open(&Descriptor::of(MediaType::LAYER_TAR, b"x")).await.err().expect("missing");
    assert!(matches!(error, ContentError::Missing { .. }), "{error:?}");
    let wary = with(Vec::new());
    let error = wary.manifest(&reference(&wary, "1")).await.expect_err("not trusted");
    assert_eq!(error.class(), ErrorClass::Permanent, "repeating cannot help: {error:?}");
    assert!(error.is_unreachable(), "{error:?}");

    let not_pem = home.path().join("empty");
    fs_err::write(&not_pem, "no certificate").expect("written");
    for file in [not_pem, home.path().join("absent")] {
        assert!(Registry::new(Settings { certificate_files: vec![file], ..Settings::default() }).is_err());
    }
}

/// Returns the most memory that this process ever had, in bytes (proc(5), `VmHWM`).
fn peak() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("there");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[tokio::test]
async fn memory_does_not_grow_with_a_blob() {
    const SIZE: u64 = 200 << 20;
    let server = Distribution::start();
    let repository = repository(&server.host(), "a");
    let content = || tokio::io::repeat(7).take(SIZE);
    let mut hasher = crate::oci::Hasher::default();
    let piece = vec![7; 1 << 20];
    (0..SIZE >> 20).for_each(|_| hasher.update(&piece));
    let blob = Descriptor::new(MediaType::LAYER_TAR, SIZE, hasher.finish());
    let before = peak();
    repository.put(&blob, verifying(content(), &blob)).await.expect("stored");
    let read = tokio::io::copy(&mut repository.open(&blob).await.expect("there"), &mut tokio::io::sink()).await.expect("whole");
    assert_eq!(read, SIZE);
    let grown = peak() - before;
    assert!(grown < 32 << 20, "{} MiB more for a blob of {} MiB", grown >> 20, SIZE >> 20);
}
