//! The main job on real packages with a real registry and a real engine: build, push, read back, run, and do it again.

use crate::demo::{self, PACKAGES, PLATFORMS};
use crate::support::{Program, Registry, Repository, Run, Setup};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::fs;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The packages of `pkg/`, a registry for them, and the program with an empty cache.
struct World {
    setup: Setup,
    registry: Registry,
    repository: Repository,
    program: Program,
}

impl World {
    fn new() -> Self {
        let (setup, registry) = (Setup::require(), Registry::start());
        let repository = demo::packages(&setup, &format!("{}/demo", registry.address()));
        Self { setup, registry, repository, program: Program::new() }
    }

    #[track_caller]
    #[must_use = "a run that nobody looks at proves nothing"]
    fn run(&self, arguments: &[&str]) -> Run {
        self.program.run(self.repository.path(), arguments)
    }

    /// Builds and pushes everything, with events instead of progress.
    #[track_caller]
    fn push(&self) -> Run {
        self.run(&["push", "--platforms", PLATFORMS, "--progress", "json"]).success()
    }

    /// Returns the references of all packages, in the order of [`PACKAGES`].
    #[track_caller]
    fn references(&self) -> Vec<String> {
        let run = self.run(&[["show-tag", "--canonical"].as_slice(), &PACKAGES].concat()).success();
        run.lines().into_iter().map(str::to_owned).collect()
    }

    #[track_caller]
    fn raw(&self, reference: &str) -> String {
        self.setup.skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{reference}")])
    }

    /// Returns the decision for each unit, as `PACKAGE PLATFORM WORD`.
    #[track_caller]
    fn plan(&self) -> Vec<String> {
        let plan = self.run(&["plan", "--json", "--platforms", PLATFORMS]).success().json();
        assert_eq!(plan["schema"], "pkgbuild.plan/v1");
        let list = |value: &Value| value.as_array().unwrap_or_else(|| panic!("a list instead of {value}")).clone();
        let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("a text instead of {value}")).to_owned();
        let units = |package: &Value| {
            let name = text(&package["package"]);
            list(&package["platforms"])
                .into_iter()
                .map(move |unit| format!("{name} {} {}", text(&unit["platform"]), text(&unit["decision"])))
                .collect::<Vec<_>>()
        };
        list(&plan["packages"]).iter().flat_map(units).collect()
    }
}

