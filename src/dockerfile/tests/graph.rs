use std::collections::BTreeMap;

use super::*;
use crate::oci::Platform;

fn options(architecture: &str) -> StageOptions {
    StageOptions { build_platform: Platform::linux("amd64"), ..StageOptions::new(Platform::linux(architecture)) }
}

fn resolve(text: &str, options: &StageOptions) -> Result<Stages, Vec<String>> {
    Stages::resolve(&parse(text), options).map_err(|mistakes| told(&mistakes))
}

/// Draws a graph: each stage with its base and its steps' inputs.
fn drawn(stages: &Stages) -> Vec<String> {
    let input = |input: &Input| match input {
        Input::Scratch => "scratch".to_owned(),
        Input::Stage(place) => format!("#{}", stages.stages[*place].title),
        Input::Image(image) => format!("{}@{}", image.reference, image.platform.architecture),
        Input::Context(name) => format!("context {name}"),
    };
    let step = |step: &Step| step.inputs.iter().flatten().map(&input).collect::<Vec<_>>();
    let stage = |stage: &Stage| {
        let inputs: Vec<String> = stage.steps.iter().flat_map(step).collect();
        format!("{}({}) < {} [{}]", stage.title, stage.platform.architecture, input(&stage.base), inputs.join(" "))
    };
    stages.stages.iter().map(stage).collect()
}

fn graph(text: &str, options: &StageOptions) -> Vec<String> {
    drawn(&resolve(text, options).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:?}")))
}

#[test]
fn stages_are_reached_over_from_copy_and_mounts() {
    let amd64 = options("amd64");
    for (text, expected) in [
        ("FROM a", &["stage-0(amd64) < a@amd64 []"][..]),
        ("FROM scratch", &["stage-0(amd64) < scratch []"]),
        ("FROM a AS x\nFROM x", &["x(amd64) < a@amd64 []", "stage-1(amd64) < #x []"]),
        ("FROM a AS X\nFROM x", &["x(amd64) < a@amd64 []", "stage-1(amd64) < #x []"]),
        ("FROM a AS x\nFROM X", &["x(amd64) < a@amd64 []", "stage-1(amd64) < #x []"]),
        ("FROM a AS x\nFROM b", &["stage-1(amd64) < b@amd64 []"]),
        ("FROM a AS x\nFROM b\nCOPY --from=x y z", &["x(amd64) < a@amd64 []", "stage-1(amd64) < b@amd64 [#x]"]),
        ("FROM a AS x\nFROM b\nCOPY --from=X y z", &["x(amd64) < a@amd64 []", "stage-1(amd64) < b@amd64 [#x]"]),
        ("FROM a\nFROM b\nCOPY --from=0 y z", &["stage-0(amd64) < a@amd64 []", "stage-1(amd64) < b@amd64 [#stage-0]"]),
        ("FROM a\nCOPY --from=b:1 y z", &["stage-0(amd64) < a@amd64 [b:1@amd64]"]),
        ("FROM a\nCOPY --from=scratch y z", &["stage-0(amd64) < a@amd64 [scratch]"]),
        ("FROM a\nCOPY y z", &["stage-0(amd64) < a@amd64 []"]),
        ("FROM a AS x\nFROM b\nRUN --mount=from=x,target=/y z", &["x(amd64) < a@amd64 []", "stage-1(amd64) < b@amd64 [#x]"]),
        ("FROM a\nRUN --mount=from=b,target=/y --mount=type=cache,target=/c z", &["stage-0(amd64) < a@amd64 [b@amd64]"]),
        ("FROM a\nFROM b\nRUN --mount=from=0,target=/y z", &["stage-1(amd64) < b@amd64 [0@amd64]"]),
        ("FROM a AS x\nFROM b AS x\nFROM x", &["x(amd64) < b@amd64 []", "stage-2(amd64) < #x []"]),
        ("FROM a AS x\nFROM x AS x\nFROM x", &["x(amd64) < a@amd64 []", "x(amd64) < #x []", "stage-2(amd64) < #x []"]),
        ("FROM a AS scratch\nFROM scratch", &["scratch(amd64) < a@amd64 []", "stage-1(amd64) < #scratch []"]),
    ] {
        assert_eq!(graph(text, &amd64), expected, "{text}");
    }
}

const BY_ARCHITECTURE: &str = "\
ARG BASE=base:1
FROM ${BASE} AS build-amd64
FROM --platform=$BUILDPLATFORM ${BASE} AS cross
FROM cross AS build-arm64
FROM missing:1 AS build-riscv64
FROM build-${TARGETARCH} AS build
FROM scratch
COPY --from=build / /
";

