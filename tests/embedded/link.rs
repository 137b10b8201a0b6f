//! `COPY --link`: a layer of its own that is put on whatever is below.

use pkgbuild::builder::{Base, BaseKey};
use pkgbuild::oci::Platform;
use std::sync::Arc;

use crate::fixture::Test;

/// Lets `test` start from `base`, an image made of this Dockerfile over these files in a registry of its own.
async fn base(test: &mut Test, dockerfile: &str, files: &[(&str, &str)]) {
    let mut base = Test::new();
    for (path, content) in files {
        base.write(path, content.as_bytes());
    }
    base.dockerfile(dockerfile);
    let manifest = base.build().await.image().manifest.clone();
    let key = BaseKey { reference: "base".into(), platform: Platform::host() };
    test.request.bases.insert(key, Base { manifest, source: Arc::new(base.store.clone()) });
    std::mem::forget(base.directory);
}

fn names(layer: &[String]) -> Vec<&str> {
    layer.iter().map(|line| line.split(' ').next_back().expect("a name")).collect()
}

#[tokio::test]
async fn another_base_keeps_a_linked_layer_and_is_not_unpacked_for_it() {
    let mut test = Test::new();
    test.write("f", b"linked");
    test.write("dir/x", b"x");
    test.dockerfile("FROM base\nCOPY --link f /etc/app/\nENV A=1\nADD --link --chown=7:8 dir /etc/app\n");
    base(&mut test, "FROM scratch\nCOPY etc /etc\n", &[("etc/one", "1")]).await;
    let first = test.build().await;
    assert_eq!(first.ran().len(), 2);
    let layers = test.layers(&first);
    assert_eq!(names(&layers[1]), ["etc/", "etc/app/", "etc/app/f"]);
    assert_eq!(names(&layers[2]), ["etc/", "etc/app/", "etc/app/x"]);
    assert!(layers[2][1].starts_with("drwxr-xr-x 7/8 "), "{layers:?}");
    base(&mut test, "FROM scratch\nCOPY etc /other\nCOPY etc/one /etc\n", &[("etc/one", "another base")]).await;
    let second = test.build().await;
    assert_eq!((second.ran(), second.cached()), (Vec::new(), 2));
    let [first, second] = [&first, &second].map(|built| test.manifest(built).layers);
    assert_eq!(first[1..], second[2..], "the blobs are the same");
    assert_ne!(first[0], second[0]);
    let unpacked = test.directory.path().join("cache/pkgbuild/v1/unpacked");
    assert_eq!(std::fs::read_dir(unpacked).expect("lists").count(), 0, "no layer of a base was unpacked");
    // What is below in the same Dockerfile may change, too.
    test.dockerfile("FROM base\nCOPY dir /new\nCOPY --link f /etc/app/\nENV A=1\nADD --link --chown=7:8 dir /etc/app\n");
    assert_eq!(test.build().await.ran(), ["COPY dir /new"]);
}

#[tokio::test]
async fn links_of_the_base_are_not_followed_and_later_steps_see_the_layers_merged() {
    let mut test = Test::new();
    test.write("f", b"linked");
    test.write("dir/x", b"x");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    archive.append_link(&mut header, "way", "usr").expect("appends");
    let archive = archive.into_inner().expect("ends");
    let lossless = String::from_utf8(archive).expect("a tar of ASCII");
    base(
        &mut test,
        "FROM scratch\nADD links.tar /\nCOPY one /usr/one\nCOPY one /file\nCOPY --chmod=700 one /dir/one\n",
        &[("links.tar", &lossless), ("one", "1")],
    )
    .await;
    // As BuildKit: a directory stands in for a link or a file, a file for a directory, and directories are merged.
    test.dockerfile(
        "FROM base AS merged\nCOPY --link f /way/g\nCOPY --link dir /file\nCOPY --link f /usr\nCOPY --link dir/x /dir/\n\
         COPY f /way/after\nFROM scratch\nCOPY --from=merged / /\n",
    );
    let built = test.build().await;
    let layers = test.layers(&built);
    assert_eq!(names(&layers[0]), ["dir/", "dir/one", "dir/x", "file/", "file/x", "usr", "way/", "way/after", "way/g"]);
    assert!(layers[0][0].starts_with("drwxr-xr-x"), "the linked layer's mode counts: {layers:?}");
    assert_eq!(test.file(&built, "usr"), "linked");
    // The merged files are found again, and a changed layer among them is seen.
    assert_eq!(test.build().await.ran(), Vec::<String>::new());
    test.write("dir/x", b"changed");
    let changed = test.build().await;
    assert_eq!(test.file(&changed, "file/x"), "changed");
    assert_eq!(test.file(&changed, "dir/x"), "changed");
    assert_eq!(changed.ran().len(), 4, "{:?}", changed.ran());
}

#[tokio::test]
async fn a_linked_copy_with_a_mode_is_a_copy_like_any_other() {
    let mut test = Test::new();
    test.write("f", b"");
    test.write("etc/passwd", b"www:x:33:34::/:\n");
    base(&mut test, "FROM scratch\nCOPY --chown=5 --chmod=711 one /dir/\n", &[("one", "1")]).await;
    test.dockerfile("FROM base\nCOPY etc /etc\nCOPY --link --chmod=640 --chown=www f /dir/\n");
    let built = test.build().await;
    let layers = test.layers(&built);
    assert!(layers[2][0].starts_with("drwx--x--x 5/5 "), "{layers:?}");
    assert!(layers[2][1].starts_with("-rw-r----- 33/34 "), "{layers:?}");
}

#[tokio::test]
async fn commands_see_linked_layers() {
    let mut test = Test::with_busybox().await;
    test.write("f", b"linked");
    test.write("sub/y", b"y");
    test.dockerfile(
        "FROM busybox\nCOPY --link f /bin/tool\nCOPY --link sub /etc/\nRUN cat /bin/tool /etc/y && ls /etc > /listed\n\
         COPY --link f /etc/after\nRUN ls /etc/after\n",
    );
    let built = test.build().await;
    assert_eq!(test.file(&built, "listed"), "group\nhosts\npasswd\ny\n");
    assert_eq!(test.build().await.cached(), 5);
}