/// Returns the events of a run of `--progress json`.
#[track_caller]
fn events(run: &Run) -> Vec<Value> {
    run.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Returns how many units a run has built, pulled and found.
#[track_caller]
fn built_pulled_reused(run: &Run) -> [u64; 3] {
    let events = events(run);
    let end = events.last().expect("a run has an end");
    assert_eq!(end["event"], "run-finished");
    ["built", "pulled", "reused"].map(|key| end[key].as_u64().unwrap_or_else(|| panic!("{key} in {end}")))
}

/// Returns the units that a run has built, as `PACKAGE PLATFORM`, sorted.
fn built_units(run: &Run) -> Vec<String> {
    let mut units: Vec<String> = events(run)
        .iter()
        .filter(|event| event["event"] == "unit-finished" && event["outcome"] == "built")
        .map(|event| {
            format!("{} {}", event["package"].as_str().expect("a name"), event["platform"].as_str().expect("a platform"))
        })
        .collect();
    units.sort();
    units
}

fn digest_of(bytes: &str) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[test]
fn two_platforms_are_built_pushed_read_back_and_run() {
    let world = World::new();
    assert_eq!(built_pulled_reused(&world.push()), [8, 0, 0]);

    let references = world.references();
    assert_eq!(references[2], format!("{}/demo/hello:{}", world.registry.address(), world.repository.tree("pkg/hello")));
    for reference in &references {
        let (name, _) = reference.rsplit_once(':').expect("it has a tag");
        let index: Value = serde_json::from_str(&world.raw(reference)).expect("an index is JSON");
        assert_eq!(index["mediaType"], INDEX);
        let children = index["manifests"].as_array().expect("an index has manifests");
        let platforms: Vec<_> = children.iter().map(|child| &child["platform"]["architecture"]).collect();
        assert_eq!(platforms, ["amd64", "arm64"], "{reference}");
        for child in children {
            let arch = child["platform"]["architecture"].as_str().expect("it was compared");
            let digest = child["digest"].as_str().expect("a descriptor has a digest");
            assert_eq!(child["mediaType"], MANIFEST);
            let manifest = world.raw(&format!("{name}@{digest}"));
            assert_eq!(digest_of(&manifest), digest);
            assert_eq!(child["size"], manifest.len());
            assert_eq!(
                world.raw(&format!("{reference}-{arch}")),
                manifest,
                "the tag of one architecture names the same manifest"
            );

            let manifest: Value = serde_json::from_str(&manifest).expect("a manifest is JSON");
            assert_eq!([&manifest["mediaType"], &manifest["config"]["mediaType"]], [MANIFEST, CONFIG]);
            for layer in manifest["layers"].as_array().expect("a manifest has layers") {
                assert_eq!(layer["mediaType"], LAYER);
            }
            let config = world.setup.skopeo(&["inspect", "--tls-verify=false", "--config", &format!("docker://{name}@{digest}")]);
            let config: Value = serde_json::from_str(&config).expect("a config is JSON");
            assert_eq!([&config["os"], &config["architecture"]], ["linux", arch]);
        }
    }
    let label = world.setup.skopeo(&[
        "inspect",
        "--tls-verify=false",
        "--format",
        r#"{{index .Labels "org.mobyproject.config"}}"#,
        &format!("docker://{}", references[2]),
    ]);
    assert_eq!(label, r#"{"capabilities":[],"command":["/bin/true"],"readonly":true}"#);

    for (arch, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let run = |reference: &str, command: &[&str]| {
            let platform = format!("linux/{arch}");
            world.setup.docker(&["pull", "--quiet", "--platform", &platform, reference]);
            let printed = world
                .setup
                .docker(&[["run", "--rm", "--network", "none", "--platform", &platform, reference].as_slice(), command].concat());
            world.setup.docker(&["rmi", reference]);
            printed
        };
        assert_eq!(run(&references[1], &["uname", "-m"]), machine);
        assert_eq!(run(&references[0], &[]), format!("Hello from app: built on {machine}, running on {machine} as app"));
        assert_eq!(run(&references[3], &[]), format!("multi for {arch}, rendered on {machine}"));
        assert_eq!(run(&references[3], &["uname", "-m"]), machine);
    }
}

#[test]
fn an_exported_image_is_loaded_by_the_engine() {
    let world = World::new();
    world.run(&["build", "--platforms", PLATFORMS, "pkg/base", "pkg/app"]).success();
    let reference = &world.references()[0];
    for (arch, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let file = world.repository.path().join(format!("../{arch}.tar"));
        let file = file.to_str().expect("a temporary path is UTF-8");
        let platform = format!("linux/{arch}");
        world.run(&["cache", "export", "--format", "docker", "--platform", &platform, "--outfile", file, reference]).success();
        world.setup.docker(&["load", "--quiet", "--input", file]);
        let printed =
            world.setup.docker(&["run", "--rm", "--pull", "never", "--network", "none", "--platform", &platform, reference]);
        assert_eq!(printed, format!("Hello from app: built on {machine}, running on {machine} as app"));
        world.setup.docker(&["rmi", reference]);
    }
}

#[test]
fn an_outage_is_not_an_empty_registry() {
    let mut world = World::new();
    world.push();
    world.program = Program::new();
    world.registry.stop();
    let run = world.run(&["push", "--platforms", PLATFORMS, "pkg/hello"]).exits_with(69);
    assert!(run.stderr.contains(world.registry.address()), "{}", run.stderr);
}

#[test]
fn a_second_run_builds_nothing_and_uploads_nothing() {
    let world = World::new();
    let first = world.push();
    let before = world.registry.requests().len();
    let second = world.push();
    assert_eq!(built_pulled_reused(&second), [0, 0, 8]);
    let writes: Vec<_> = world.registry.requests().split_off(before).into_iter().filter(|request| request.writes()).collect();
    assert_eq!(writes, []);
    assert_eq!(first.stdout, second.stdout);
}

#[test]
fn an_empty_cache_beside_a_full_registry_plans_no_build() {
    let mut world = World::new();
    world.push();
    world.program = Program::new();
    let plan = world.plan();
    assert_eq!(plan.len(), 8);
    assert!(plan.iter().all(|unit| unit.ends_with(" use-remote")), "{plan:#?}");

    let before = world.registry.requests().len();
    assert_eq!(built_units(&world.push()), Vec::<String>::new());
    assert!(world.registry.requests()[before..].iter().all(|request| !request.writes()));
}

#[test]
fn an_edited_package_is_built_again_with_what_names_it_and_nothing_else() {
    let world = World::new();
    // As packages of linuxkit name each other: by the tag itself, so that a new tag below is a new tag above.
    let name_base = || {
        let dockerfile = format!("FROM {}\nCOPY greet /usr/bin/greet\n", world.references()[1]);
        world.repository.write("pkg/app/Dockerfile", dockerfile).commit("app: on the newest base");
    };
    name_base();
    world.push();

    world.repository.write("pkg/app/greet", "#!/bin/sh\necho changed\n").commit("app: edited");
    assert_eq!(built_units(&world.push()), ["app linux/amd64", "app linux/arm64"]);

    world.repository.write("pkg/shared-src/render.sh", "echo changed\n").commit("shared: edited");
    assert_eq!(built_units(&world.push()), ["multi linux/amd64", "multi linux/arm64"]);

    world.repository.write("pkg/base/motd", "changed\n").commit("base: edited");
    name_base();
    assert_eq!(built_units(&world.push()), ["app linux/amd64", "app linux/arm64", "base linux/amd64", "base linux/arm64"]);
}

#[test]
fn under_the_complete_scheme_an_edit_below_is_a_build_above() {
    let world = World::new();
    world.repository.write("pkgbuild.yml", "tag-scheme: complete\n").commit("complete tags");
    world.push();

    world.repository.write("pkg/base/motd", "changed\n").commit("base: edited");
    let below_and_above =
        ["app", "base", "multi"].iter().flat_map(|name| ["amd64", "arm64"].map(|arch| format!("{name} linux/{arch}")));
    assert_eq!(built_units(&world.push()), below_and_above.collect::<Vec<_>>());
    assert_eq!(built_units(&world.push()), Vec::<String>::new());
}

#[test]
fn uncommitted_changes_are_refused_before_anything_is_built() {
    let world = World::new();
    world.repository.write("pkg/hello/hello.txt", "changed\n");
    let run = world.run(&["push", "--platforms", PLATFORMS, "pkg/hello"]).exits_with(4);
    assert!(run.stderr.contains("hello"), "{}", run.stderr);
    assert!(world.registry.requests().iter().all(|request| !request.writes()));
}

#[test]
fn a_release_is_the_same_bytes_under_another_name() {
    let world = World::new();
    world.run(&["push", "--platforms", PLATFORMS, "--release", "v1", "pkg/hello"]).success();
    let reference = &world.references()[2];
    let (name, _) = reference.rsplit_once(':').expect("it has a tag");
    assert_eq!(world.raw(&format!("{name}:v1")), world.raw(reference));
}

#[test]
fn a_registry_with_a_password_gets_the_one_of_the_docker_configuration() {
    let setup = Setup::require();
    let registry = Registry::with_password("builder", "s3cret-word");
    let repository = demo::packages(&setup, &format!("{}/demo", registry.address()));
    let (stranger, builder) = (Program::new(), Program::new());
    let push = ["push", "--platforms", PLATFORMS, "pkg/hello"];
    let refused = stranger.run(repository.path(), &push).exits_with(77);
    assert!(refused.stderr.contains(registry.address()), "{}", refused.stderr);

    let authorization = "YnVpbGRlcjpzM2NyZXQtd29yZA=="; // builder:s3cret-word
    let configuration = serde_json::json!({"auths": {(registry.address()): {"auth": authorization}}});
    fs::create_dir_all(builder.home().join(".docker")).expect("the home is writable");
    fs::write(builder.home().join(".docker/config.json"), configuration.to_string()).expect("the home is writable");
    let run = builder.run(repository.path(), &[push.as_slice(), &["-v", "--progress", "json"]].concat()).success();
    assert!(!run.stderr.contains("s3cret-word") && !run.stderr.contains(authorization), "a secret is never printed");

    let tag = format!("docker://{}/demo/hello:{}", registry.address(), repository.tree("pkg/hello"));
    let index = setup.skopeo(&["inspect", "--tls-verify=false", "--creds", "builder:s3cret-word", "--raw", &tag]);
    assert!(index.contains(INDEX));
}

#[test]
fn a_registry_with_an_authority_of_its_own_is_trusted_when_that_is_named() {
    let setup = Setup::require();
    let registry = Registry::with_tls();
    let repository = demo::packages(&setup, &format!("{}/demo", registry.address()));
    let program = Program::new();
    let push = ["push", "--platforms", PLATFORMS, "pkg/hello"];
    let distrusted = program.run(repository.path(), &push).exits_with(69);
    assert!(distrusted.stderr.contains("certificate"), "{}", distrusted.stderr);

    let authority = registry.authority();
    let authority = authority.to_str().expect("a temporary path is UTF-8");
    program.run(repository.path(), &[push.as_slice(), &["--cert-file", authority]].concat()).success();
    let written = registry.requests().into_iter().any(|request| request.method == "PUT" && request.path.contains("/manifests/"));
    assert!(written, "{:#?}", registry.requests());
}
