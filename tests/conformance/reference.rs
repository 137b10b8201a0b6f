//! Builds by BuildKit, through Docker's client.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::bases::{BaseImage, Bases};
use crate::case::{Case, Version};
use crate::image::Image;
use crate::support::{Setup, variable};

/// A BuildKit to ask.
pub struct Reference {
    client: String,
    engine: String,
    builder: Option<String>,
    frontend: Version,
    home: tempfile::TempDir,
}

/// The version of the frontend in the engine that setup starts, Docker 26.1.
const FRONTEND: &str = "1.7";

impl Reference {
    /// Returns the engine that setup has started, or the newer BuildKit that `PKGBUILD_TEST_BUILDKIT` names by its address and
    /// `PKGBUILD_TEST_BUILDKIT_FRONTEND` by the version of its Dockerfile frontend.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn new(setup: &Setup) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let address = variable("PKGBUILD_TEST_BUILDKIT");
        let frontend = match &address {
            Some(_) => {
                variable("PKGBUILD_TEST_BUILDKIT_FRONTEND").expect("the version of the other BuildKit's frontend is given")
            }
            None => FRONTEND.to_owned(),
        };
        let [client, engine] = ["PKGBUILD_TEST_BUILDX", "PKGBUILD_TEST_ENGINE_HOST"].map(|name| setup.value(name).to_owned());
        let frontend = frontend.try_into().expect("a version");
        let mut reference = Self { client, engine, builder: None, frontend, home };
        if let Some(address) = address {
            let made = reference.command().args(["create", "--driver", "remote", "--name", "other", &address]).output();
            let made = made.expect("setup has unpacked buildx");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            reference.builder = Some("other".to_owned());
        }
        reference
    }

    /// Whether it knows what a case uses.
    pub fn knows(&self, case: &Case) -> bool {
        case.needs.is_none_or(|needed| needed <= self.frontend)
    }

    /// Whether its history is written as today's is: arguments, ports and health checks once looked otherwise.
    pub fn has_current_history(&self) -> bool {
        self.frontend > FRONTEND.to_owned().try_into().expect("a version")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.client);
        command.env_clear().env("HOME", self.home.path()).env("DOCKER_HOST", &self.engine);
        command
    }

    /// Builds a case whose context lies in `directory`; an error is what BuildKit prints.
    pub fn build(
        &self,
        case: &Case,
        directory: &Path,
        bases: &Bases,
        own: &[BaseImage],
        meanings: &[Image],
    ) -> Result<Image, String> {
        let output = tempfile::NamedTempFile::new_in(self.home.path()).expect("a temporary file");
        let mut command = self.command();
        // The cache would compare files by their times, which is not what is asked here.
        command.args(["build", "--no-cache", "--progress=plain", "--provenance=false", "--network=none"]);
        command.arg("--file").arg(directory.join(&case.file));
        command.arg("--output").arg(format!("type=oci,dest={}", output.path().display()));
        command.args(["--platform", case.platform.as_deref().unwrap_or("linux/amd64")]);
        if let Some(builder) = &self.builder {
            command.args(["--builder", builder]);
        }
        if let Some(target) = &case.target {
            command.args(["--target", target]);
        }
        for (name, value) in &case.args {
            command.args(["--build-arg", &format!("{name}={value}")]);
        }
        for base in own.iter().chain([bases.busybox()]) {
            let layout = bases.layout().display();
            command.args(["--build-context", &format!("{}=oci-layout://{layout}@{}", base.name, base.descriptor.digest)]);
        }
        let finished = command.arg(directory).output().expect("setup has unpacked buildx");
        if !finished.status.success() {
            return Err(String::from_utf8_lossy(&finished.stderr).into_owned());
        }
        let blobs = blobs(output.path());
        let index: Value = serde_json::from_slice(&blobs["index.json"]).expect("an OCI layout");
        let manifest = index["manifests"][0]["digest"].as_str().expect("an image");
        let read = |digest: &str| blobs[&format!("blobs/{}", digest.replace(':', "/"))].clone();
        Ok(Image::read(manifest, &read, meanings))
    }
}

fn blobs(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = std::fs::File::open(archive).expect("BuildKit wrote it");
    let mut blobs = BTreeMap::new();
    for member in tar::Archive::new(file).entries().expect("an archive") {
        let mut member = member.expect("an archive");
        let name = String::from_utf8(member.path_bytes().into_owned()).expect("names of a layout are ASCII");
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).expect("an archive");
        blobs.insert(name, bytes);
    }
    blobs
}
