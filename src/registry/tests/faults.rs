//! Registries that are busy, broken, gone, or something else.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use crate::content::{ContentError, ContentSink, ContentSource, ErrorClass, from_bytes};
use crate::oci::{Descriptor, Digest, MediaType, Reference, VerifyError};

use super::super::{Access, Limits, Pushed, RegistryError, RemoteRepository, RetryPolicy, Settings, TagOutcome};
use super::scripted::{Reply, Scripted, Seen};
use super::{named, noise, registry, repository, settings};

const INDEX: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn tagged(repository: &RemoteRepository) -> Reference {
    repository.name().with_tag("1".parse().expect("a tag"))
}

/// Answers with the index, as a registry does.
fn index() -> Reply {
    Reply::status(200).header("content-type", MediaType::INDEX).header("docker-content-digest", Digest::of(INDEX)).body(INDEX)
}

fn blob(bytes: &[u8]) -> Descriptor {
    Descriptor::of(MediaType::LAYER_TAR, bytes)
}

async fn read(repository: &RemoteRepository, descriptor: &Descriptor) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    repository.open(descriptor).await.map_err(std::io::Error::other)?.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

#[tokio::test]
async fn a_busy_registry_is_left_alone_for_as_long_as_it_wants() {
    let server = Scripted::start(|seen| match (seen.target.as_str(), seen.before) {
        ("/v2/a/manifests/1", 0) => Reply::status(429).header("retry-after", 1),
        ("/v2/", _) => Reply::default(),
        _ => index(),
    })
    .await;
    let repository = repository(&server.host(), "a");
    let began = Instant::now();
    assert_eq!(repository.resolve(&tagged(&repository)).await.expect("known").expect("there").digest, Digest::of(INDEX));
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn a_pause_is_for_all_requests_to_the_host() {
    let server = Scripted::start(|seen| match (seen.target.as_str(), seen.before) {
        ("/v2/a/manifests/1", 0) => Reply::status(429).header("retry-after", 1),
        ("/v2/", _) => Reply::default(),
        _ => index(),
    })
    .await;
    let repository = repository(&server.host(), "a");
    let other = repository.name().with_tag("2".parse().expect("a tag"));
    let later = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let began = Instant::now();
        repository.resolve(&other).await.expect("known");
        began.elapsed()
    };
    let first = tagged(&repository);
    let (first, waited) = tokio::join!(repository.resolve(&first), later);
    first.expect("known");
    assert!(waited >= Duration::from_millis(600), "{waited:?}");
}

#[tokio::test]
async fn a_pause_longer_than_our_patience_ends_the_request_and_is_told() {
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply::status(429)
            .header("retry-after", 3600)
            .body(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#),
    })
    .await;
    let repository = repository(&server.host(), "a");
    let error = repository.manifest(&tagged(&repository)).await.expect_err("refused");
    assert_eq!(error.class(), ErrorClass::Retryable);
    assert_eq!(
        error.to_string(),
        format!(
            "GET http://{}/v2/a/manifests/1 was answered with 429 Too Many Requests: TOOMANYREQUESTS: slow down \
             (wants to be left alone for 3600 s)",
            server.host()
        )
    );
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_failing_registry_is_asked_again_and_then_is_not_known() {
    let server = Scripted::start(|seen| match (seen.target.as_str(), seen.before) {
        ("/v2/", _) => Reply::default(),
        ("/v2/a/manifests/1", 0..=1) => Reply::status(502),
        ("/v2/a/manifests/1", _) => index(),
        _ => Reply::status(500).body("oops"),
    })
    .await;
    let retried = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&retried);
    let on_retry = Arc::new(move |retrying: &super::super::Retrying| log.lock().expect("unpoisoned").push(retrying.why.clone()));
    let registry = registry(Settings { on_retry: Some(on_retry), ..settings() });
    let here = registry.repository(&named(&server.host(), "a"));
    assert!(here.resolve(&tagged(&here)).await.expect("known").is_some());
    assert_eq!(retried.lock().expect("unpoisoned").len(), 2);
    assert_eq!(registry.traffic().retries, 2);

    let broken = registry.repository(&named(&server.host(), "b"));
    let error = broken.resolve(&tagged(&broken)).await.expect_err("not known");
    assert_eq!(error.class(), ErrorClass::Retryable);
    assert_eq!(server.asked().iter().filter(|asked| asked.contains("/b/")).count(), 4, "as often as the policy says");
}

