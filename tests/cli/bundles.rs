//! Images inside of images: fetched for each platform and laid into the context, without an engine.

use crate::support::{Program, Registry, Repository, Run, Setup};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A registry with a package `inner` for two platforms in it, and a repository that can name it by digest.
struct World {
    setup: Setup,
    registry: Registry,
    repository: Repository,
    program: Program,
}

const PLATFORMS: &str = "linux/amd64,linux/arm64";

impl World {
    fn new() -> Self {
        let world =
            Self { setup: Setup::require(), registry: Registry::start(), repository: Repository::new(), program: Program::new() };
        let org = format!("{}/team", world.registry.address());
        world.repository.write("pkgbuild.yml", format!("defaults:\n  org: {org}\n"));
        world.repository.write("pkg/inner/build.yml", "image: inner\n");
        world.repository.write("pkg/inner/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\nCMD [\"/arch\"]\n");
        world.repository.write("pkg/inner/amd64", "made for amd64").write("pkg/inner/arm64", "made for arm64");
        world.repository.commit("inner");
        world.run(&["push", "--platforms", PLATFORMS, "pkg/inner"]).success();
        world
    }

    #[track_caller]
    #[must_use = "a run that nobody looks at proves nothing"]
    fn run(&self, arguments: &[&str]) -> Run {
        self.program.run(self.repository.path(), arguments)
    }

    /// Returns the reference of `inner` with its digest.
    fn pinned(&self) -> String {
        let run = self.run(&["show-tag", "--canonical", "pkg/inner"]).success();
        let reference = run.lines()[0].to_owned();
        let manifest =
            self.setup.skopeo(&["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &format!("docker://{reference}")]);
        format!("{reference}@{manifest}")
    }

    /// Writes the package `outer`, which takes all of its context, and commits it.
    fn outer(&self, depends: &str) {
        self.repository.write("pkg/outer/build.yml", format!("image: outer\ndepends:\n{depends}"));
        self.repository.write("pkg/outer/Dockerfile", "FROM scratch\nCOPY . /\n");
        self.repository.commit("outer");
    }

    /// Returns a directory with the files of `outer` for `arch`.
    fn files(&self, arch: &str) -> PathBuf {
        let run = self.run(&["show-tag", "pkg/outer"]).success();
        let directory = self.program.home().join(format!("files-{arch}"));
        let tar = self.program.home().join(format!("{arch}.tar"));
        let text = |path: &Path| path.to_str().expect("a temporary path is UTF-8").to_owned();
        let name = run.lines()[0].to_owned();
        let platform = format!("linux/{arch}");
        self.run(&["cache", "export", "--format", "filesystem", "--platform", &platform, "--outfile", &text(&tar), &name])
            .success();
        tar::Archive::new(fs::File::open(&tar).expect("exported")).unpack(&directory).expect("unpacks");
        directory
    }
}

fn layers(layout: &Path, manifest: &Value) -> Vec<PathBuf> {
    let layers = manifest["layers"].as_array().expect("a manifest has layers");
    let path = |layer: &Value| layout.join("blobs").join(layer["digest"].as_str().expect("a digest").replace(':', "/"));
    layers.iter().map(path).collect()
}

#[test]
fn listed_images_are_in_the_context_of_each_platform_as_layout_and_archives() {
    let world = World::new();
    let pinned = world.pinned();
    world.repository.write("pkg/outer/old/stale", "left by an earlier build");
    world.outer(&format!(
        "  docker-images:\n    target-dir: old\n    list: [\"{pinned}\"]\n  images:\n    - target-dir: layout\n      list: [\"{pinned}\"]\n    - target: deep/archive.tar\n      format: oci\n      list: [\"{pinned}\"]\n"
    ));
    world.run(&["build", "--platforms", PLATFORMS, "pkg/outer"]).success();
    let (reference, digest) = pinned.split_once('@').expect("it is pinned");
    for arch in ["amd64", "arm64"] {
        let files = world.files(arch);
        let names: Vec<String> = fs::read_dir(files.join("old"))
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        assert_eq!(names, [format!("inner@{digest}.tar")], "what was there is gone");
        let layout = files.join("layout");
        let raw = world.setup.skopeo(&["inspect", "--raw", &format!("oci:{}", layout.display())]);
        let manifest: Value = serde_json::from_str(&raw).expect("a manifest is JSON");
        let [layer] = &layers(&layout, &manifest)[..] else { panic!("one layer in {raw}") };
        let mut text = String::new();
        let unpacked = flate2::read::GzDecoder::new(fs::File::open(layer).expect("a blob"));
        std::io::Read::read_to_string(&mut std::io::BufReader::new(unpacked), &mut text).expect("a tar of texts");
        assert!(text.contains(&format!("made for {arch}")), "{arch}");
        let archive = files.join("deep/archive.tar");
        assert_eq!(world.setup.skopeo(&["inspect", "--raw", &format!("oci-archive:{}", archive.display())]), raw);
        // The engine reads the other form, with the tag that was written.
        let docker = files.join("old").join(&names[0]);
        world.setup.docker(&["load", "--quiet", "--input", docker.to_str().expect("UTF-8")]);
        let loaded = world.setup.docker(&["image", "inspect", "--format", "{{.Architecture}}", reference]);
        assert_eq!(loaded, arch);
        world.setup.docker(&["rmi", reference]);
    }
    assert_eq!(world.repository.git(&["status", "--porcelain"]), "", "the package's directory is not written to");
    let scratch = world.program.cache().join("pkgbuild/v1/scratch");
    assert_eq!(fs::read_dir(scratch).expect("a directory").count(), 1, "only the lock of makers is left of the files");
}

#[test]
fn the_same_images_give_the_same_image_whatever_the_mask_and_the_cache() {
    let world = World::new();
    world.outer(&format!("  images:\n    - target-dir: layout\n      list: [\"{}\"]\n", world.pinned()));
    let build = |mask: &str, cache: &Path| {
        let script = format!("umask {mask} && exec \"$@\"");
        let program = world.program.command(world.repository.path(), &[]);
        let run = std::process::Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(program.get_program())
            .args(["build", "--platforms", PLATFORMS, "--cache"])
            .arg(cache)
            .arg("pkg/outer")
            .envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(world.repository.path())
            .output()
            .expect("it starts");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).expect("UTF-8")
    };
    let (one, two) = (world.program.home().join("one"), world.program.home().join("two"));
    assert_eq!(build("077", &one), build("000", &two));
}

#[test]
fn an_image_that_is_nowhere_or_not_for_the_platform_is_named() {
    let world = World::new();
    let pinned = world.pinned();
    let nowhere = format!("{}/team/none@sha256:{}", world.registry.address(), "0".repeat(64));
    world.outer(&format!("  images:\n    - target-dir: layout\n      list: [\"{nowhere}\"]\n"));
    let run = world.run(&["build", "pkg/outer"]).exits_with(1);
    assert!(run.stderr.contains(&nowhere), "{}", run.stderr);
    world.outer(&format!("  images:\n    - target-dir: layout\n      list: [\"{pinned}\"]\n"));
    world.repository.write("pkg/inner/build.yml", "image: inner\narches: [amd64]\n");
    let run = world.run(&["build", "--platforms", PLATFORMS, "pkg/inner"]).success();
    assert!(run.stderr.contains("`inner` is not built for linux/arm64: it is for linux/amd64 only"), "{}", run.stderr);
    let run = world.run(&["build", "--platforms", "linux/riscv64", "pkg/outer"]).exits_with(1);
    assert!(run.stderr.contains("is for linux/amd64, linux/arm64"), "{}", run.stderr);
}
