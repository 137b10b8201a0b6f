//! Steps without overlayfs: slower, and the same images.

use std::sync::Arc;

use pkgbuild::builder::embedded::EmbeddedBuilder;
use pkgbuild::builder::embedded::snapshot::Overlay;
use pkgbuild::oci::Digest;
use pkgbuild::store::Store;
use pkgbuild::time::SourceDate;

use crate::fixture::{Built, Test};

/// What an overlay can get wrong, and what a copy can: one script for each.
const STEPS: [&str; 23] = [
    "rm /etc/group",
    "rm -r /d/sub && rm /d/f",
    "rm -r /d && mkdir /d && echo new > /d/new",
    "rm -r /d && echo file > /d",
    "rm /etc/passwd && mkdir /etc/passwd && echo x > /etc/passwd/x",
    "busybox mv /d /e",
    "busybox mv /d/sub /d/other && mkdir /d/sub && echo x > /d/sub/x",
    "busybox mv /d/f /d/g && busybox mv /d/g /d/f",
    "echo more >> /d/f",
    "busybox ln /d/f /linked && busybox ln /new1 /new2 2>/dev/null || echo x > /new1 && busybox ln /new1 /new2",
    "busybox ln /d/f /d/g && echo more >> /d/g",
    "echo more >> /h/1",
    "chmod 600 /h/2 && rm /h/3",
    "busybox chown -R 7:8 /h",
    "busybox chown -R 7:8 /d",
    "chmod 4755 /d/f && chmod 1777 /d/sub && chmod 2755 /d",
    "chmod 644 /d/f",
    "touch -d @7 /d/f && touch /d",
    "busybox ln -s /nowhere /link && busybox ln -sf sub /d/link && busybox mkfifo /pipe && rm /d/fifo",
    "busybox nc -l -U /socket & sleep 0.2; echo x > /d/x; rm -rf /d/sub/deep",
    "mkdir -p /a/b/c/d/e && for i in 1 2 3 4 5 6 7 8 9; do echo $i > /a/b/$i; done && rm -r /a/b/c",
    "mkdir /d/empty && rm -r /d/sub && mkdir -m 755 /d/sub",
    "true",
];

const BASE: &str = "FROM busybox AS base\nRUN mkdir -p /d/sub/deep && echo f > /d/f && echo l > /d/sub/l && busybox ln -s f /d/link && \
    busybox mkfifo /d/fifo && mkdir /h && echo h > /h/1 && busybox ln /h/1 /h/2 && busybox ln /h/1 /h/3\n";

fn digest(built: &Built) -> Digest {
    built.image().manifest.digest
}

/// A cache and a builder that mounts no overlays.
type Without = (Store, Arc<EmbeddedBuilder>);

/// Builds with an overlay and without one, each with a cache of its own, and returns both.
async fn both(test: &mut Test, (store, builder): &Without) -> (Built, Built) {
    let with = test.build().await;
    let (store, builder) =
        (std::mem::replace(&mut test.store, store.clone()), std::mem::replace(&mut test.builder, builder.clone()));
    let without = test.build().await;
    (test.store, test.builder) = (store, builder);
    (with, without)
}

fn without(test: &Test) -> Without {
    Test::builder_of(&test.directory.path().join("whole"), Overlay::Never)
}

#[tokio::test]
async fn every_kind_of_change_gives_the_same_image_with_and_without_overlayfs() {
    let mut test = Test::with_busybox().await;
    let other = without(&test);
    // One stage for each, so that one build tells of all.
    let mut text = BASE.to_owned();
    for (number, step) in STEPS.iter().enumerate() {
        text.push_str(&format!("FROM base AS s{number}\nRUN {step}\nRUN echo after > /after && rm -f /h/1\n"));
    }
    for (number, step) in STEPS.iter().enumerate() {
        test.dockerfile(&text);
        test.request.variation.target = Some(format!("s{number}"));
        let (with, without) = both(&mut test, &other).await;
        assert_eq!(test.layers(&with).len(), 6);
        if digest(&with) != digest(&without) {
            panic!("{step}: {:?}", test.layers(&with));
        }
    }
}

