//! Named contexts, targets, and stages that are not taken from the cache.

use std::sync::Arc;

use pkgbuild::builder::{Base, BaseKey, NamedContext};
use pkgbuild::oci::Platform;

use crate::fixture::Test;

/// Makes `name` mean a directory with these files.
fn directory(test: &mut Test, name: &str, files: &[(&str, &str)]) {
    let path = test.directory.path().join(name);
    for (file, content) in files {
        let file = path.join(file);
        std::fs::create_dir_all(file.parent().expect("inside")).expect("makes");
        std::fs::write(file, content).expect("writes");
    }
    test.request.variation.contexts.insert(name.to_owned(), NamedContext::Directory(path));
}

#[tokio::test]
async fn the_files_of_a_directory_stand_in_for_a_stage_and_for_an_image() {
    let mut test = Test::new();
    test.write("f", b"from the stage");
    let text = "FROM scratch AS build\nCOPY f /f\nFROM scratch\nCOPY --from=build /f /f\n";
    test.dockerfile(text);
    let plain = test.build().await;
    assert_eq!(test.file(&plain, "f"), "from the stage");
    directory(&mut test, "build", &[("f", "from a directory"), ("other", "1"), ("secret", "2"), (".dockerignore", "secret\n")]);
    let replaced = test.build().await;
    assert_eq!(test.file(&replaced, "f"), "from a directory");
    assert_eq!(replaced.ran(), ["context build", "COPY --from=build /f /f"], "the stage itself is not built");
    // What is not copied may change, what is copied may not.
    directory(&mut test, "build", &[("other", "changed")]);
    assert_eq!(test.build().await.ran(), ["context build"]);
    directory(&mut test, "build", &[("secret", "changed")]);
    assert_eq!(test.build().await.ran(), Vec::<String>::new(), "its own ignore file counts");
    directory(&mut test, "build", &[("f", "changed")]);
    assert_eq!(test.file(&test.build().await, "f"), "changed");
    // For an image that exists nowhere, in any spelling of its name.
    test.dockerfile("FROM scratch\nCOPY --from=docker.io/library/build:latest /other /o\n");
    assert_eq!(test.file(&test.build().await, "o"), "changed");
    // And to start from: the files are a layer with its line.
    test.dockerfile("FROM build\nCOPY f /g\n");
    let built = test.build().await;
    assert_eq!(test.file(&built, "other"), "changed");
    assert!(test.layers(&built)[0].iter().all(|line| !line.ends_with("secret")));
    let config = test.config(&built);
    assert_eq!((config.history.len(), config.rootfs.diff_ids.len()), (2, 2));
    // A context that nothing needs is not even looked at.
    test.request.variation.contexts.insert("unused".to_owned(), NamedContext::Directory("/nowhere".into()));
    test.build().await.image();
}

#[tokio::test]
async fn an_image_stands_in_for_a_stage() {
    let mut test = Test::new();
    let mut other = Test::new();
    other.write("f", b"of the image");
    other.dockerfile("FROM scratch\nENV FROM_IMAGE=yes\nCOPY f /f\n");
    let manifest = other.build().await.image().manifest.clone();
    let key = BaseKey { reference: "example.org/other:1".into(), platform: Platform::host() };
    test.request.bases.insert(key, Base { manifest, source: Arc::new(other.store.clone()) });
    test.request.variation.contexts.insert("base".to_owned(), NamedContext::Image("example.org/other:1".to_owned()));
    test.dockerfile("FROM nowhere.example/x AS Base\nRUN false\nFROM base\nCOPY --from=base /f /copied\n");
    let built = test.build().await;
    assert_eq!(test.file(&built, "copied"), "of the image");
    assert!(test.config(&built).config.env.contains(&"FROM_IMAGE=yes".to_owned()));
}

#[tokio::test]
async fn commands_see_the_files_of_a_named_directory() {
    let mut test = Test::with_busybox().await;
    directory(&mut test, "tools", &[("x", "tool\n")]);
    test.dockerfile("FROM busybox\nRUN --mount=from=tools,target=/t cat /t/x > /out\n");
    let built = test.build().await;
    assert_eq!(test.file(&built, "out"), "tool\n");
    assert_eq!(test.build().await.ran(), Vec::<String>::new());
    directory(&mut test, "tools", &[("x", "another\n")]);
    assert_eq!(test.file(&test.build().await, "out"), "another\n");
}

#[tokio::test]
async fn a_target_is_built_alone_and_an_unknown_one_is_refused() {
    let mut test = Test::new();
    test.write("f", b"");
    test.dockerfile(
        "FROM scratch AS one\nARG TARGETSTAGE\nENV STAGE=$TARGETSTAGE\nCOPY f /one\nFROM one AS Two\nCOPY f /two\nFROM scratch\nCOPY no /\n",
    );
    test.request.variation.target = Some("two".to_owned());
    let built = test.build().await;
    assert_eq!(built.ran(), ["COPY f /one", "COPY f /two"]);
    assert!(test.config(&built).config.env.contains(&"STAGE=two".to_owned()));
    test.request.variation.target = Some("tow".to_owned());
    let error = test.build().await.error();
    assert!(error.contains("no stage `tow`") && error.contains("`two`"), "{error}");
}

#[tokio::test]
async fn only_the_stages_that_are_named_run_again() {
    let mut test = Test::new();
    test.write("f", b"");
    test.dockerfile("FROM scratch AS one\nCOPY f /one\nFROM scratch AS Two\nCOPY f /two\nFROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n");
    test.build().await.image();
    test.request.variation.uncached_stages = ["TWO".to_owned()].into();
    let again = test.build().await;
    // What it left is the same, so what reads that does not run.
    assert_eq!((again.ran(), again.cached()), (vec!["COPY f /two".to_owned()], 3));
}