#[tokio::test]
async fn a_registry_that_is_gone_is_not_known_and_unreachable() {
    let gone = Scripted::start(|_| Reply::default()).await.host();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let repository = repository(&gone, "a");
    let error = repository.manifest(&tagged(&repository)).await.expect_err("not known");
    assert!(error.is_unreachable() && error.class() == ErrorClass::Retryable, "{error:?}");
    let content = repository.contains(&blob(b"x")).await.expect_err("not known");
    assert_eq!(content.class(), ErrorClass::Retryable);
}

#[tokio::test]
async fn what_is_no_registry_knows_nothing_of_absence() {
    let server = Scripted::start(|_| Reply::status(404).body("<html>not here</html>")).await;
    let repository = repository(&server.host(), "a");
    let error = repository.manifest(&tagged(&repository)).await.expect_err("not known");
    assert!(matches!(error, RegistryError::NotARegistry { .. }), "{error:?}");
}

#[tokio::test]
async fn refusals_are_denied_and_absence_is_absence() {
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        "/v2/secret/manifests/1" => {
            Reply::status(403).body(r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#)
        }
        _ => Reply::status(404).body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#),
    })
    .await;
    let absent = repository(&server.host(), "a");
    assert_eq!(absent.resolve(&tagged(&absent)).await.expect("known"), None);
    assert!(!absent.contains(&blob(b"x")).await.expect("known"));
    let missing = absent.open(&blob(b"x")).await.err().expect("missing");
    assert!(matches!(missing, ContentError::Missing { .. }), "{missing:?}");

    let secret = repository(&server.host(), "secret");
    let ContentError::Failed { class, source, .. } = secret.resolve(&tagged(&secret)).await.expect_err("denied") else {
        panic!("not missing");
    };
    assert_eq!(class, ErrorClass::Denied);
    // HEAD has no body: the reason comes from the GET that follows.
    assert!(source.to_string().contains("DENIED: requested access to the resource is denied"), "{source}");
}

#[tokio::test]
async fn offline_nothing_is_sent() {
    let server = Scripted::start(|_| index()).await;
    let registry = registry(Settings { access: Access::Offline, ..settings() });
    let repository = registry.repository(&named(&server.host(), "a"));
    let errors = [
        repository.resolve(&tagged(&repository)).await.err(),
        repository.open(&blob(b"x")).await.err(),
        repository.contains(&blob(b"x")).await.err(),
        repository.put(&blob(b"x"), from_bytes("x".into())).await.err(),
    ];
    for error in errors {
        let Some(ContentError::Failed { source, class: ErrorClass::Permanent, .. }) = error else { panic!("{error:?}") };
        assert!(source.downcast_ref::<RegistryError>().expect("ours").is_offline(), "{source}");
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn a_head_without_a_digest_is_asked_again_for_the_bytes() {
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply::status(200).header("content-type", MediaType::INDEX).body(INDEX),
    })
    .await;
    let repository = repository(&server.host(), "a");
    let found = repository.resolve(&tagged(&repository)).await.expect("known").expect("there");
    assert_eq!(found, Descriptor::of(MediaType::INDEX, INDEX));
    assert_eq!(server.asked(), ["HEAD /v2/a/manifests/1", "GET /v2/a/manifests/1"]);
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_says_is_damaged() {
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        _ => index().header("docker-content-digest", Digest::of(b"other")).body(br#"{"manifests":[]}"#),
    })
    .await;
    let repository = repository(&server.host(), "a");
    let by_tag = repository.manifest(&tagged(&repository)).await.expect_err("damaged");
    let digest = repository.name().with_digest(Digest::of(b"third"));
    let by_digest = repository.manifest(&digest).await.expect_err("damaged");
    for error in [by_tag, by_digest] {
        assert!(matches!(error, RegistryError::Damaged { .. }), "{error:?}");
        assert_eq!(error.class(), ErrorClass::Damaged);
    }
}

