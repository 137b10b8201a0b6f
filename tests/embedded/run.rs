//! Builds with commands, as root, on an image of Debian's static busybox.

use std::time::{Duration, Instant};

use pkgbuild::builder::{BuildError, BuildEvent, Builder, Network, Support};
use pkgbuild::oci::Platform;

use crate::fixture::Test;

#[tokio::test]
async fn commands_change_the_image_and_see_what_the_dockerfile_says() {
    let mut test = Test::with_busybox().await;
    test.dockerfile(
        "FROM busybox\nARG GREETING=hi\nENV NAME=you\nWORKDIR /work\nRUN echo \"$GREETING $NAME $BASE $HOME $(pwd)\" > out\n\
         USER www\nRUN [\"id\"]\nUSER root\nRUN rm /etc/group && env\n",
    );
    let built = test.build().await;
    assert_eq!(test.file(&built, "work/out"), "hi you yes /root /work\n");
    let log = built.log();
    assert!(
        log.contains("uid=33(www) gid=34(web) groups=4(adm)") || log.contains("uid=33(www) gid=34(web) groups=34(web),4(adm)"),
        "{log}"
    );
    for absent in ["HOSTNAME=", "TERM=", "LANG="] {
        assert!(!log.contains(absent), "{log}");
    }
    let layers = test.layers(&built);
    assert!(layers.last().expect("layers").iter().any(|line| line.ends_with("etc/.wh.group")), "{layers:?}");
    let config = test.config(&built);
    assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
    let history: Vec<_> = config.history.iter().rev().filter_map(|line| line.created_by.clone()).collect();
    assert_eq!(history[0], "RUN |1 GREETING=hi /bin/sh -c rm /etc/group && env # buildkit");
}

#[tokio::test]
async fn an_all_cached_build_reads_no_layer_of_the_base() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nRUN echo x > /x\n");
    let first = test.build().await;
    assert_eq!(first.ran().len(), 1);
    // Without its unpacked layers only the records are left to answer from.
    std::fs::remove_dir_all(test.store.directory().join("pkgbuild/v1/unpacked")).expect("removes");
    std::fs::create_dir(test.store.directory().join("pkgbuild/v1/unpacked")).expect("creates");
    let started = Instant::now();
    let second = test.build().await;
    let took = started.elapsed();
    assert_eq!((second.ran().len(), second.cached()), (0, 1));
    assert_eq!(second.image(), first.image());
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(std::fs::read_dir(test.store.directory().join("pkgbuild/v1/unpacked")).expect("reads").count(), 0);
}

#[tokio::test]
async fn a_failing_command_tells_its_lines_its_end_and_its_last_output() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nRUN echo one && \\\n    echo two && exit 3\n");
    let built = test.build().await;
    let Err(BuildError::Step { step, lines, outcome, tail, printed, .. }) = &built.result else { panic!("{}", built.error()) };
    assert_eq!((step.number, step.of, step.span.line), (1, 1, 2));
    assert_eq!(lines[..], ["RUN echo one && \\", "    echo two && exit 3"]);
    assert_eq!(outcome, "exited with status 3");
    assert_eq!((tail, *printed), (&vec!["one".to_owned(), "two".to_owned()], 2));
    // A failure is not recorded.
    assert!(test.build().await.result.is_err());
}

#[tokio::test]
async fn two_builds_of_one_request_at_once_run_each_step_once() {
    let mut test = Test::with_busybox().await;
    test.write("a", b"1");
    test.dockerfile("FROM busybox AS s\nRUN sleep 0.3; echo s > /s\nFROM busybox\nCOPY a /a\nRUN sleep 0.3; echo x > /x\nCOPY --from=s /s /s\n");
    let (one, two, three) = tokio::join!(test.build(), test.build(), test.build());
    assert_eq!(one.image(), two.image());
    assert_eq!(one.image(), three.image());
    assert_eq!(one.ran().len() + two.ran().len() + three.ran().len(), 4);
}