#[test]
fn names_of_stages_are_computed_for_each_platform() {
    assert_eq!(
        graph(BY_ARCHITECTURE, &options("amd64")),
        ["build-amd64(amd64) < base:1@amd64 []", "build(amd64) < #build-amd64 []", "stage-5(amd64) < scratch [#build]"]
    );
    assert_eq!(
        graph(BY_ARCHITECTURE, &options("arm64")),
        [
            "cross(amd64) < base:1@amd64 []",
            "build-arm64(amd64) < #cross []",
            "build(amd64) < #build-arm64 []",
            "stage-5(arm64) < scratch [#build]"
        ]
    );
    // What no stage has is an image: BuildKit would ask a registry for it.
    let stages = resolve(BY_ARCHITECTURE, &options("s390x")).expect("an image");
    assert_eq!(drawn(&stages)[0], "build(s390x) < build-s390x@s390x []");
    assert_eq!(told(&stages.warnings), ["6: no stage is called `build-s390x`, so it is taken for an image"]);
    assert_eq!(told(&resolve(BY_ARCHITECTURE, &options("amd64")).expect("all there").warnings), [""; 0]);
}

#[test]
fn the_images_of_all_platforms_are_found_without_building() {
    let platforms = ["amd64", "arm64", "riscv64"].map(Platform::linux);
    let mut options = options("amd64");
    options.args.insert("BASE".to_owned(), "given:2".to_owned());
    let found = images(Path::new("Dockerfile"), BY_ARCHITECTURE.as_bytes(), &options, &platforms).expect("right");
    let found: Vec<String> =
        found.iter().map(|(image, span)| format!("{} {} line {}", image.reference, image.platform, span.line)).collect();
    assert_eq!(found, ["given:2 linux/amd64 line 3", "missing:1 linux/riscv64 line 5"]);
}

#[test]
fn a_stage_has_the_platform_of_what_it_starts_from() {
    for (text, platform) in [
        ("FROM a", "linux/arm64"),
        ("FROM --platform=$BUILDPLATFORM a", "linux/amd64"),
        ("FROM --platform=linux/s390x a AS x\nFROM x", "linux/s390x"),
        ("FROM --platform=linux/s390x a AS x\nFROM --platform=linux/386 x", "linux/s390x"),
        // Nothing has no platform of its own.
        ("FROM --platform=linux/s390x scratch", "linux/arm64"),
    ] {
        let stages = resolve(text, &options("arm64")).expect(text);
        assert_eq!(stages.target().platform.to_string(), platform, "{text}");
    }
    let stages = resolve("FROM --platform=linux/386 a\nCOPY --from=b c d", &options("arm64")).expect("right");
    let images: Vec<String> = stages.images.keys().map(|image| format!("{} {}", image.reference, image.platform)).collect();
    assert_eq!(images, ["a linux/386", "b linux/arm64"]);
}

#[test]
fn a_target_is_a_stage_by_its_name() {
    let text = "ARG T=$TARGETSTAGE\nFROM a AS one\nFROM b:$T AS two\nFROM c AS three\n";
    let target = |name: &str| StageOptions { target: Some(name.to_owned()), ..options("amd64") };
    assert_eq!(graph(text, &target("one")), ["one(amd64) < a@amd64 []"]);
    assert_eq!(graph(text, &target("TWO")), ["two(amd64) < b:TWO@amd64 []"]);
    assert_eq!(resolve(text, &target("tow")).expect_err("wrong"), ["there is no stage `tow` to build"]);
    assert_eq!(graph("FROM b:$TARGETSTAGE", &options("amd64")), ["stage-0(amd64) < b:default@amd64 []"]);
    assert_eq!(graph("FROM b:$TARGETSTAGE AS Last", &options("amd64")), ["last(amd64) < b:last@amd64 []"]);
}

#[test]
fn mistakes_of_the_graph_have_their_lines() {
    for (text, expected) in [
        ("FROM $x", &["1: `$x` is empty after expansion"][..]),
        ("FROM $x\nFROM $y", &["1: `$x` is empty after expansion", "2: `$y` is empty after expansion"]),
        ("FROM ${x?why}", &["1: `${x?why}` cannot be expanded: x: why"]),
        ("ARG a=${\nFROM x", &["1: ARG a: `${` is never closed: `}` is missing"]),
        (
            "FROM --platform=a/b/c/d x",
            &[
                "1: --platform=a/b/c/d: `a/b/c/d` is not a platform: expected `os/arch`, `os/arch/variant` or `arch`, like `linux/arm64`",
            ],
        ),
        ("FROM a\nCOPY --from=1 x y", &["2: there is no stage 1: the Dockerfile has 1, counted from 0"]),
        ("FROM a\nCOPY --from=0 x y", &["2: `from=0` is the stage itself"]),
        ("FROM a AS b\nCOPY --from=b x y", &["2: `from=b` is the stage itself"]),
        ("FROM a AS b\nCOPY --from=c x y\nFROM d AS c\nFROM b", &["2: `from=c` is a stage that begins only later, in line 3"]),
        (
            "FROM a AS b\nRUN --mount=from=c,target=/x y\nFROM d AS c\nFROM b",
            &["2: `from=c` is a stage that begins only later, in line 3"],
        ),
        (
            "FROM a\nRUN --mount=type=nope,target=/x y\nCOPY --from=7 x y",
            &[
                "2: `nope` is no mount type: use one of bind, cache, secret, ssh, tmpfs",
                "3: there is no stage 7: the Dockerfile has 1, counted from 0",
            ],
        ),
    ] {
        assert_eq!(resolve(text, &options("amd64")).expect_err(text), expected, "{text}");
    }
    // A stage that nothing needs may hold any of it.
    assert!(resolve("FROM a AS b\nCOPY --from=c x y\nRUN --mount=type=nope x\nFROM d AS c", &options("amd64")).is_ok());
    let told = Stages::resolve(&parse("FROM a AS build\nFROM Bild"), &options("amd64")).expect_err("no reference").to_string();
    assert!(told.contains("help: did you mean the stage `build`?"), "{told}");
    let told = Stages::resolve(&parse("FROM x:$TARGTARCH\nFROM $TARGETACH"), &options("amd64")).expect_err("empty").to_string();
    assert!(told.contains("`TARGETACH` has no value here: did you mean `TARGETARCH`?"), "{told}");
}

