//! Mirrors: who is asked, in which order, and who decides.

use tokio::io::AsyncReadExt;

use crate::content::{ContentSink, ContentSource, from_bytes};
use crate::oci::{Descriptor, Digest, MediaType, Reference};

use super::super::{Beyond, CredentialSources, Mirrors, Registry, RemoteRepository, Settings};
use super::scripted::{Reply, Scripted, Seen};
use super::{named, noise, registry, settings};

const INDEX: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn index() -> Reply {
    Reply::status(200).header("content-type", MediaType::INDEX).header("docker-content-digest", Digest::of(INDEX)).body(INDEX)
}

fn tagged(repository: &RemoteRepository) -> Reference {
    repository.name().with_tag("1".parse().expect("a tag"))
}

/// A registry that has everything, or nothing, or fails.
async fn server(reply: fn() -> Reply) -> Scripted {
    Scripted::start(move |seen: &Seen| if seen.target == "/v2/" { Reply::default() } else { reply() }).await
}

fn mirrored(upstream: &Scripted, mirror: &str, beyond: Beyond) -> Registry {
    let mut mirrors = Mirrors::parse([format!("{}=http://{mirror}/proxy", upstream.host())]).expect("valid");
    mirrors.beyond = beyond;
    registry(Settings { mirrors, ..settings() })
}

async fn resolve(registry: &Registry, upstream: &Scripted) -> Result<bool, crate::content::ContentError> {
    let repository = registry.repository(&named(&upstream.host(), "a/b"));
    repository.resolve(&tagged(&repository)).await.map(|found| found.is_some())
}

#[tokio::test]
async fn what_a_mirror_has_is_not_asked_of_the_registry() {
    let (mirror, upstream) = (server(index).await, server(index).await);
    assert!(resolve(&mirrored(&upstream, &mirror.host(), Beyond::Registry), &upstream).await.expect("known"));
    assert_eq!(mirror.asked(), ["HEAD /v2/proxy/a/b/manifests/1"]);
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn the_registry_decides_about_what_a_mirror_does_not_have_or_cannot_tell() {
    for mirror in [|| Reply::status(404), || Reply::status(500), || Reply::status(403)] {
        let mirror = server(mirror).await;
        for (upstream, expected) in [(server(index).await, true), (server(|| Reply::status(404)).await, false)] {
            let registry = mirrored(&upstream, &mirror.host(), Beyond::Registry);
            assert_eq!(resolve(&registry, &upstream).await.expect("known"), expected);
        }
        let failing = server(|| Reply::status(500)).await;
        let registry = mirrored(&failing, &mirror.host(), Beyond::Registry);
        resolve(&registry, &failing).await.expect_err("not known: the registry cannot tell");
    }
    let gone = server(index).await.host();
    let upstream = server(index).await;
    assert!(resolve(&mirrored(&upstream, &gone, Beyond::Registry), &upstream).await.expect("known"));
}

#[tokio::test]
async fn a_mirror_that_stands_for_the_registry_decides_alone() {
    let upstream = server(index).await;
    for (mirror, expected) in [(server(index).await, Some(true)), (server(|| Reply::status(404)).await, Some(false))] {
        let found = resolve(&mirrored(&upstream, &mirror.host(), Beyond::Nobody), &upstream).await;
        assert_eq!(found.ok(), expected);
    }
    let failing = server(|| Reply::status(500)).await;
    resolve(&mirrored(&upstream, &failing.host(), Beyond::Nobody), &upstream).await.expect_err("not known");
    assert_eq!(upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_download_that_a_mirror_cannot_finish_goes_on_at_the_registry() {
    let bytes = noise(9, 50_000);
    let half = bytes.clone();
    let mirror = Scripted::start(move |seen| match (seen.target.as_str(), seen.offset()) {
        ("/v2/", _) => Reply::default(),
        (_, None) => Reply::status(200).body(&half).cut(20_000),
        _ => Reply::status(500),
    })
    .await;
    let whole = bytes.clone();
    let upstream = Scripted::start(move |seen| match (seen.target.as_str(), seen.offset()) {
        ("/v2/", _) => Reply::default(),
        (_, Some(offset)) => Reply::status(206).body(&whole[offset..]),
        _ => Reply::status(500),
    })
    .await;
    let registry = mirrored(&upstream, &mirror.host(), Beyond::Registry);
    let repository = registry.repository(&named(&upstream.host(), "a/b"));
    let mut read = Vec::new();
    let blob = Descriptor::of(MediaType::LAYER_TAR, &bytes);
    repository.open(&blob).await.expect("there").read_to_end(&mut read).await.expect("whole");
    assert!(read == bytes);
    assert_eq!(upstream.asked(), [format!("GET /v2/a/b/blobs/{}", blob.digest)]);
}

#[tokio::test]
async fn what_is_pushed_is_decided_and_written_at_the_registry_alone() {
    let mirror = server(index).await;
    let upstream = Scripted::knowing(|host| {
        move |seen: &Seen| match (seen.method.as_str(), seen.target.as_str()) {
            (_, "/v2/") => Reply::default(),
            ("POST", _) => Reply::status(202).header("location", format!("http://{host}/upload")),
            ("PUT", _) => Reply::status(201).header("location", "/x"),
            _ => Reply::status(404),
        }
    })
    .await;
    let registry = mirrored(&upstream, &mirror.host(), Beyond::Registry);
    let repository = registry.repository(&named(&upstream.host(), "a/b"));
    let blob = Descriptor::of(MediaType::LAYER_TAR, b"x");
    assert!(!repository.contains(&blob).await.expect("known"));
    repository.put(&blob, from_bytes("x".into())).await.expect("stored");
    let root = Descriptor::of(MediaType::INDEX, INDEX);
    repository.put(&root, from_bytes(INDEX.into())).await.expect("stored");
    repository.tag(&tagged(&repository), &root).await.expect("tagged");
    assert!(repository.tags().await.expect("listed").is_empty());
    let upstream_only = registry.upstream(repository.name());
    assert_eq!(upstream_only.resolve(&tagged(&repository)).await.expect("known"), None);
    assert_eq!(mirror.seen().len(), 0);
}

#[tokio::test]
async fn a_mirror_gets_its_own_login_and_not_the_registrys() {
    let wanting = || Reply::status(401).header("www-authenticate", r#"Basic realm="x""#);
    let mirror = Scripted::start(move |_| wanting()).await;
    let upstream = Scripted::start(move |seen| match seen.header("authorization") {
        Some(_) => index(),
        None => Reply::status(401).header("www-authenticate", r#"Basic realm="x""#),
    })
    .await;
    let mut credentials = CredentialSources::default();
    credentials.add(&format!("{}=me:secret", upstream.host())).expect("valid");
    let mirrors = Mirrors::parse([format!("{}=http://{}", upstream.host(), mirror.host())]).expect("valid");
    let registry = registry(Settings { mirrors, credentials, ..settings() });
    assert!(resolve(&registry, &upstream).await.expect("known"));
    assert!(mirror.seen().iter().all(|seen| seen.header("authorization").is_none()));
}