#[tokio::test]
async fn an_endless_manifest_is_not_read_to_its_end() {
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply::status(200).header("content-type", MediaType::INDEX).body(vec![b' '; 9 << 20]),
    })
    .await;
    let repository = repository(&server.host(), "a");
    let error = repository.manifest(&tagged(&repository)).await.expect_err("too large");
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
}

/// Answers for a blob of `bytes` that breaks off after `piece` bytes each time.
fn breaking(bytes: Vec<u8>, piece: usize, ranges: bool) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        _ => match seen.offset().filter(|_| ranges) {
            Some(offset) => {
                let rest = &bytes[offset..];
                Reply::status(206).body(rest).cut(rest.len().min(piece))
            }
            // Without ranges it gets a little further each time.
            None => Reply::status(200).body(&bytes).cut(bytes.len().min(piece * (seen.before + 1))),
        },
    }
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let bytes = noise(2, 100_000);
    for ranges in [true, false] {
        let server = Scripted::start(breaking(bytes.clone(), 40_000, ranges)).await;
        let read = read(&repository(&server.host(), "a"), &blob(&bytes)).await.expect("whole");
        assert!(read == bytes);
        let offsets: Vec<_> =
            server.seen().iter().filter(|s| s.method == "GET" && s.target != "/v2/").map(Seen::offset).collect();
        assert_eq!(offsets, [None, Some(40_000), Some(80_000)], "ranges: {ranges}");
    }
}

#[tokio::test]
async fn a_download_that_never_gets_on_ends() {
    let bytes = noise(3, 10_000);
    let script = {
        let bytes = bytes.clone();
        move |seen: &Seen| match seen.target.as_str() {
            "/v2/" => Reply::default(),
            _ if seen.offset().is_some() => Reply::status(206).body(&bytes[5_000..]).cut(0),
            _ => Reply::status(200).body(&bytes).cut(5_000),
        }
    };
    let server = Scripted::start(script).await;
    let error = read(&repository(&server.host(), "a"), &blob(&bytes)).await.expect_err("broke off");
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<RegistryError>()).expect("ours");
    assert!(matches!(inner, RegistryError::BrokeOff { .. }), "{inner:?}");
    assert_eq!(inner.class(), ErrorClass::Retryable);
}