#[tokio::test]
async fn times_are_those_of_the_step_with_and_without_overlayfs() {
    let mut test = Test::with_busybox().await;
    let other = without(&test);
    // Times up to then count.
    test.request.source_date = SourceDate(1000);
    test.dockerfile(
        "FROM busybox\nRUN mkdir /d && echo f > /d/f && echo g > /d/g && touch -d @10 /d/f /d/g && touch -d @20 /d\n\
         RUN --mount=type=tmpfs,target=/d/absent/dir echo more >> /d/f && touch -d @30 /d/f\nRUN chmod 600 /d/g\nRUN touch -d @40 /d/g\n",
    );
    let (with, without) = both(&mut test, &other).await;
    let layers = test.layers(&with);
    assert!(layers[4].iter().any(|line| line.ends_with("1970-01-01 00:00:20 d/")), "{layers:?}");
    assert_eq!(digest(&with), digest(&without));
}

#[tokio::test]
async fn attributes_and_capabilities_survive_the_copy() {
    let mut test = Test::with_busybox().await;
    let other = without(&test);
    let script = "printf x > f; printf y > g; setcap cap_net_raw+ep f; setfattr -n user.note -v kept g; \
                  tar --xattrs --xattrs-include='*' -cf marked.tar f g; rm f g";
    let status = std::process::Command::new("bash").args(["-ec", script]).current_dir(test.context()).status();
    assert!(status.expect("runs").success(), "tar, setcap and setfattr are installed: run scripts/setup");
    test.dockerfile("FROM busybox\nADD marked.tar /d/\nRUN busybox mv /d/g /d/h\nRUN cp -a /d /e && chmod 600 /d/f\n");
    let (with, without) = both(&mut test, &other).await;
    assert_eq!(digest(&with), digest(&without));
}

#[tokio::test]
async fn a_copied_root_is_said_once_and_leaves_nothing() {
    let mut test = Test::with_busybox().await;
    let place = test.directory.path().join("whole");
    (test.store, test.builder) = Test::builder_of(&place, Overlay::Never);
    test.dockerfile("FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\n");
    let built = test.build().await;
    let said: Vec<_> = built.warnings().into_iter().filter(|text| text.contains("copies its whole root")).collect();
    assert_eq!(said.len(), 1, "{:?}", built.warnings());
    assert_eq!(std::fs::read_dir(place.join("pkgbuild/v1/drafts")).expect("lists").count(), 0);
    // What was made without overlays can be used with them.
    (test.store, test.builder) = Test::builder_of(&place, Overlay::WhereItWorks);
    test.dockerfile("FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\nRUN cat /1 /2\n");
    let again = test.build().await;
    assert_eq!((again.cached(), again.log()), (2, "1\n2\n".to_owned()));
}

#[tokio::test]
async fn mounts_of_other_stages_are_copies_that_are_thrown_away() {
    let mut test = Test::with_busybox().await;
    let other = without(&test);
    test.write("note", b"from the context\n");
    test.dockerfile(
        "FROM busybox AS other\nRUN mkdir /d && echo x > /d/x && busybox ln -s d /link\nFROM busybox\n\
         RUN --mount=from=other,source=/link,target=/a --mount=from=other,target=/b,rw --mount=source=note,target=/note \
         cat /a/x /note && echo y > /b/d/y && ! touch /a/z\nRUN ls -a /\n",
    );
    let (with, without) = both(&mut test, &other).await;
    assert_eq!(without.log().replace("bin", ""), with.log().replace("bin", ""));
    assert_eq!(digest(&with), digest(&without));
}

/// A cache that lies on an overlay, as that of a program inside of a container does.
#[tokio::test]
async fn a_cache_on_an_overlay_gives_the_same_image() {
    let mut test = Test::with_busybox().await;
    let steps = STEPS.iter().take(9).map(|step| format!("RUN ({step}) || true\n")).collect::<String>();
    test.dockerfile(&format!("{BASE}{steps}COPY --from=busybox /etc /copied\n"));
    let with = test.build().await;
    let place = test.directory.path().to_owned();
    let sh = |script: &str| {
        let status = std::process::Command::new("sh").args(["-ec", script]).current_dir(&place).status().expect("runs");
        assert!(status.success(), "{script}");
    };
    sh(
        "mkdir -p o/lower o/upper o/work o/merged && mount -t overlay -o lowerdir=o/lower,upperdir=o/upper,workdir=o/work o o/merged",
    );
    let (store, builder) = Test::builder_of(&place.join("o/merged"), Overlay::WhereItWorks);
    (test.store, test.builder) = (store, builder);
    let without = test.build().await;
    let again = test.build().await;
    (test.store, test.builder) = Test::builder_of(&place.join("other"), Overlay::Never);
    sh("umount o/merged");
    assert!(without.warnings().iter().any(|text| text.contains("overlayfs cannot be mounted")), "{:?}", without.warnings());
    assert_eq!(digest(&with), digest(&without));
    assert_eq!(again.ran().len(), 0);
}
