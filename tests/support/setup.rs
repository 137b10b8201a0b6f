//! What `scripts/setup` has put on this machine, and the tools that the results are judged with.

use super::{hermetic, output_of, variable};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use tempfile::TempDir;

/// The machine after `scripts/setup`. Tests that need it fail without it: skipping would prove nothing.
pub struct Setup {
    values: BTreeMap<String, String>,
    home: TempDir,
}

impl Setup {
    /// Returns what setup has written down.
    ///
    /// # Panics
    /// When it has not run on this machine.
    #[track_caller]
    pub fn require() -> Self {
        let state = variable("PKGBUILD_TEST_STATE").unwrap_or_else(|| "/var/tmp/pkgbuild-test".to_owned());
        let file = PathBuf::from(state).join("env");
        let Ok(text) = fs::read_to_string(&file) else { panic!("{} is missing: run scripts/setup", file.display()) };
        let values = text.lines().filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self { values: values.collect(), home: TempDir::new().expect("a temporary directory") }
    }

    /// Returns a line of setup's env file.
    #[track_caller]
    pub fn value(&self, name: &str) -> &str {
        self.values.get(name).unwrap_or_else(|| panic!("{name} is not in setup's env file: run scripts/setup again"))
    }

    /// Returns the directory with the base package's root file systems.
    #[track_caller]
    pub fn rootfs(&self) -> PathBuf {
        self.value("PKGBUILD_TEST_ROOTFS").into()
    }

    /// Runs `skopeo ARGUMENTS` and returns what it prints. Registries on this machine speak plain HTTP, which it is told by
    /// `--tls-verify=false` among the arguments.
    #[track_caller]
    pub fn skopeo(&self, arguments: &[&str]) -> String {
        output_of(hermetic("skopeo", self.home.path()).args(arguments))
    }

    /// Runs `skopeo ARGUMENTS`, which may fail.
    pub fn try_skopeo(&self, arguments: &[&str]) -> Output {
        hermetic("skopeo", self.home.path()).args(arguments).output().expect("setup has installed skopeo")
    }

    /// Runs Debian's `docker ARGUMENTS` against the engine that setup started and returns what it prints.
    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> String {
        let mut command = hermetic(self.value("PKGBUILD_TEST_DOCKER"), self.home.path());
        output_of(command.env("DOCKER_HOST", self.value("PKGBUILD_TEST_DOCKER_HOST")).args(arguments))
    }
}