#[test]
fn a_named_context_stands_in_for_a_stage_or_an_image() {
    let with = |name: &str, context: NamedContext| StageOptions {
        contexts: BTreeMap::from([(name.to_owned(), context)]),
        ..options("amd64")
    };
    let files = || NamedContext::Files;
    let image = || NamedContext::Image("other:9".to_owned());
    let text = "FROM a:1 AS x\nCOPY --from=gone y z\nFROM b\nCOPY --from=x y z\nCOPY --from=c:1 y z\n";
    assert_eq!(graph(text, &with("x", files())), ["x(amd64) < context x []", "stage-1(amd64) < b@amd64 [#x c:1@amd64]"]);
    assert_eq!(graph(text, &with("x", image())), ["x(amd64) < other:9@amd64 []", "stage-1(amd64) < b@amd64 [#x c:1@amd64]"]);
    assert_eq!(graph(text, &with("c:1", files()))[1], "stage-1(amd64) < b@amd64 [#x context c:1]");
    for name in ["b", "b:latest", "docker.io/library/b", "library/b"] {
        assert_eq!(graph("FROM b", &with(name, image())), ["stage-0(amd64) < other:9@amd64 []"], "{name}");
    }
    assert_eq!(graph("FROM b:2", &with("b", image())), ["stage-0(amd64) < b:2@amd64 []"]);
    assert_eq!(graph("FROM scratch", &with("scratch", image())), ["stage-0(amd64) < scratch []"]);
}

#[test]
fn triggers_of_the_base_run_first_and_can_need_more_stages() {
    let own = "FROM a AS tools\nFROM b AS parent\nONBUILD COPY --from=tools x y\nONBUILD RUN z\nFROM parent\nRUN last\n";
    let stages = resolve(own, &options("amd64")).expect("right");
    assert_eq!(drawn(&stages), ["tools(amd64) < a@amd64 []", "parent(amd64) < b@amd64 []", "stage-2(amd64) < #parent [#tools]"]);
    let steps: Vec<(&str, bool, u32)> = stages
        .target()
        .steps
        .iter()
        .map(|step| (&step.instruction.text[..], step.triggered, step.instruction.span.line))
        .collect();
    assert_eq!(steps, [("COPY --from=tools x y", true, 5), ("RUN z", true, 5), ("RUN last", false, 6)]);

    let text = "FROM a AS tools\nFROM b\nRUN last\n";
    let image = ImageUse { reference: "b".to_owned(), platform: Platform::linux("amd64") };
    let mut options = options("amd64");
    assert_eq!(graph(text, &options), ["stage-1(amd64) < b@amd64 []"]);
    options.triggers.insert(image.clone(), strings(&["COPY --from=tools x y", "RUN <<E\nz\nE"]));
    assert_eq!(graph(text, &options), ["tools(amd64) < a@amd64 []", "stage-1(amd64) < b@amd64 [#tools]"]);
    options.triggers.insert(image, strings(&["COPY x", "FROM y", "RUN a\nRUN b"]));
    assert_eq!(
        resolve(text, &options).expect_err("wrong triggers"),
        [
            "2: in `COPY x`: COPY needs a source and a destination",
            "2: in `FROM y`: only one instruction that is no FROM can stand here",
            "2: in `RUN a\nRUN b`: exactly one instruction must stand here",
        ]
    );
}

#[test]
fn a_long_chain_of_stages_is_no_burden() {
    let mut text = String::from("FROM a AS s0\n");
    for n in 1..20_000 {
        text.push_str(&format!("FROM s{} AS s{n}\n", n - 1));
    }
    let stages = resolve(&text, &options("arm64")).expect("right");
    assert_eq!((stages.stages.len(), stages.images.len()), (20_000, 1));
}
