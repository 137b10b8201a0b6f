//! What is too large is refused in words, in bounded time and memory.

use std::io::Write;
use std::os::unix::fs::symlink;

use crate::fixture::Test;

#[tokio::test]
async fn a_dockerfile_is_at_most_16_mib() {
    let mut test = Test::new();
    test.dockerfile(&format!("FROM scratch\n{}", "#\n".repeat(8 << 20)));
    assert!(test.build().await.error().contains("larger than 16777216 bytes"));
}

#[tokio::test]
async fn ghsa_mgqf_486f_49vp_an_ignore_file_is_at_most_1_mib() {
    let mut test = Test::new();
    test.write("f", b"");
    test.write(".dockerignore", &b"*/?*/?*/x\n".repeat(200_000));
    test.dockerfile("FROM scratch\nCOPY f /\n");
    let error = test.build().await.error();
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
}

#[tokio::test]
async fn ghsa_9728_qjrv_2xh2_an_ignore_file_that_never_ends_is_not_waited_for() {
    let mut test = Test::new();
    test.write("f", b"");
    assert!(std::process::Command::new("mkfifo").arg(test.context().join(".dockerignore")).status().expect("runs").success());
    test.dockerfile("FROM scratch\nCOPY f /\n");
    let built = tokio::time::timeout(std::time::Duration::from_secs(60), test.build()).await.expect("ends");
    drop(built);
}

#[tokio::test]
async fn ghsa_72x6_4j93_7w86_and_cve_2024_9676_lists_of_users_and_groups_are_at_most_10_mib() {
    for (file, line) in [("passwd", "x:x:1:1:::\n"), ("group", "x:x:1:a,b,c\n")] {
        let mut test = Test::with_busybox().await;
        test.write("big", &line.repeat((10 << 20) / line.len() + 1).into_bytes());
        test.dockerfile(&format!("FROM busybox\nCOPY big /etc/{file}\nUSER nobody:nogroup\nRUN id\n"));
        let error = test.build().await.error();
        assert!(error.contains(&format!("/etc/{file}")) || error.contains("large") || error.contains("MiB"), "{error}");
    }
}

#[tokio::test]
async fn an_archive_with_deep_or_long_paths_is_refused_or_unpacked_and_never_hangs() {
    for name in ["d/".repeat(3000) + "f", "n".repeat(300), "../".repeat(1000) + "f"] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        // The writer refuses `..`; a header of our own says it.
        let record = format!("path={name}\n");
        let length = (record.len() + 2..).find(|n| format!("{n} {record}").len() == *n).expect("some length fits");
        let data = format!("{length} {record}");
        let mut extended = tar::Header::new_ustar();
        extended.set_entry_type(tar::EntryType::XHeader);
        extended.set_size(data.len() as u64);
        extended.set_cksum();
        builder.append(&extended, data.as_bytes()).expect("appends");
        header.set_path("short").expect("sets");
        header.set_cksum();
        builder.append(&header, &b""[..]).expect("appends");
        let mut test = Test::new();
        test.write("a.tar", &builder.into_inner().expect("ends"));
        test.dockerfile("FROM scratch\nADD a.tar /\n");
        let built = test.build().await;
        if let Err(error) = &built.result {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[tokio::test]
async fn links_that_go_in_circles_end() {
    let mut test = Test::with_busybox().await;
    symlink("b", test.context().join("a")).expect("links");
    symlink("a", test.context().join("b")).expect("links");
    symlink(".", test.context().join("self")).expect("links");
    for copy in ["COPY a/x /", "COPY self/self/self/a /", "COPY a /x/"] {
        test.dockerfile(&format!("FROM scratch\n{copy}\n"));
        let _ = test.build().await;
    }
    test.dockerfile("FROM busybox\nRUN /bin/busybox ln -s l /l; /bin/busybox ln -s m/n /m\nWORKDIR /l/x\nWORKDIR /m/x\n");
    assert!(test.build().await.result.is_err());
}

#[tokio::test]
async fn cve_2026_15789_dockerfiles_of_all_shapes_are_refused_in_words() {
    for text in [
        "",
        "\0",
        "FROM",
        "FROM \u{feff}",
        "FROM scratch\nCOPY --from",
        "FROM scratch\nRUN <<",
        "FROM scratch\nCOPY <<E",
        "FROM a AS a\nFROM a\nCOPY --from=1 x y",
        "FROM scratch\nONBUILD ONBUILD RUN x",
        "FROM scratch\nENV",
        "FROM scratch\nRUN --mount=",
        "FROM scratch\nRUN --mount=type",
        "FROM scratch\nRUN --mount=type=bind,,",
        "FROM ${",
        "FROM ${a:?}",
        "ARG a=${a\nFROM scratch",
        "FROM scratch\nEXPOSE 99999999999999999999",
        "FROM scratch\nHEALTHCHECK --interval=99999999999999h CMD x",
        "FROM scratch\nCOPY --chmod=99999999999 a b",
        "FROM scratch\nCOPY --chown=:::: a b",
        "FROM scratch\nUSER \0\nWORKDIR \0",
        "FROM scratch\nWORKDIR a\0b\n",
        "FROM scratch\nCOPY a\0b /",
    ] {
        let mut test = Test::new();
        test.dockerfile(text);
        let built = test.build().await;
        assert!(built.result.is_err(), "{text:?}");
        assert!(!built.error().is_empty());
    }
}

#[tokio::test]
async fn a_layer_that_unpacks_to_far_more_than_it_weighs_is_refused() {
    // 40 GiB of nothing, in 40 MB; refused when 16 GiB are reached, without writing them: the file has a hole.
    let mut test = Test::new();
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").expect("sets");
    header.set_size(1 << 60);
    header.set_mode(0o644);
    header.set_cksum();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(header.as_bytes()).expect("writes");
    packed.write_all(&[0; 1 << 20]).expect("writes");
    test.write("bomb.tar.gz", &packed.finish().expect("ends"));
    test.dockerfile("FROM scratch\nADD bomb.tar.gz /\n");
    let error = test.build().await.error();
    assert!(error.contains("large") || error.contains("truncated") || error.contains("ends"), "{error}");
}