#[tokio::test]
async fn a_blob_of_other_bytes_is_refused() {
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply::status(200).body("WRONG"),
    })
    .await;
    let error = read(&repository(&server.host(), "a"), &blob(b"right")).await.expect_err("wrong");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.get_ref().expect("a reason").is::<VerifyError>(), "{error:?}");
    let short = read(&repository(&server.host(), "a"), &blob(b"r")).await.expect_err("too long");
    assert_eq!(short.kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_busy_registry_is_left_alone_between_downloads_too() {
    let server = Scripted::start(|seen| match (seen.method.as_str(), seen.target.as_str(), seen.before) {
        (_, "/v2/", _) => Reply::default(),
        ("GET", _, 0) | ("HEAD", _, 0) => Reply::status(429).header("retry-after", 1),
        _ => Reply::status(200).body("hello"),
    })
    .await;
    let began = Instant::now();
    assert_eq!(read(&repository(&server.host(), "a"), &blob(b"hello")).await.expect("whole"), b"hello");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

/// Answers as a registry without content that takes uploads; `put` may refuse them.
fn taking(host: String, put: impl Fn(&Seen) -> Reply + Send + Sync) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |seen| match (seen.method.as_str(), seen.target.as_str()) {
        (_, "/v2/") => Reply::default(),
        ("HEAD", _) => Reply::status(404),
        ("POST", _) => Reply::status(202).header("location", format!("http://{host}/v2/a/blobs/uploads/1?_state=s")),
        ("DELETE", _) => Reply::status(204),
        _ => put(seen),
    }
}

#[tokio::test]
async fn a_broken_upload_is_repeated_from_its_beginning() {
    let bytes = noise(4, 2 << 20);
    let created = |seen: &Seen| match seen.before {
        0 => Reply::status(503),
        _ => Reply::status(201).header("location", "/v2/a/blobs/x"),
    };
    let server = Scripted::knowing(|host| taking(host, created)).await;
    let registry = registry(settings());
    let repository = registry.repository(&named(&server.host(), "a"));
    let opened = Mutex::new(0);
    let open = || {
        *opened.lock().expect("unpoisoned") += 1;
        std::future::ready(Ok(from_bytes(bytes.clone().into())))
    };
    assert_eq!(repository.push_blob(&blob(&bytes), open).await.expect("stored"), Pushed::Uploaded);
    assert_eq!(*opened.lock().expect("unpoisoned"), 2);
    let puts: Vec<Seen> = server.seen().into_iter().filter(|seen| seen.method == "PUT").collect();
    assert_eq!(puts.len(), 2);
    assert!(puts.iter().all(|put| put.body == bytes), "each attempt sends everything");
    let digest = Digest::of(&bytes).to_string().replace(':', "%3A");
    assert_eq!(puts[1].target, format!("/v2/a/blobs/uploads/1?_state=s&digest={digest}"));
    assert_eq!(registry.traffic().uploads, 1);
    assert_eq!(registry.traffic().sent, 4 << 20);
}

#[tokio::test]
async fn a_source_that_can_be_read_once_is_sent_once_and_small_ones_again() {
    let server = Scripted::knowing(|host| taking(host, |_| Reply::status(500))).await;
    for (size, times) in [(2 << 20, 1), (1 << 10, 4)] {
        let bytes = noise(size as u64, size);
        let repository = repository(&server.host(), "a");
        let before = server.seen().iter().filter(|seen| seen.method == "PUT").count();
        let error = repository.put(&blob(&bytes), from_bytes(bytes.into())).await.expect_err("refused");
        assert_eq!(error.class(), ErrorClass::Retryable);
        assert_eq!(server.seen().iter().filter(|seen| seen.method == "PUT").count() - before, times, "{size}");
    }
}

#[tokio::test]
async fn an_upload_that_has_not_begun_is_repeated_even_from_such_a_source() {
    let server = Scripted::knowing(|host| {
        let rest = taking(host, |_| Reply::status(201).header("location", "/v2/a/blobs/x"));
        move |seen: &Seen| match (seen.method.as_str(), seen.before) {
            ("POST", 0) => Reply::status(502),
            _ => rest(seen),
        }
    })
    .await;
    let bytes = noise(5, 2 << 20);
    repository(&server.host(), "a").put(&blob(&bytes), from_bytes(bytes.clone().into())).await.expect("stored");
}

#[tokio::test]
async fn a_source_that_fails_is_not_the_registrys_fault() {
    let server = Scripted::knowing(|host| taking(host, |_| Reply::status(201).header("location", "/v2/a/blobs/x"))).await;
    let bytes = noise(6, 3 << 20);
    let descriptor = blob(&noise(7, 3 << 20));
    let lying = crate::content::verifying(std::io::Cursor::new(bytes), &descriptor);
    let error = repository(&server.host(), "a").put(&descriptor, lying).await.expect_err("refused");
    assert_eq!(error.class(), ErrorClass::Damaged, "{error:?}");
}

#[tokio::test]
async fn why_an_upload_is_refused_is_told() {
    let server = Scripted::start(|seen| match (seen.method.as_str(), seen.target.as_str()) {
        (_, "/v2/") => Reply::default(),
        ("HEAD", _) => Reply::status(404),
        _ => Reply::status(403).body(r#"{"errors":[{"code":"DENIED","message":"quota exceeded"}]}"#),
    })
    .await;
    let bytes = noise(8, 10);
    let error = repository(&server.host(), "a").put(&blob(&bytes), from_bytes(bytes.into())).await.expect_err("refused");
    let ContentError::Failed { class: ErrorClass::Denied, source, .. } = &error else { panic!("{error:?}") };
    assert!(source.to_string().ends_with("was answered with 403 Forbidden: DENIED: quota exceeded"), "{source}");
}

#[tokio::test]
async fn a_host_gets_no_more_requests_at_once_than_its_limit() {
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        _ => index().after(Duration::from_millis(50)),
    })
    .await;
    let registry = registry(Settings { limits: Limits { reads: 3, writes: 1 }, ..settings() });
    let repository = registry.repository(&named(&server.host(), "a"));
    let tags: Vec<Reference> = (0..12).map(|n| repository.name().with_tag(format!("t{n}").parse().expect("a tag"))).collect();
    futures_util::future::join_all(tags.iter().map(|tag| repository.resolve(tag))).await;
    assert_eq!(server.asked().len(), 12);
    assert_eq!(server.busiest(), 3);
}

