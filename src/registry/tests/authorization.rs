//! Logins, tokens and helpers: what is asked for, what is sent, and to whom.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncReadExt;

use crate::content::{ContentSink, ContentSource, ErrorClass, from_bytes};
use crate::oci::{Descriptor, Digest, MediaType, Reference};

use super::super::{CredentialSources, Registry, RegistryError, RemoteRepository, Settings};
use super::scripted::{Reply, Scripted, Seen};
use super::{named, registry, settings};

const INDEX: &[u8] = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const SECRET: &str = "correct-horse";

fn index() -> Reply {
    Reply::status(200).header("content-type", MediaType::INDEX).header("docker-content-digest", Digest::of(INDEX)).body(INDEX)
}

fn tagged(repository: &RemoteRepository) -> Reference {
    repository.name().with_tag("1".parse().expect("a tag"))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn with(credentials: CredentialSources) -> Registry {
    registry(Settings { credentials, ..settings() })
}

fn login(host: &str, login: &str) -> CredentialSources {
    let mut credentials = CredentialSources::default();
    credentials.add(&format!("{host}={login}")).expect("valid");
    credentials
}

/// A registry that wants tokens from itself: those that `token` gives, and that `good` accepts.
fn token_registry(
    host: String,
    token: impl Fn(&Seen) -> Reply + Send + Sync,
    good: impl Fn(&Seen, &str) -> bool + Send + Sync,
) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |seen| {
        if seen.target.starts_with("/token") {
            return token(seen);
        }
        match seen.header("authorization").and_then(|value| value.strip_prefix("Bearer ")) {
            Some(sent) if good(seen, sent) && seen.target.contains("/blobs/") => Reply::status(200).body("hello"),
            Some(sent) if good(seen, sent) => index(),
            _ => Reply::status(401).header(
                "www-authenticate",
                format!(r#"Bearer realm="http://{host}/token",service="reg",scope="repository:a:pull""#),
            ),
        }
    }
}

fn gives(token: &str) -> Reply {
    Reply::status(200).body(format!(r#"{{"token":"{token}","expires_in":300}}"#))
}

fn tokens_asked(server: &Scripted) -> Vec<Seen> {
    server.seen().into_iter().filter(|seen| seen.target.starts_with("/token")).collect()
}

#[tokio::test]
async fn a_token_is_fetched_once_for_what_is_needed_and_used_until_it_ends() {
    // Of the form of a JWT, which oci-client would drop: blobs must be asked for with it all the same.
    let token = "ya29.c.b0AXv0zTP";
    let server = Scripted::knowing(|host| token_registry(host, move |_| gives(token), move |_, sent| sent == token)).await;
    let registry = with(login(&server.host(), &format!("me:{SECRET}")));
    let repository = registry.repository(&named(&server.host(), "a"));
    for _ in 0..3 {
        assert!(repository.resolve(&tagged(&repository)).await.expect("known").is_some());
    }
    let mut read = String::new();
    let blob = Descriptor::of(MediaType::LAYER_TAR, b"hello");
    repository.open(&blob).await.expect("there").read_to_string(&mut read).await.expect("whole");
    assert_eq!(read, "hello");
    let asked = tokens_asked(&server);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].target, "/token?service=reg&scope=repository%3Aa%3Apull");
    assert_eq!(asked[0].header("authorization"), Some(basic("me", SECRET).as_str()));
    let refused = server.seen().iter().filter(|seen| seen.header("authorization").is_none()).count();
    assert_eq!(refused, 1, "only `/v2/` is asked without the token");
}

#[tokio::test]
async fn many_requests_at_once_fetch_one_token() {
    let slow = |_: &Seen| gives("t").after(Duration::from_millis(100));
    let server = Scripted::knowing(|host| token_registry(host, slow, |_, sent| sent == "t")).await;
    let repository = registry(settings()).repository(&named(&server.host(), "a"));
    let tag = tagged(&repository);
    futures_util::future::join_all((0..8).map(|_| repository.resolve(&tag))).await;
    assert_eq!(tokens_asked(&server).len(), 1);
    assert!(tokens_asked(&server)[0].header("authorization").is_none(), "anonymous, as nothing is configured");
}

#[tokio::test]
async fn a_token_that_is_refused_is_fetched_anew_for_manifests_and_for_blobs() {
    let number = Arc::new(AtomicUsize::new(0));
    let good = Arc::new(AtomicUsize::new(1));
    let (given, accepted) = (Arc::clone(&number), Arc::clone(&good));
    let server = Scripted::knowing(|host| {
        token_registry(
            host,
            move |_| gives(&format!("t{}", given.fetch_add(1, Ordering::Relaxed) + 1)),
            move |_, sent| sent == format!("t{}", accepted.load(Ordering::Relaxed)),
        )
    })
    .await;
    let repository = registry(settings()).repository(&named(&server.host(), "a"));
    assert!(repository.resolve(&tagged(&repository)).await.expect("known").is_some());
    good.store(2, Ordering::Relaxed);
    assert!(repository.resolve(&tagged(&repository)).await.expect("known").is_some());
    assert_eq!(number.load(Ordering::Relaxed), 2);
    good.store(3, Ordering::Relaxed);
    let mut read = String::new();
    let blob = Descriptor::of(MediaType::LAYER_TAR, b"hello");
    repository.open(&blob).await.expect("there").read_to_string(&mut read).await.expect("whole");
    assert_eq!(number.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_failing_token_service_is_an_error_and_not_anonymous_access() {
    for (status, class, asked) in [(500, ErrorClass::Retryable, 4), (401, ErrorClass::Denied, 1), (302, ErrorClass::Permanent, 1)]
    {
        let token = move |_: &Seen| {
            Reply::status(status)
                .header("location", "http://elsewhere.example/")
                .body(r#"{"errors":[{"code":"X","message":"why"}]}"#)
        };
        let server = Scripted::knowing(|host| token_registry(host, token, |_, _| false)).await;
        let repository = with(login(&server.host(), &format!("me:{SECRET}"))).repository(&named(&server.host(), "a"));
        let error = repository.manifest(&tagged(&repository)).await.expect_err("not known");
        assert!(matches!(error, RegistryError::Token { .. }), "{error:?}");
        assert_eq!(error.class(), class, "{status}");
        assert!(error.to_string().ends_with(": X: why") && !format!("{error} {error:?}").contains(SECRET), "{error}");
        assert_eq!(tokens_asked(&server).len(), asked, "{status}");
        assert!(!server.seen().iter().any(|seen| seen.target.contains("manifests")), "the registry is not asked without a token");
        let blob = Descriptor::of(MediaType::LAYER_TAR, b"hello");
        assert!(repository.open(&blob).await.is_err() && repository.put(&blob, from_bytes("hello".into())).await.is_err());
        assert!(!server.seen().iter().any(|seen| seen.target.contains("blobs")), "nor for blobs");
    }
}

#[tokio::test]
async fn a_success_without_a_token_is_no_token() {
    let server = Scripted::knowing(|host| token_registry(host, |_| Reply::status(200).body("{}"), |_, _| true)).await;
    let repository = registry(settings()).repository(&named(&server.host(), "a"));
    let error = repository.manifest(&tagged(&repository)).await.expect_err("not known");
    assert!(matches!(error, RegistryError::NoToken { .. }), "{error:?}");
}

#[tokio::test]
async fn an_identity_token_is_exchanged_in_a_form() {
    let home = tempfile::tempdir().expect("a directory");
    let server = Scripted::knowing(|host| token_registry(host, |_| gives("t"), |_, sent| sent == "t")).await;
    let config = home.path().join("config.json");
    fs_err::write(&config, format!(r#"{{"auths":{{"{}":{{"identitytoken":"a&b"}}}}}}"#, server.host())).expect("written");
    let repository =
        with(CredentialSources { stores: vec![config], ..CredentialSources::default() }).repository(&named(&server.host(), "a"));
    assert!(repository.resolve(&tagged(&repository)).await.expect("known").is_some());
    let asked = tokens_asked(&server);
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("POST", "/token"));
    assert_eq!(
        String::from_utf8_lossy(&asked[0].body),
        "grant_type=refresh_token&refresh_token=a%26b&client_id=pkgbuild&service=reg&scope=repository%3Aa%3Apull"
    );
}

#[tokio::test]
async fn a_fixed_token_is_sent_as_it_is() {
    let server = Scripted::knowing(|host| token_registry(host, |_| Reply::status(500), |_, sent| sent == SECRET)).await;
    let repository = with(login(&server.host(), SECRET)).repository(&named(&server.host(), "a"));
    assert!(repository.resolve(&tagged(&repository)).await.expect("known").is_some());
    assert_eq!(tokens_asked(&server).len(), 0);
}

/// A registry that wants a login, and leads manifests, blobs and uploads to `elsewhere`.
fn leading(elsewhere: String, expected: String) -> impl Fn(&Seen) -> Reply + Send + Sync {
    move |seen| {
        if seen.header("authorization") != Some(&expected) {
            return Reply::status(401).header("www-authenticate", r#"Basic realm="here""#);
        }
        match (seen.method.as_str(), seen.target.as_str()) {
            (_, "/v2/") => Reply::status(200),
            ("HEAD", target) if target.contains("blobs") => Reply::status(404),
            ("POST", _) => Reply::status(202).header("location", format!("http://u:p@{elsewhere}/upload?x=1")),
            (_, target) => Reply::status(307).header("location", format!("http://u:p@{elsewhere}{target}")),
        }
    }
}

#[tokio::test]
async fn a_login_does_not_follow_to_another_host() {
    let elsewhere = Scripted::start(|seen| match (seen.method.as_str(), seen.target.contains("blobs")) {
        ("PUT", _) => Reply::status(201).header("location", "/x"),
        (_, true) => Reply::status(200).body("hello"),
        _ => index(),
    })
    .await;
    let server = Scripted::start(leading(elsewhere.host(), basic("me", SECRET))).await;
    let repository = with(login(&server.host(), &format!("me:{SECRET}"))).repository(&named(&server.host(), "a"));
    assert!(repository.manifest(&tagged(&repository)).await.expect("known").is_some());
    let blob = Descriptor::of(MediaType::LAYER_TAR, b"hello");
    let mut read = String::new();
    repository.open(&blob).await.expect("there").read_to_string(&mut read).await.expect("whole");
    repository.put(&blob, from_bytes("hello".into())).await.expect("stored");
    let seen = elsewhere.seen();
    assert_eq!(seen.iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), ["GET", "GET", "PUT"]);
    for seen in seen {
        // oci-client sends the user part of an address to the host that the address names; that is not our login.
        let sent = seen.header("authorization").unwrap_or_default();
        assert!(!sent.contains(&STANDARD.encode(format!("me:{SECRET}"))), "{seen:?}");
    }
}

#[tokio::test]
async fn a_wrong_login_is_denied_without_being_shown() {
    let server = Scripted::start(|_| Reply::status(401).header("www-authenticate", r#"Basic realm="here""#)).await;
    let repository = with(login(&server.host(), &format!("me:{SECRET}"))).repository(&named(&server.host(), "a"));
    let blob = Descriptor::of(MediaType::LAYER_TAR, b"hello");
    let errors = [
        repository.resolve(&tagged(&repository)).await.err(),
        repository.open(&blob).await.err(),
        repository.put(&blob, from_bytes("hello".into())).await.err(),
    ];
    for error in errors {
        let error = error.expect("denied");
        assert_eq!(error.class(), ErrorClass::Denied);
        let shown = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(!shown.contains(SECRET) && !shown.contains(&STANDARD.encode(format!("me:{SECRET}"))), "{shown}");
    }
}

#[tokio::test]
async fn a_challenge_that_only_writes_meet_is_answered() {
    let expected = basic("me", SECRET);
    let server = Scripted::knowing(|host| {
        move |seen: &Seen| match (seen.method.as_str(), seen.target.as_str()) {
            (_, "/v2/") => Reply::status(200),
            ("HEAD", _) => Reply::status(404),
            _ if seen.header("authorization") != Some(&expected) => {
                Reply::status(401).header("www-authenticate", r#"Basic realm="here""#)
            }
            ("POST", _) => Reply::status(202).header("location", format!("http://{host}/v2/a/blobs/uploads/1")),
            ("PUT", _) => Reply::status(201).header("location", "/x"),
            _ => Reply::status(204),
        }
    })
    .await;
    let repository = with(login(&server.host(), &format!("me:{SECRET}"))).repository(&named(&server.host(), "a"));
    let blob = Descriptor::of(MediaType::LAYER_TAR, b"hello");
    repository.put(&blob, from_bytes("hello".into())).await.expect("stored");
}

/// A directory with a helper `docker-credential-test` and a `config.json` that names it.
struct Helper {
    home: tempfile::TempDir,
}

impl Helper {
    fn new(script: &str) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let program = home.path().join("docker-credential-test");
        fs_err::write(&program, format!("#!/bin/sh\ncd '{}'\n{script}\n", home.path().display())).expect("written");
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        fs_err::write(home.path().join("config.json"), r#"{"credsStore":"test"}"#).expect("written");
        Self { home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn sources(&self) -> CredentialSources {
        CredentialSources {
            stores: vec![self.path("config.json")],
            helper_directories: vec![self.home.path().to_owned()],
            helper_limit: Duration::from_secs(2),
            ..CredentialSources::default()
        }
    }

    async fn asked_by(&self, server: &Scripted) -> Result<bool, RegistryError> {
        let repository = with(self.sources()).repository(&named(&server.host(), "a"));
        repository.manifest(&tagged(&repository)).await.map(|found| found.is_some())
    }
}

async fn wanting(expected: String) -> Scripted {
    Scripted::start(move |seen| match seen.header("authorization") == Some(&expected) {
        true => index(),
        false => Reply::status(401).header("www-authenticate", r#"Basic realm="here""#),
    })
    .await
}

#[tokio::test]
async fn a_helper_is_asked_for_the_server_once() {
    let helper = Helper::new(&format!(
        r#"cat >> asked; [ "$1" = get ] && echo '{{"ServerURL":"x","Username":"me","Secret":"{SECRET}"}}'"#
    ));
    let server = wanting(basic("me", SECRET)).await;
    let registry = with(helper.sources());
    for path in ["a", "b", "c"] {
        let repository = registry.repository(&named(&server.host(), path));
        assert!(repository.resolve(&tagged(&repository)).await.expect("known").is_some());
    }
    assert_eq!(fs_err::read_to_string(helper.path("asked")).expect("asked"), format!("{}\n", server.host()));
}

#[tokio::test]
async fn a_helper_without_the_login_leaves_it_to_the_next_and_one_that_fails_does_not() {
    let server = wanting(basic("me", SECRET)).await;
    let none = Helper::new("echo 'credentials not found in native keychain'; exit 1");
    let text = format!(r#"{{"auths":{{"{}":{{"username":"me","password":"{SECRET}"}}}}}}"#, server.host());
    let auth = none.path("auth.json");
    fs_err::write(&auth, text).expect("written");
    let mut sources = none.sources();
    sources.stores.push(auth.clone());
    let repository = with(sources).repository(&named(&server.host(), "a"));
    assert!(repository.resolve(&tagged(&repository)).await.expect("known").is_some());

    for (script, said) in [
        ("echo keychain is locked >&2; exit 3", "exit status: 3: keychain is locked"),
        (r#"echo '{"Secret":"correct-horse"}'; exit 1"#, "exit status: 1"),
        ("echo correct-horse", "its answer is no login"),
    ] {
        let failing = Helper::new(script);
        let mut sources = failing.sources();
        sources.stores.push(auth.clone());
        let repository = with(sources).repository(&named(&server.host(), "a"));
        let error = repository.manifest(&tagged(&repository)).await.expect_err("a failing helper");
        let shown = format!("{error}: {:?}", error);
        assert!(matches!(error, RegistryError::Credentials { .. }) && error.class() == ErrorClass::Denied, "{shown}");
        assert!(!shown.contains(SECRET), "{shown}");
        let mut cause: &dyn std::error::Error = &error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        assert!(cause.to_string().ends_with(said), "{cause}");
    }
}

#[tokio::test]
async fn a_helper_that_hangs_is_ended_with_all_it_started() {
    let helper = Helper::new("sleep 60 & echo $! > child; wait");
    let server = wanting(basic("me", SECRET)).await;
    let began = Instant::now();
    let error = helper.asked_by(&server).await.expect_err("a time limit");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(matches!(error, RegistryError::Credentials { .. }), "{error:?}");
    let child = fs_err::read_to_string(helper.path("child")).expect("started");
    let state = || fs_err::read_to_string(format!("/proc/{}/stat", child.trim()));
    let until = Instant::now() + Duration::from_secs(5);
    // A process that nobody has waited for yet is a zombie: dead.
    while state().is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < until, "the helper's child lives on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_helper_is_asked_again_when_its_login_is_refused() {
    // The first login is stale; so do those of clouds end in the middle of a run.
    let helper = Helper::new(&format!(
        r#"cat > /dev/null; echo x >> asked; p=stale; [ "$(wc -l < asked)" = 2 ] && p={SECRET}
        echo "{{\"ServerURL\":\"x\",\"Username\":\"me\",\"Secret\":\"$p\"}}""#
    ));
    let server = wanting(basic("me", SECRET)).await;
    assert!(helper.asked_by(&server).await.expect("known"));
}

#[tokio::test]
async fn a_helper_that_is_not_there_is_named() {
    let helper = Helper::new("");
    fs_err::write(helper.path("config.json"), r#"{"credHelpers":{"127.0.0.1":"x","other.example":"y"},"credsStore":"gone"}"#)
        .expect("written");
    let server = wanting(basic("me", SECRET)).await;
    let error = helper.asked_by(&server).await.expect_err("no helper");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.starts_with("credential helper `docker-credential-gone`, which `"), "{cause}");
}
