//! Mounts of steps that aim outside.

use std::os::unix::fs::symlink;

use crate::canaries::Canaries;
use crate::fixture::{Built, Test};

async fn tried(test: &mut Test, canaries: &Canaries, dockerfile: &str) -> Built {
    test.dockerfile(&dockerfile.replace("OUTSIDE", &canaries.name()));
    let built = test.build().await;
    canaries.assert_safe(test, &built);
    built
}

#[tokio::test]
async fn cve_2024_1753_the_source_of_a_bind_mount_does_not_lead_outside() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    symlink("/", test.context().join("root")).expect("links");
    symlink(canaries.path(), test.context().join("out")).expect("links");
    symlink(canaries.path().join("canary"), test.context().join("file")).expect("links");
    for source in ["root", "out", "file", "root/OUTSIDE", "../../../../../..OUTSIDE", "OUTSIDE", "out/b"] {
        let step = format!(
            "RUN --mount=type=bind,source={source},target=/m,rw cat /m /m/canary /m/file /m/OUTSIDE/canary; touch /m/evil; true"
        );
        let _ = tried(&mut test, &canaries, &format!("FROM busybox\n{step}\n")).await;
        let from = format!(
            "FROM busybox AS a\nRUN /bin/busybox ln -s OUTSIDE /out; /bin/busybox ln -s / /root\nFROM busybox\n{}\n",
            step.replace("type=bind", "type=bind,from=a")
        );
        let _ = tried(&mut test, &canaries, &from).await;
    }
}

#[tokio::test]
async fn cve_2024_23651_a_link_in_a_cache_mount_does_not_lead_outside() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    let fill =
        "FROM busybox\nRUN --mount=type=cache,target=/c,id=x /bin/busybox ln -s OUTSIDE /c/out; /bin/busybox ln -s / /c/root\n";
    tried(&mut test, &canaries, fill).await.image();
    for source in ["out", "root", "out/b", "rootOUTSIDE"] {
        let step = format!(
            "RUN --mount=type=cache,target=/c,id=x,source={source} cat /c/canary /c/file /cOUTSIDE/canary; touch /c/evil; true"
        );
        let _ = tried(&mut test, &canaries, &format!("FROM busybox\n{step}\n")).await;
    }
    let through = "FROM busybox\nRUN --mount=type=cache,target=/c,id=x cat /c/out/canary; touch /c/out/evil; true\n";
    let _ = tried(&mut test, &canaries, through).await;
}

#[tokio::test]
async fn cve_2024_9675_the_name_of_a_cache_is_no_path() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    for id in ["../../../../../../../..OUTSIDE", "OUTSIDE", "..", ".", "a/b/../../c", "x\\0y"] {
        let built = tried(
            &mut test,
            &canaries,
            &format!("FROM busybox\nRUN --mount=type=cache,target=/c,id={id} touch /c/evil; cat /c/*\n"),
        )
        .await;
        built.image();
        assert!(!test.directory.path().join("evil").exists());
    }
}

#[tokio::test]
async fn cve_2024_23652_what_is_tidied_after_a_step_is_not_outside() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    for mount in ["type=tmpfs,target=/a/b", "type=cache,target=/a/b", "type=tmpfs,target=/a/b/inner"] {
        let built = tried(
            &mut test,
            &canaries,
            // The place for the mount is made by us, and then its parent is made to lead elsewhere.
            &format!("FROM busybox\nRUN --mount={mount} /bin/busybox mv /a /moved; /bin/busybox ln -s OUTSIDE /a; true\n"),
        )
        .await;
        built.image();
    }
}

#[tokio::test]
async fn cve_2024_45310_the_place_of_a_mount_is_made_inside() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    for target in ["/t/evil", "/t/b/evil", "/up/evil", "/t/../../../../../../evil"] {
        let built = tried(
            &mut test,
            &canaries,
            &format!(
                "FROM busybox\nRUN /bin/busybox ln -s OUTSIDE /t; /bin/busybox ln -s ../../../../../../..OUTSIDE /up\n\
                 RUN --mount=type=tmpfs,target={target} touch {target}/x\n"
            ),
        )
        .await;
        drop(built);
    }
}

#[tokio::test]
async fn cve_2024_9407_options_of_mounts_are_a_closed_list() {
    for option in ["bind-propagation=rshared", "bind-propagation=shared", "relabel=shared", "z", "U", "O", "suid", "dev"] {
        let mut test = Test::with_busybox().await;
        test.dockerfile(&format!("FROM busybox\nRUN --mount=type=bind,source=.,target=/m,{option} true\n"));
        assert!(test.build().await.error().contains("Dockerfile:2:1"), "{option}");
    }
}

#[tokio::test]
async fn cve_2024_11218_what_a_step_writes_into_a_mount_of_a_stage_is_gone_and_nobody_else_sees_it() {
    let canaries = Canaries::new();
    let mut test = Test::with_busybox().await;
    // Two stages that would meet in the first one's files, at the same time.
    let built = tried(
        &mut test,
        &canaries,
        "FROM busybox AS shared\nRUN mkdir /d; echo good > /d/file\n\
         FROM busybox AS one\nRUN --mount=type=bind,from=shared,target=/m,rw for i in 1 2 3 4 5 6 7 8 9; do rm -r /m/d; /bin/busybox ln -s OUTSIDE /m/d; sleep 0.1; rm /m/d; mkdir /m/d; echo evil > /m/d/file; done\n\
         FROM busybox AS two\nRUN --mount=type=bind,from=shared,source=/d,target=/m,rw for i in 1 2 3 4 5 6 7 8 9; do cat /m/*; sleep 0.1; done > /seen\n\
         FROM scratch\nCOPY --from=one /etc/passwd /one\nCOPY --from=two /seen /seen\nCOPY --from=shared /d/file /file\n",
    )
    .await;
    assert_eq!(test.file(&built, "file"), "good\n");
    assert_eq!(test.file(&built, "seen"), "good\n".repeat(9));
}

#[tokio::test]
async fn a_mount_cannot_cover_what_isolates_a_step() {
    let canaries = Canaries::new();
    for target in ["/", "/proc", "/proc/self", "/sys", "/dev", "/proc/sys/kernel", "/x/../proc"] {
        let mut test = Test::with_busybox().await;
        let built = tried(
            &mut test,
            &canaries,
            &format!("FROM busybox\nRUN --mount=type=tmpfs,target={target} (echo x > /proc/sysrq-trigger) 2>/dev/null && echo WROTE; cat /proc/kcore | grep -c . ; true\n"),
        )
        .await;
        assert!(!built.log().contains("WROTE"), "{target}: {}", built.log());
    }
}
