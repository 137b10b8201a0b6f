//! Builds without any command: no privileges for a sandbox are needed.

use pkgbuild::builder::{BuildError, BuildEvent, Context, ContextRoot};
use pkgbuild::oci::Platform;
use pkgbuild::time::SourceDate;

use crate::fixture::Test;

#[tokio::test]
async fn files_of_the_context_are_copied_by_the_rules_of_copy() {
    let mut test = Test::new();
    test.write("hello", b"hello\n");
    test.write("dir/a.c", b"a");
    test.write("dir/b.h", b"b");
    test.write("dir/sub/c", b"c");
    test.dockerfile(
        "FROM scratch\nCOPY hello /\nCOPY --chown=7 --chmod=600 hello /etc/motd\nWORKDIR /srv/www\nCOPY dir/*.? ./\nCOPY dir tree\n",
    );
    let built = test.build().await;
    let layers = test.layers(&built);
    let names: Vec<Vec<String>> = layers
        .iter()
        .map(|layer| layer.iter().map(|line| line.split(' ').next_back().expect("a name").to_owned()).collect())
        .collect();
    assert_eq!(
        names,
        [
            vec!["hello"],
            vec!["etc/", "etc/motd"],
            vec!["srv/", "srv/www/"],
            vec!["srv/", "srv/www/", "srv/www/a.c", "srv/www/b.h"],
            vec![
                "srv/",
                "srv/www/",
                "srv/www/tree/",
                "srv/www/tree/a.c",
                "srv/www/tree/b.h",
                "srv/www/tree/sub/",
                "srv/www/tree/sub/c"
            ],
        ]
    );
    assert_eq!(layers[1][1], "-rw------- 7/7 6 1970-01-01 00:00:00 etc/motd");
    assert_eq!(layers[2][1], "drwxr-xr-x 0/0 0 1970-01-01 00:00:00 srv/www/");
    let config = test.config(&built);
    let history: Vec<_> = config.history.iter().map(|line| line.created_by.clone().expect("ours")).collect();
    assert_eq!(
        history,
        [
            "COPY hello / # buildkit",
            "COPY --chown=7 --chmod=600 hello /etc/motd # buildkit",
            "WORKDIR /srv/www",
            "COPY dir/*.? ./ # buildkit",
            "COPY dir tree # buildkit",
        ]
    );
    assert_eq!(config.created.as_deref(), Some("1970-01-01T00:00:00Z"));
    assert_eq!(built.image().manifest.platform, Some(Platform::host()));
}

#[tokio::test]
async fn stages_are_chosen_by_arguments_and_only_reachable_ones_are_built() {
    let mut test = Test::new();
    test.write("amd64", b"intel");
    test.write("arm64", b"arm");
    let text = "ARG WHICH=one\nFROM scratch AS build-amd64\nCOPY amd64 /arch\nFROM scratch AS build-arm64\nCOPY arm64 /arch\n\
                FROM nowhere.example/absent AS unused\nRUN false\nFROM build-${TARGETARCH} AS build\n\
                FROM scratch\nARG WHICH\nARG TARGETARCH\nCOPY --from=build /arch /out/$WHICH-$TARGETARCH\nCOPY --from=0 /arch /zero\n";
    test.dockerfile(text);
    for (architecture, content) in [("amd64", "intel"), ("arm64", "arm")] {
        test.request.platform = Platform::linux(architecture);
        test.request.args = [("WHICH".to_owned(), "two".to_owned())].into();
        let built = test.build().await;
        assert_eq!(test.file(&built, &format!("out/two-{architecture}")), content);
        assert_eq!(test.file(&built, "zero"), "intel");
        let config = test.config(&built);
        assert_eq!(config.platform, Platform::linux(architecture));
        assert_eq!(config.config.env.len(), 1, "arguments are no part of an image: {:?}", config.config.env);
    }
}

#[tokio::test]
async fn labels_and_annotations_of_the_request_are_on_the_image() {
    let mut test = Test::new();
    test.write("f", b"");
    test.dockerfile("FROM scratch\nLABEL a=dockerfile b=kept\nCOPY f /\n");
    test.request.labels = [("a".to_owned(), "request".to_owned())].into();
    test.request.annotations = [("n".to_owned(), "v".to_owned())].into();
    test.request.source_date = SourceDate(1_763_768_590);
    let built = test.build().await;
    let config = test.config(&built);
    assert_eq!(config.config.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>(), ["a=request", "b=kept"]);
    assert_eq!(test.manifest(&built).annotations, test.request.annotations);
    assert_eq!(config.created.as_deref(), Some("2025-11-21T23:43:10Z"));
    assert!(test.layers(&built)[0][0].contains("2025-11-21 23:43:10"));
}