#[tokio::test]
async fn independent_stages_run_at_once() {
    let mut test = Test::with_busybox().await;
    test.dockerfile(
        "FROM busybox AS a\nRUN sleep 1; echo a > /a\nFROM busybox AS b\nRUN sleep 1; echo b > /b\n\
         FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
    );
    let warm = "FROM busybox\nRUN echo warm\n".to_owned();
    let mut request = test.request.clone();
    request.dockerfile.text = warm.as_bytes().into();
    test.build_request(&request).await.image();
    let started = Instant::now();
    test.build().await.image();
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1900), "{took:?}");
}

#[tokio::test]
async fn an_edit_that_changes_no_file_stops_there() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nRUN echo x > /x\nRUN echo y > /y\nRUN echo z > /z\n");
    test.build().await.image();
    test.dockerfile("FROM busybox\nRUN echo 'x' > /x\nRUN echo y > /y\nRUN echo z > /z\n");
    let built = test.build().await;
    assert_eq!(built.ran(), ["RUN echo 'x' > /x"]);
    assert_eq!(built.cached(), 2);
}

#[tokio::test]
async fn proxies_are_seen_by_commands_and_change_no_key() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nRUN env; echo x > /x\n");
    test.request.args = [("HTTP_PROXY".to_owned(), "http://one".to_owned())].into();
    let built = test.build().await;
    assert!(built.log().contains("http_proxy=http://one") && built.log().contains("HTTP_PROXY=http://one"), "{}", built.log());
    assert!(!serde_json::to_string(&test.config(&built)).expect("writes").contains("http://one"));
    test.request.args = [("HTTP_PROXY".to_owned(), "http://two".to_owned())].into();
    assert_eq!(test.build().await.ran().len(), 0);
    test.request.network = Network::Host;
    assert_eq!(test.build().await.ran().len(), 1, "the network is part of what a command can observe");
}

#[tokio::test]
async fn mounts_are_there_for_their_command_only() {
    let mut test = Test::with_busybox().await;
    test.write("src/file", b"from the context");
    let text = "FROM busybox AS other\nRUN echo other > /o\nFROM busybox\n\
         RUN --mount=type=bind,source=src,target=/m --mount=type=bind,from=other,source=/o,target=/other cat /m/file /other > /out\n\
         RUN --mount=type=cache,target=/c,id=mine touch /c/x-$(ls /c | grep -c .); ls /c\n\
         RUN --mount=type=tmpfs,target=/t touch /t/x && ls / \n";
    test.dockerfile(text);
    let built = test.build().await;
    assert_eq!(test.file(&built, "out"), "from the contextother\n");
    assert!(built.log().contains("x-0"));
    for layer in test.layers(&built) {
        for mount in ["m/", "other", "c/", "t/"] {
            assert!(!layer.iter().any(|line| line.ends_with(&format!(" {mount}"))), "{layer:?}");
        }
    }
    // The cache outlives the build; its content is in no key.
    test.dockerfile(&text.replace("touch /c", "echo again; touch /c"));
    assert!(test.build().await.log().contains("x-1"));
    // What is mounted is in the key.
    test.write("src/file", b"changed");
    let built = test.build().await;
    assert_eq!(test.file(&built, "out"), "changedother\n");
}

#[tokio::test]
async fn heredocs_are_scripts() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nRUN <<EOF\nset -e\necho one > /a\necho $((1+1)) >> /a\nEOF\nRUN <<EOF\n#!/bin/cat\nthe script itself\nEOF\n");
    let built = test.build().await;
    assert_eq!(test.file(&built, "a"), "one\n2\n");
    assert!(built.log().contains("the script itself"));
}

