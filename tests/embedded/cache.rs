//! What is cached, and what is not.

use std::sync::Arc;

use pkgbuild::builder::{BuildError, CacheUse};

use crate::fixture::Test;

#[tokio::test]
async fn a_second_build_runs_nothing_and_gives_the_same_image() {
    let mut test = Test::new();
    test.write("a", b"1");
    test.dockerfile("FROM scratch AS s\nCOPY a /a\nFROM scratch\nWORKDIR /w\nCOPY --from=s /a /b\n");
    let first = test.build().await;
    assert_eq!(first.ran().len(), 3);
    let second = test.build().await;
    assert_eq!((second.ran(), second.cached()), (vec![], 3));
    assert_eq!(second.image(), first.image());
    // Another process sees the same cache.
    let again = Test { builder: reopened(&test), ..test };
    assert_eq!(again.build().await.cached(), 3);
}

fn reopened(test: &Test) -> Arc<pkgbuild::builder::embedded::EmbeddedBuilder> {
    let sandbox = pkgbuild::builder::embedded::sandbox::Sandbox::of_program(std::path::Path::new(env!("CARGO_BIN_EXE_pkgbuild")));
    Arc::new(pkgbuild::builder::embedded::EmbeddedBuilder::open(test.store.clone(), sandbox, 2).expect("opens"))
}

#[tokio::test]
async fn a_changed_file_runs_again_only_what_reads_it() {
    let mut test = Test::new();
    test.write("a", b"1");
    test.write("b", b"1");
    test.dockerfile("FROM scratch AS s\nCOPY a /a\nFROM scratch\nCOPY b /b\nCOPY --from=s /a /c\n");
    test.build().await.image();
    test.write("a", b"2");
    let built = test.build().await;
    assert_eq!(built.ran(), ["COPY a /a", "COPY --from=s /a /c"]);
    assert_eq!(test.file(&built, "c"), "2");
    test.write("unread", b"2");
    assert_eq!(test.build().await.ran(), [""; 0]);
}

#[tokio::test]
async fn equal_files_stop_the_ripple_of_a_change() {
    let mut test = Test::new();
    test.write("a", b"1");
    test.write("other/a", b"1");
    test.dockerfile("FROM scratch\nCOPY a /a\nWORKDIR /w\nCOPY a /b\n");
    let first = test.build().await;
    // Another instruction that leaves the same files.
    test.dockerfile("FROM scratch\nCOPY a ./a\nWORKDIR /w\nCOPY a /b\n");
    let second = test.build().await;
    assert_ne!(second.image(), first.image(), "the history differs");
    assert_eq!(second.ran(), [""; 0], "the destination is the same");
    test.dockerfile("FROM scratch\nCOPY --chown=0:0 a /a\nWORKDIR /w\nCOPY a /b\n");
    assert_eq!(test.build().await.ran(), ["COPY --chown=0:0 a /a"]);
}

#[tokio::test]
async fn without_the_cache_everything_runs_and_is_recorded() {
    let mut test = Test::new();
    test.write("a", b"1");
    test.dockerfile("FROM scratch\nCOPY a /a\nWORKDIR /w\n");
    let first = test.build().await;
    let mut request = test.request.clone();
    request.cache = CacheUse::WriteOnly;
    let second = test.build_request(&request).await;
    assert_eq!(second.ran().len(), 2);
    assert_eq!(second.image(), first.image());
    assert_eq!(test.build().await.ran().len(), 0);
}

#[tokio::test]
async fn a_lost_layer_costs_a_run_of_its_step() {
    let mut test = Test::new();
    test.write("a", b"1");
    test.dockerfile("FROM scratch\nCOPY a /a\nWORKDIR /w\n");
    let first = test.build().await;
    std::fs::remove_dir_all(test.store.directory().join("pkgbuild/v1/layers")).expect("removes");
    std::fs::create_dir(test.store.directory().join("pkgbuild/v1/layers")).expect("creates");
    let second = test.build().await;
    assert_eq!((second.ran().len(), second.cached()), (2, 0));
    assert_eq!(second.image(), first.image());
}

#[tokio::test]
async fn the_time_of_the_image_is_in_the_keys_of_what_writes_it() {
    let mut test = Test::new();
    test.write("a", b"1");
    test.dockerfile("FROM scratch\nCOPY a /a\n");
    test.build().await.image();
    test.request.source_date = pkgbuild::time::SourceDate(1_000_000_000);
    let built = test.build().await;
    assert_eq!(built.ran().len(), 1);
    assert!(test.layers(&built)[0][0].contains("2001-09-09 01:46:40"));
}

#[tokio::test]
async fn a_cancelled_build_says_so_and_can_be_repeated() {
    let mut test = Test::new();
    test.write("a", b"1");
    test.dockerfile("FROM scratch\nCOPY a /a\n");
    let mut request = test.request.clone();
    request.cancel = tokio_util::sync::CancellationToken::new();
    request.cancel.cancel();
    let built = test.build_request(&request).await;
    assert!(matches!(built.result, Err(BuildError::Cancelled)), "{}", built.error());
    test.build().await.image();
}