#[tokio::test]
async fn archives_are_unpacked_by_add_and_not_by_copy() {
    let mut test = Test::new();
    test.write("x/file", b"inside");
    let archive = test.context().join("a.tar.gz");
    let tar = std::process::Command::new("tar")
        .args(["-czf"])
        .arg(&archive)
        .arg("-C")
        .arg(test.context().join("x"))
        .arg("file")
        .status();
    assert!(tar.expect("tar runs").success());
    test.dockerfile("FROM scratch\nADD a.tar.gz /added/\nCOPY a.tar.gz /copied/\nADD --unpack=false a.tar.gz /kept/\n");
    let built = test.build().await;
    assert_eq!(test.file(&built, "added/file"), "inside");
    let layers = test.layers(&built);
    assert!(layers[1].iter().any(|line| line.ends_with("copied/a.tar.gz")), "{layers:?}");
    assert!(layers[2].iter().any(|line| line.ends_with("kept/a.tar.gz")), "{layers:?}");
}

#[tokio::test]
async fn heredocs_are_files() {
    let mut test = Test::new();
    test.dockerfile(
        "FROM scratch\nENV WHO=you\nCOPY <<EOF /etc/greeting\nhello $WHO\nEOF\nCOPY <<\"A\" <<B /dir/\n$WHO\nA\nb\nB\n",
    );
    let built = test.build().await;
    assert_eq!(test.file(&built, "etc/greeting"), "hello you\n");
    assert_eq!(test.file(&built, "dir/A"), "$WHO\n");
    assert_eq!(test.file(&built, "dir/B"), "b\n");
}

#[tokio::test]
async fn heredocs_stand_beside_other_sources_and_come_after_them() {
    let mut test = Test::new();
    test.write("f", b"file");
    test.write("EOF", b"replaced");
    test.dockerfile(
        "FROM scratch AS a\nCOPY f /g\nFROM scratch\nCOPY f EOF <<EOF /one/\ntext\nEOF\nCOPY --from=a g <<H /two/\nh\nH\n",
    );
    let built = test.build().await;
    for (path, content) in [("one/f", "file"), ("one/EOF", "text\n"), ("two/g", "file"), ("two/H", "h\n")] {
        assert_eq!(test.file(&built, path), content, "{path}");
    }
    // Not dated with the clock: another cache and another time give the same bytes.
    let manifest = built.image().manifest.digest;
    let mut again = Test::new();
    for (path, content) in [("f", "file"), ("EOF", "replaced")] {
        again.write(path, content.as_bytes());
    }
    again.request.dockerfile.text = test.request.dockerfile.text.clone();
    assert_eq!(again.build().await.image().manifest.digest, manifest);
    let config = test.config(&built);
    assert_eq!(config.history[0].created_by.as_deref(), Some("COPY f EOF <<EOF /one/ # buildkit"));
    test.dockerfile(
        "FROM scratch AS a\nCOPY f /g\nFROM scratch\nCOPY f EOF <<EOF /one/\nother\nEOF\nCOPY --from=a g <<H /two/\nh\nH\n",
    );
    let changed = test.build().await;
    assert_eq!(test.file(&changed, "one/EOF"), "other\n");
}

#[tokio::test]
async fn parents_are_kept_and_exclusions_left_out_and_neither_reads_what_it_does_not_copy() {
    let mut test = Test::new();
    for path in ["src/a.c", "src/lib/b.c", "src/lib/b.h", "src/doc/x.md", "README"] {
        test.write(path, path.as_bytes());
    }
    let text = "FROM scratch AS all\nCOPY --exclude=**/*.md . /all/\nFROM scratch\nCOPY --parents src/./**/*.c /out/\n\
                COPY --from=all --parents --exclude=**/*.h /all/src/./* /two/\nADD --exclude=*.md src/doc /doc/\n";
    test.dockerfile(text);
    let built = test.build().await;
    let names = |layer: &[String]| -> Vec<String> {
        layer.iter().map(|line| line.split(' ').next_back().expect("a name").to_owned()).collect()
    };
    let layers = test.layers(&built);
    assert_eq!(names(&layers[0]), ["out/", "out/a.c", "out/lib/", "out/lib/b.c"]);
    assert_eq!(names(&layers[1]), ["two/", "two/a.c", "two/doc/", "two/lib/", "two/lib/b.c"]);
    assert_eq!(names(&layers[2]), ["doc/"]);
    let config = test.config(&built);
    assert_eq!(config.history[0].created_by.as_deref(), Some("COPY --parents src/./**/*.c /out/ # buildkit"));
    // What is left out can change and nothing runs again.
    test.write("src/doc/x.md", b"changed");
    let again = test.build().await;
    assert_eq!((again.ran().len(), again.cached()), (0, 4), "{:?}", again.ran());
    test.write("src/lib/b.h", b"changed");
    let again = test.build().await;
    assert_eq!(again.ran(), ["COPY --exclude=**/*.md . /all/"]);
    assert_eq!(again.image().manifest.digest, built.image().manifest.digest);
}