#[tokio::test]
async fn tags_are_listed_page_by_page() {
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        "/v2/a/tags/list?n=1000" => Reply::status(200)
            .header("link", r#"</v2/a/tags/list?last=b&n=2>; rel="next""#)
            .body(r#"{"name":"a","tags":["b","a"]}"#),
        "/v2/a/tags/list?last=b&n=2" => Reply::status(200).body(r#"{"name":"a","tags":["c"]}"#),
        _ => Reply::status(404),
    })
    .await;
    let tags = repository(&server.host(), "a").tags().await.expect("listed");
    assert_eq!(tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(repository(&server.host(), "b").tags().await.expect("listed").is_empty());
}

#[tokio::test]
async fn patience_is_the_policys() {
    // One attempt means no repetition at all.
    let server = Scripted::start(|seen| match seen.target.as_str() {
        "/v2/" => Reply::default(),
        _ => Reply::status(500),
    })
    .await;
    let retry = RetryPolicy { attempts: 1, ..settings().retry };
    let repository = registry(Settings { retry, ..settings() }).repository(&named(&server.host(), "a"));
    repository.manifest(&tagged(&repository)).await.expect_err("not known");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_registry_that_doubts_a_digest_for_a_moment_is_asked_again() {
    let server = Scripted::start(|seen| match (seen.method.as_str(), seen.target.as_str(), seen.before) {
        (_, "/v2/", _) => Reply::default(),
        ("PUT", _, 0) => Reply::status(400).body(r#"{"errors":[{"code":"DIGEST_INVALID","message":"did not match"}]}"#),
        ("PUT", _, _) => Reply::status(201).header("location", "/x"),
        _ => Reply::status(404),
    })
    .await;
    let repository = repository(&server.host(), "a");
    repository.push_manifest(MediaType::INDEX, INDEX.into()).await.expect("stored");
}

/// A registry in which `1` is `now`, with an ETag, that honours conditions or not.
fn conditional(honours: bool, lost: bool) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |seen| match (seen.method.as_str(), seen.target.as_str()) {
        (_, "/v2/") => Reply::default(),
        ("PUT", target) if target.ends_with("manifests/1") => {
            assert!(seen.header("if-match") == Some("\"e\"") || seen.header("if-none-match") == Some("*"), "{seen:?}");
            Reply::status(if honours { 412 } else { 201 }).header("location", "/x")
        }
        ("PUT", _) => Reply::status(201).header("location", "/x"),
        (_, target) if target.ends_with("manifests/1") => {
            let other = br#"{"schemaVersion":2,"manifests":[],"annotations":{"by":"another"}}"#;
            let bytes = if lost || seen.before > 0 { &other[..] } else { INDEX };
            Reply::status(200).header("content-type", MediaType::INDEX).header("etag", "\"e\"").body(bytes)
        }
        _ => Reply::status(404),
    }
}

#[tokio::test]
async fn a_name_that_somebody_else_writes_is_reported_as_moved() {
    let mine = br#"{"schemaVersion":2,"manifests":[],"annotations":{"by":"me"}}"#;
    for (honours, lost) in [(true, false), (false, false), (false, true)] {
        let server = Scripted::start(conditional(honours, lost)).await;
        let repository = repository(&server.host(), "a");
        let root = repository.push_manifest(MediaType::INDEX, mine[..].into()).await.expect("stored");
        let outcome = repository.tag_if(&tagged(&repository), Some(Digest::of(INDEX)), &root).await.expect("known");
        let TagOutcome::Moved(Some(now)) = outcome else { panic!("{outcome:?}") };
        assert!(String::from_utf8_lossy(&now.bytes).contains("another"));
        let written = server.asked().iter().filter(|asked| asked.as_str() == "PUT /v2/a/manifests/1").count();
        assert_eq!(written, usize::from(!lost), "what is based on an older state is not written at all");
    }
}