#[tokio::test]
async fn triggers_run_in_the_child_before_its_own_steps() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox AS parent\nONBUILD RUN echo trigger >> /log\nRUN echo parent >> /log\nFROM parent\nRUN echo child >> /log\n");
    let built = test.build().await;
    assert_eq!(test.file(&built, "log"), "parent\ntrigger\nchild\n");
    assert!(test.config(&built).config.on_build.is_empty());
    // And through an image.
    test.request.variation.target = Some("parent".to_owned());
    let parent = test.build().await;
    assert_eq!(test.config(&parent).config.on_build, ["RUN echo trigger >> /log"]);
    let key = pkgbuild::builder::BaseKey { reference: "org/parent:1".into(), platform: Platform::host() };
    let base =
        pkgbuild::builder::Base { manifest: parent.image().manifest.clone(), source: std::sync::Arc::new(test.store.clone()) };
    test.request.bases.insert(key, base);
    test.request.variation.target = None;
    test.dockerfile("FROM org/parent:1\nRUN echo grandchild >> /log\n");
    let built = test.build().await;
    assert_eq!(test.file(&built, "log"), "parent\ntrigger\ngrandchild\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_kills_the_running_command() {
    let mut test = Test::with_busybox().await;
    test.dockerfile("FROM busybox\nRUN sleep 300\n");
    let cancel = test.request.cancel.clone();
    let started = Instant::now();
    let on = |event| {
        if matches!(event, BuildEvent::StepStarted { .. }) {
            let cancel = cancel.clone();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                cancel.cancel();
            });
        }
    };
    let result = test.builder.build(&test.request, &on);
    assert!(matches!(result.await, Err(BuildError::Cancelled)));
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// Returns a static Linux program for AArch64 that prints `arm64` and ends with status 0.
fn arm64_program() -> Vec<u8> {
    const ENTRY: u64 = 0x40_0000 + 64 + 56;
    let code: [u32; 8] = [
        0xd280_0020, // mov x0, #1
        0x1000_00e1, // adr x1, the text after the code
        0xd280_00c2, // mov x2, #6
        0xd280_0808, // mov x8, #64: write
        0xd400_0001, // svc #0
        0xd280_0000, // mov x0, #0
        0xd280_0ba8, // mov x8, #93: exit
        0xd400_0001, // svc #0
    ];
    let size: u64 = 64 + 56 + 32 + 6;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 183] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [ENTRY, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // One loadable, executable segment: the whole file.
    file.extend(1u32.to_le_bytes());
    file.extend(5u32.to_le_bytes());
    for word in [0, 0x40_0000, 0x40_0000, size, size, 0x1_0000] {
        file.extend(word.to_le_bytes());
    }
    code.iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.extend(b"arm64\n");
    file
}

#[tokio::test]
async fn code_of_another_processor_runs_through_its_emulator() {
    let mut test = Test::new();
    test.write("prog", &arm64_program());
    test.request.platform = Platform::linux("arm64");
    test.dockerfile("FROM scratch\nCOPY --chmod=755 prog /prog\nRUN [\"/prog\"]\n");
    assert_ne!(test.builder.support(&test.request.platform), Support::Unsupported, "run scripts/setup for qemu-user-static");
    let built = test.build().await;
    built.image();
    assert_eq!(built.log(), "arm64\n");
    assert_eq!(test.config(&built).platform, Platform::linux("arm64"));
}

#[tokio::test]
async fn a_processor_nothing_can_emulate_is_refused_before_anything_runs() {
    let mut test = Test::new();
    test.write("f", b"");
    test.request.platform = Platform::linux("wasm");
    test.dockerfile("FROM scratch\nCOPY f /\nRUN [\"/x\"]\n");
    let built = test.build().await;
    assert!(matches!(built.result, Err(BuildError::Unsupported { .. })), "{}", built.error());
    assert_eq!(built.ran(), [""; 0]);
    // Without a command there is nothing to emulate.
    test.dockerfile("FROM scratch\nCOPY f /\n");
    test.build().await.image();
}

#[tokio::test]
async fn a_base_that_was_not_resolved_is_named_with_its_line() {
    let mut test = Test::new();
    test.dockerfile("FROM scratch AS a\nFROM absent:1\nCOPY --from=a / /\n");
    let error = test.build().await.error();
    assert!(error.contains("Dockerfile:2:1") && error.contains("`absent:1`"), "{error}");
}