#[tokio::test]
async fn what_the_ignore_file_names_is_not_there_and_the_dockerfiles_own_wins() {
    let mut test = Test::new();
    test.write("a", b"");
    test.write("b", b"");
    test.write(".dockerignore", b"a\n");
    test.dockerfile("FROM scratch\nCOPY [ab] /\n");
    let names = async |test: &Test| {
        test.layers(&test.build().await)[0]
            .iter()
            .map(|line| line.split(' ').next_back().expect("name").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&test).await, ["b"]);
    test.write("Dockerfile.dockerignore", b"b\n");
    assert_eq!(names(&test).await, ["a"]);
}

#[tokio::test]
async fn extra_roots_of_the_context_appear_at_their_targets() {
    let mut test = Test::new();
    let other = test.directory.path().join("other");
    std::fs::create_dir(&other).expect("creates");
    std::fs::write(other.join("x"), "extra").expect("writes");
    let mut roots = test.request.context.roots.clone();
    roots.push(ContextRoot { source: other, target: "vendor/lib".into(), replaces: false });
    test.request.context = Context { roots };
    test.dockerfile("FROM scratch\nCOPY vendor/lib/x /\n");
    let built = test.build().await;
    assert_eq!(test.file(&built, "x"), "extra");
}

#[tokio::test]
async fn the_same_tree_gives_the_same_manifest_in_another_directory_and_cache() {
    let mut digests = Vec::new();
    for mode in [0o755, 0o700] {
        let mut test = Test::new();
        // Where the package lies, and who may enter it, is not part of it.
        std::fs::set_permissions(test.directory.path(), std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("sets");
        test.write("dir/a", b"a");
        test.write("dir/b", &vec![b'x'; 3 << 20]);
        for path in ["dir", "dir/a", "dir/b"] {
            let mode = if path == "dir" { 0o755 } else { 0o644 };
            std::fs::set_permissions(test.context().join(path), std::os::unix::fs::PermissionsExt::from_mode(mode))
                .expect("sets");
        }
        test.dockerfile("FROM scratch AS a\nCOPY dir /dir\nFROM scratch\nLABEL z=1 a=2\nWORKDIR /w\nCOPY --from=a /dir/a /dir/b ./\nENV X=1\n");
        let built = test.build().await;
        digests.push(built.image().manifest.digest);
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn what_is_not_there_yet_is_refused_by_name_with_its_line_before_anything_runs() {
    let mut test = Test::new();
    test.write("f", b"");
    for (instruction, named) in [
        ("ADD https://example.org/.. /", "cannot be the name of a file"),
        ("ADD https://example.org/x.git?color=red /", "`color`"),
        ("COPY --link --chown=www f /", "--chown=www` cannot be told"),
        ("COPY --parents=x f /", "--parents"),
        ("COPY --exclude=[ f /", "`[` is not a pattern"),
        ("COPY --parents d/[ /", "`d/[` is not a pattern"),
        ("RUN --security=insecure x", "--security=insecure"),
        ("RUN --network=host x", "--allow network.host"),
        ("RUN --mount=type=cache,target=/c,source=a x", "cache mount with `source` needs `from`"),
        ("RUN --mount=type=bind,target=/ x", "cannot be at `/`"),
        ("COPY --chmod=u=z f /", "mode"),
        ("ADD --checksum=sha256:00 f /", "--checksum"),
    ] {
        test.dockerfile(&format!("FROM scratch AS a\nCOPY f /\nFROM scratch\nCOPY f /\n{instruction}\n"));
        let built = test.build().await;
        assert!(matches!(built.result, Err(BuildError::Dockerfile(_))), "{instruction}");
        let error = built.error();
        assert!(error.contains("Dockerfile:5:1") && error.contains(named), "{instruction}: {error}");
        assert_eq!(built.events, [], "{instruction}");
    }
}

#[tokio::test]
async fn all_mistakes_are_told_at_once() {
    let mut test = Test::new();
    test.dockerfile("FROM scratch\nADD https://example.org/.. /\nCOPY --chmod=u=z f /\nEXPOSE x\n");
    let error = test.build().await.error();
    for line in ["Dockerfile:2:1", "Dockerfile:3:1", "Dockerfile:4:1"] {
        assert!(error.contains(line), "{error}");
    }
}

#[tokio::test]
async fn an_image_of_too_many_layers_is_refused_before_anything_runs() {
    let mut test = Test::new();
    test.write("f", b"");
    test.dockerfile(&format!("FROM scratch\n{}", "COPY f /\n".repeat(128)));
    let built = test.build().await;
    assert!(built.error().contains("128 layers"), "{}", built.error());
    assert_eq!(built.events, []);
    test.dockerfile(&format!("FROM scratch\n{}", "COPY f /\n".repeat(127)));
    test.build().await.image();
}

#[tokio::test]
async fn a_missing_source_fails_with_the_lines_of_its_instruction() {
    let mut test = Test::new();
    test.dockerfile("FROM scratch\nCOPY \\\n  absent \\\n  /\n");
    let built = test.build().await;
    let Err(BuildError::Files { step, lines, dockerfile, .. }) = &built.result else { panic!("{}", built.error()) };
    assert_eq!((step.number, step.of, step.span.line, step.span.end_line), (1, 1, 2, 4));
    assert_eq!(lines, &["COPY \\", "  absent \\", "  /"]);
    assert_eq!(dockerfile.to_str(), Some("Dockerfile"));
    assert!(built.error().contains("absent"), "{}", built.error());
}

#[tokio::test]
async fn an_unknown_owner_fails_and_a_pattern_that_matches_nothing_is_a_warning() {
    let mut test = Test::new();
    test.write("f", b"");
    test.dockerfile("FROM scratch\nCOPY --chown=nobody f /\n");
    assert!(test.build().await.error().contains("no user `nobody`"));
    test.dockerfile("FROM scratch\nCOPY f no* /\n");
    let built = test.build().await;
    assert_eq!(built.image().manifest.media_type, pkgbuild::oci::MediaType::MANIFEST);
    assert_eq!(built.warnings(), ["`no*` matches nothing, so nothing is copied for it"]);
}

#[tokio::test]
async fn names_of_owners_are_those_of_the_image() {
    let mut test = Test::new();
    test.write("passwd", b"www:x:33:34::/:\n");
    test.write("group", b"web:x:77:\n");
    test.write("f", b"");
    test.dockerfile(
        "FROM scratch\nCOPY passwd group /etc/\nCOPY --chown=www f /a\nCOPY --chown=www:web f /b\nUSER www\nWORKDIR /home/www\n",
    );
    let built = test.build().await;
    let layers = test.layers(&built);
    assert_eq!(layers[1], ["-rw-r--r-- 33/34 0 1970-01-01 00:00:00 a"]);
    assert_eq!(layers[2], ["-rw-r--r-- 33/77 0 1970-01-01 00:00:00 b"]);
    assert_eq!(layers[3][1], "drwxr-xr-x 33/34 0 1970-01-01 00:00:00 home/www/");
}

#[tokio::test]
async fn unused_build_arguments_are_warned_of_once() {
    let mut test = Test::new();
    test.write("f", b"");
    let args = ["USED", "TYPO", "http_proxy", "PKG_HASH", "SOURCE"].map(|name| (name.to_owned(), "x".to_owned()));
    test.request.args = args.into();
    test.dockerfile("FROM scratch\nARG USED\nCOPY f /\n");
    assert_eq!(test.build().await.warnings(), ["no ARG declares the build argument `TYPO`"]);
}

#[tokio::test]
async fn steps_are_numbered_over_what_is_reachable() {
    let mut test = Test::new();
    test.write("f", b"");
    test.dockerfile(
        "FROM scratch AS a\nCOPY f /1\nENV A=1\nFROM scratch AS b\nCOPY f /b\nFROM scratch\nWORKDIR /w\nCOPY --from=a /1 /2\n",
    );
    let built = test.build().await;
    let mut steps: Vec<_> = built
        .events
        .iter()
        .filter_map(|event| match event {
            BuildEvent::StepStarted { step } => Some((step.number, step.of, step.stage.clone(), step.text.clone())),
            _ => None,
        })
        .collect();
    steps.sort();
    assert_eq!(
        steps,
        [
            (1, 3, "a".to_owned(), "COPY f /1".to_owned()),
            (2, 3, "stage-2".to_owned(), "WORKDIR /w".to_owned()),
            (3, 3, "stage-2".to_owned(), "COPY --from=a /1 /2".to_owned()),
        ]
    );
    assert_eq!(built.events.iter().filter(|event| matches!(event, BuildEvent::StepFinished { .. })).count(), 3);
}

#[tokio::test]
async fn a_long_chain_of_stages_needs_no_deep_stack() {
    let mut test = Test::new();
    test.write("f", b"x");
    let mut text = "FROM scratch AS s0\nCOPY f /f\n".to_owned();
    for stage in 1..300 {
        text.push_str(&format!("FROM scratch AS s{stage}\nCOPY --from=s{} /f /f\n", stage - 1));
    }
    test.dockerfile(&text);
    let built = test.build().await;
    assert_eq!(test.file(&built, "f"), "x");
    assert_eq!(test.build().await.cached(), 300);
}
