//! `ADD` of URLs, against a server that answers, lies, stalls and leads astray.

use std::sync::Arc;
use std::time::Duration;

use pkgbuild::builder::Builder;
use pkgbuild::builder::embedded::EmbeddedBuilder;
use pkgbuild::builder::embedded::remote::{RemoteAccess, RemoteLimits, RemoteSettings};
use pkgbuild::builder::embedded::sandbox::Sandbox;
use pkgbuild::oci::{Digest, Platform};
use pkgbuild::registry::{RetryPolicy, install_tls_provider};
use pkgbuild::time::SourceDate;

use crate::fixture::Test;
use crate::web::{Reply, Web};

/// Returns settings that wait for nothing long.
pub fn settings() -> RemoteSettings {
    install_tls_provider();
    let (first, longest) = (Duration::from_millis(1), Duration::from_millis(5));
    RemoteSettings {
        retry: RetryPolicy { attempts: 4, first, longest, patience: Duration::from_secs(1) },
        silence: Duration::from_millis(300),
        ..RemoteSettings::default()
    }
}

/// Gives the test a builder of another run over the same cache.
pub fn another_run(test: &mut Test, settings: &RemoteSettings) {
    let sandbox = Sandbox::of_program(std::path::Path::new(env!("CARGO_BIN_EXE_pkgbuild")));
    let builder = EmbeddedBuilder::open(test.store.clone(), sandbox, 2).expect("opens");
    test.builder = Arc::new(builder.with_remotes(settings).expect("opens"));
}

pub fn test() -> Test {
    let mut test = Test::new();
    another_run(&mut test, &settings());
    test
}

fn offline() -> RemoteSettings {
    RemoteSettings { access: RemoteAccess::Offline, ..settings() }
}

#[tokio::test]
async fn a_file_is_added_under_its_own_name_with_mode_0600_and_the_images_time() {
    let web = Web::start(|_| Reply::file("data").header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"));
    let mut test = test();
    test.dockerfile(&format!(
        "FROM scratch\nADD {} /d/\nADD {0} /e\nADD --chmod=755 --chown=7:8 {0} /f\n",
        web.url("/x/a%20b.txt?q=/y")
    ));
    let built = test.build().await;
    let layers = test.layers(&built);
    assert_eq!(layers[0], ["drwxr-xr-x 0/0 0 1970-01-01 00:00:00 d/", "-rw------- 0/0 4 1970-01-01 00:00:00 d/a b.txt"]);
    assert_eq!(layers[1], ["-rw------- 0/0 4 1970-01-01 00:00:00 e"]);
    assert_eq!(layers[2], ["-rwxr-xr-x 7/8 4 1970-01-01 00:00:00 f"]);
    assert_eq!(web.count(), 1, "three instructions, one file");
    test.request.source_date = SourceDate(86400);
    let later = test.build().await;
    assert_eq!(test.layers(&later)[1], ["-rw------- 0/0 4 1970-01-02 00:00:00 e"]);
    assert_eq!(web.count(), 1);
}

#[tokio::test]
async fn an_archive_is_unpacked_only_when_asked_for() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o640);
    archive.append_data(&mut header, "in/side", &b"x"[..]).expect("appends");
    let archive = archive.into_inner().expect("ends");
    let web = Web::start(move |_| Reply::file(&archive));
    let mut test = test();
    test.dockerfile(&format!(
        "FROM scratch\nADD {} /a/\nADD --unpack {0} /b/\nADD --unpack=false {0} /c/\n",
        web.url("/[x].tar")
    ));
    let built = test.build().await;
    let names: Vec<Vec<String>> = test
        .layers(&built)
        .iter()
        .map(|l| l.iter().map(|l| l.rsplit(' ').next().expect("a name").to_owned()).collect())
        .collect();
    assert_eq!(names, [vec!["a/", "a/[x].tar"], vec!["b/", "b/in/", "b/in/side"], vec!["c/", "c/[x].tar"]]);
}

#[tokio::test]
async fn sources_of_several_kinds_are_copied_in_order() {
    let web = Web::start(|_| Reply::file("remote"));
    let mut test = test();
    test.write("f", b"local");
    test.dockerfile(&format!("FROM scratch\nADD f {} <<g /d/\nheredoc\ng\nADD {0} f /e/\n", web.url("/f")));
    let built = test.build().await;
    assert_eq!((test.file(&built, "d/f"), test.file(&built, "d/g")), ("remote".into(), "heredoc\n".into()));
    assert_eq!(test.file(&built, "e/f"), "local");
}

#[tokio::test]
async fn with_a_checksum_the_server_is_asked_once_for_all_runs() {
    let web = Web::start(|_| Reply::file("data"));
    let mut test = test();
    let digest = Digest::of(b"data");
    test.dockerfile(&format!("FROM scratch\nADD --checksum={digest} {} /d\n", web.url("/f")));
    let first = test.build().await.image().manifest.digest;
    another_run(&mut test, &offline());
    assert_eq!(test.build().await.image().manifest.digest, first);
    // Neither is the step's record needed, nor is the layer.
    test.dockerfile(&format!("FROM scratch\nADD --checksum={digest} {} /other\n", web.url("/f")));
    assert_eq!(test.file(&test.build().await, "other"), "data");
    assert_eq!(web.count(), 1);
}

#[tokio::test]
async fn other_content_than_the_checksum_says_is_refused() {
    let web = Web::start(|_| Reply::file("tampered"));
    let mut test = test();
    test.dockerfile(&format!("FROM scratch\nADD --checksum={} {} /d\n", Digest::of(b"data"), web.url("/f?token=secret")));
    let error = test.build().await.error();
    assert!(
        error.contains(&format!(
            "{}/f is {}, and the Dockerfile wants {}",
            web.url(""),
            Digest::of(b"tampered"),
            Digest::of(b"data")
        )),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
    assert_eq!(web.count(), 1, "asking again cannot help");
}

#[tokio::test]
async fn without_a_checksum_the_server_is_asked_once_in_a_run() {
    // A server that changes its mind with every question.
    let web = Web::start(|seen| Reply::file(format!("content {}", seen.before)));
    let mut test = test();
    test.dockerfile(&format!("FROM scratch\nARG TARGETARCH\nADD {} /f-$TARGETARCH\n", web.url("/f")));
    let (amd, mut arm) = (test.request.clone(), test.request.clone());
    arm.platform = Platform::linux(if amd.platform.architecture == "arm64" { "amd64" } else { "arm64" });
    let (one, two) = tokio::join!(test.build_request(&amd), test.build_request(&arm));
    for (built, platform) in [(&one, &amd.platform), (&two, &arm.platform)] {
        assert_eq!(test.file(built, &format!("f-{}", platform.architecture)), "content 0");
    }
    assert_eq!(web.count(), 1);
    another_run(&mut test, &settings());
    let next = test.build().await;
    assert_eq!(test.file(&next, &format!("f-{}", amd.platform.architecture)), "content 1");
}

#[tokio::test]
async fn what_did_not_change_is_not_sent_again() {
    // By ETag, by date, and by an ETag that the server sends but does not look at.
    for kind in ["etag", "date", "deaf"] {
        let web = Web::start(move |seen| {
            let matches = match kind {
                "etag" => seen.headers.get("if-none-match").is_some_and(|tag| tag == "\"1\""),
                "date" => seen.headers.contains_key("if-modified-since"),
                _ => false,
            };
            let reply = if matches { Reply::status(304) } else { Reply::file("data") };
            match kind {
                "date" => reply.header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
                // Once weak, once strong: compared as weak ones.
                _ if seen.before > 0 && kind == "deaf" => Reply { cut: Some(0), ..reply }.header("ETag", "W/\"1\""),
                _ => reply.header("ETag", "\"1\""),
            }
        });
        let mut test = test();
        test.dockerfile(&format!("FROM scratch\nADD {} /d\n", web.url("/f")));
        let first = test.build().await;
        another_run(&mut test, &settings());
        let second = test.build().await;
        assert_eq!(second.image().manifest.digest, first.image().manifest.digest, "{kind}");
        assert_eq!((second.ran().len(), web.count()), (0, 2), "{kind}");
    }
}

#[tokio::test]
async fn an_offline_run_says_what_it_lacks_and_what_would_help() {
    let web = Web::start(|_| Reply::file("data"));
    let mut test = test();
    another_run(&mut test, &offline());
    test.dockerfile(&format!("FROM scratch\nADD {} /d\n", web.url("/f")));
    assert!(test.build().await.error().contains("the run is offline, and only the server can say what"));
    another_run(&mut test, &settings());
    test.build().await.image();
    another_run(&mut test, &offline());
    let error = test.build().await.error();
    assert!(error.contains(&format!("with --checksum={} what was fetched last is taken", Digest::of(b"data"))), "{error}");
    test.dockerfile(&format!("FROM scratch\nADD --checksum={} {} /d\n", Digest::of(b"x"), web.url("/f")));
    assert!(test.build().await.error().contains("is not in the cache, and the run is offline"));
    assert_eq!(web.count(), 1);
}

#[tokio::test]
async fn failures_that_may_pass_are_repeated_and_others_are_not() {
    let web = Web::start(|seen| match (&seen.target[..], seen.before) {
        ("/busy", 0) => Reply::status(503),
        ("/busy", 1) => Reply::status(429).header("Retry-After", "0"),
        ("/cut", 0) => Reply { cut: Some(3), ..Reply::file("data") },
        ("/stall", 0) => Reply { cut: Some(3), stall: true, ..Reply::file("data") },
        ("/down", _) => Reply::status(500),
        ("/gone", _) => Reply::status(404),
        ("/denied", _) => Reply::status(403),
        _ => Reply::file("data"),
    });
    let mut test = test();
    for (path, requests) in [("/busy", 3), ("/cut", 2), ("/stall", 2)] {
        test.dockerfile(&format!("FROM scratch\nADD {} /d\n", web.url(path)));
        assert_eq!(test.file(&test.build().await, "d"), "data", "{path}");
        assert_eq!(web.seen().iter().filter(|seen| seen.target == path).count(), requests, "{path}");
    }
    for (path, requests, says) in [("/down", 4, "500"), ("/gone", 1, "was answered with 404"), ("/denied", 1, "403")] {
        test.dockerfile(&format!("FROM scratch\nADD {} /d\n", web.url(path)));
        let error = test.build().await.error();
        assert!(error.contains(says), "{error}");
        assert_eq!(web.seen().iter().filter(|seen| seen.target == path).count(), requests, "{path}");
    }
    // Nobody listens there.
    drop(std::net::TcpListener::bind("127.0.0.1:0").map(|listener| {
        test.dockerfile(&format!("FROM scratch\nADD http://{}/x /d\n", listener.local_addr().expect("bound")));
    }));
    assert!(test.build().await.error().contains("gave no answer"));
}

#[tokio::test]
async fn redirects_are_followed_and_checked_each_time() {
    let web = Web::start(|seen| match &seen.target[..] {
        "/a" => Reply::to("/b?x"),
        "/b?x" => Reply::file(seen.headers.get("authorization").map_or("nobody", |_| "somebody")),
        "/loop" => Reply::to("/loop"),
        "/cloud" => Reply::to("http://169.254.169.254/latest/meta-data"),
        "/spelled" => Reply::to("http://0xa9fea9fe/latest"),
        "/file" => Reply::to("file:///etc/passwd"),
        "/login" => Reply::to(format!("http://u:p@{}/b?x", seen.headers["host"])),
        _ => Reply::status(404),
    });
    let mut test = test();
    test.dockerfile(&format!("FROM scratch\nADD {} /to/\nADD {} /login\n", web.url("/a"), web.url("/login")));
    let built = test.build().await;
    assert_eq!(test.file(&built, "to/a"), "nobody", "the name is that of the Dockerfile");
    assert_eq!(test.file(&built, "login"), "nobody", "nobody is logged in by a redirect");
    for (path, says) in [
        ("/loop", "more than 10 redirects"),
        ("/cloud", "builds may not fetch from http://169.254.169.254/latest/meta-data: 169.254.169.254 is a link-local address"),
        ("/spelled", "builds may not fetch from http://169.254.169.254/latest"),
        ("/file", "leads to file:///etc/passwd, which is no address that is fetched"),
    ] {
        test.dockerfile(&format!("FROM scratch\nADD {} /d\n", web.url(path)));
        let error = test.build().await.error();
        assert!(error.contains(says), "{error}");
    }
    for url in
        ["http://[fe80::1]/x", "http://metadata.google.internal/x", "http://169.254.0.1:80/x", "http://[::ffff:a9fe:a9fe]/"]
    {
        test.dockerfile(&format!("FROM scratch\nADD {url} /d\n"));
        assert!(test.build().await.error().contains("builds may not fetch from"), "{url}");
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_is_not_taken() {
    let web = Web::start(|seen| match &seen.target[..] {
        "/honest" => Reply::file([0; 2000]),
        _ => Reply::file([b'0'; 2000]).header("Transfer-Encoding", "identity").header("Content-Length", "2000"),
    });
    let mut test = test();
    another_run(&mut test, &RemoteSettings { limits: RemoteLimits { file: 1999, ..RemoteLimits::default() }, ..settings() });
    test.dockerfile(&format!("FROM scratch\nADD {} /d\n", web.url("/honest")));
    let error = test.build().await.error();
    assert!(error.contains("has more than 1999 bytes"), "{error}");
    assert_eq!(web.count(), 1);
    let left = std::fs::read_dir(test.directory.path().join("cache/pkgbuild/v1/remote/files")).expect("lists").count();
    assert_eq!(left, 0, "nothing of it stays");
}

#[tokio::test]
async fn a_login_in_a_url_is_used_and_nowhere_written() {
    let web = Web::start(|seen| match seen.headers.get("authorization").map(String::as_str) {
        // `user:secret`
        Some("Basic dXNlcjpzZWNyZXQ=") => Reply::file("data").header("ETag", "\"1\""),
        _ => Reply::status(401),
    });
    let mut test = test();
    let url = web.url("/f").replace("://", "://user:secret@");
    test.dockerfile(&format!("FROM scratch\nADD {url} /d\n"));
    let built = test.build().await;
    assert_eq!(test.file(&built, "d"), "data");
    let history = format!("{:?}", test.config(&built).history);
    assert!(history.contains(&format!("ADD {} /d", web.url("/f"))), "{history}");
    assert!(!format!("{history}{:?}", built.events).contains("secret"));
    let mut grep = std::process::Command::new("grep");
    let status = grep.args(["-rqa", "secret"]).arg(test.directory.path().join("cache")).status().expect("runs");
    assert_eq!(status.code(), Some(1), "no file of the cache holds the password");
    test.dockerfile(&format!("FROM scratch\nADD {} /e\n", web.url("/f").replace("://", "://user:wrong@")));
    let error = test.build().await.error();
    assert!(error.contains("401") && !error.contains("wrong"), "{error}");
}

#[tokio::test]
async fn several_processes_that_want_one_file_fetch_it_once() {
    let web = Web::start(|_| Reply::file(vec![b'x'; 1 << 20]));
    let mut test = test();
    test.dockerfile(&format!("FROM scratch\nADD --checksum={} {} /d\n", Digest::of(&vec![b'x'; 1 << 20]), web.url("/f")));
    let first = test.builder.clone();
    another_run(&mut test, &settings());
    let request = test.request.clone();
    let (one, two) = tokio::join!(async { first.build(&request, &|_| ()).await.expect("builds") }, test.build());
    assert_eq!(one.manifest.digest, two.image().manifest.digest);
    assert_eq!(web.count(), 1);
}

#[tokio::test]
async fn a_stage_that_is_not_needed_fetches_nothing() {
    let web = Web::start(|_| Reply::status(500));
    let mut test = test();
    test.write("f", b"x");
    test.dockerfile(&format!("FROM scratch AS unused\nADD {} /d\nFROM scratch\nCOPY f /\n", web.url("/f")));
    test.build().await.image();
    assert_eq!(web.count(), 0);
}

#[tokio::test]
async fn mistakes_are_told_before_anything_is_fetched() {
    let web = Web::start(|_| Reply::file("x"));
    let mut test = test();
    let url = web.url("/f");
    for (line, says) in [
        (format!("ADD --checksum=sha256:00 {url} /d"), "is no checksum"),
        (format!("ADD --checksum={} {url} {url} /d/", Digest::of(b"x")), "`--checksum` needs one source"),
        (format!("ADD --checksum={} f /d", Digest::of(b"x")), "`--checksum` needs one source"),
        (format!("COPY {url} /d"), "COPY takes no URL"),
        ("ADD https://h.example/a.git?color=red /d".to_owned(), "a git URL has no `color`"),
    ] {
        test.dockerfile(&format!("FROM scratch\nADD {url} /first\n{line}\n"));
        let error = test.build().await.error();
        assert!(error.contains(says), "{line}: {error}");
    }
    assert_eq!(web.count(), 0);
}
