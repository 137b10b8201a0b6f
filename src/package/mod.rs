//! What a package is, which packages there are, what depends on what, and what each is called.
//!
//! A package is a directory with a `build.yml` and a Dockerfile. Everything here is decided from files and from git; no
//! registry and no clock is asked.

mod args;
mod build_yml;
mod config;
mod error;
mod graph;
mod inputs;
mod key;
mod keys;
mod path;
pub mod schema;
mod shape;
mod sources;
mod tag;
mod template;
mod workspace;
mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use args::{ArgFile, Args};
pub use build_yml::{BuildArg, BuildYml, BundleForm, BundleTarget, BundledImages, Depended, Depends, ExtraSource};
pub use error::PackageError;
pub use graph::{Dependency, Format, Graph, Via};
pub use inputs::{Keyed, input_keys};
pub use key::{INPUT_KEY, InputKey};
pub use tag::{PackageTag, SourceState, TagOverrides, TagScheme, compute, go_package_version};
pub use template::{Template, TemplateError};
pub use workspace::{RegistrySettings, Settings, Workspace, WorkspaceOptions};

use crate::dockerfile::Ignore;
use crate::oci::Platform;

/// A package: its directory, and its `build.yml` with everything that overrides it.
#[derive(Clone, PartialEq, Debug)]
pub struct Package {
    /// Absolute path of its directory, links unfollowed.
    pub directory: PathBuf,
    /// Absolute path of its build.yml.
    pub build_yml: PathBuf,
    /// How messages name its directory: relative to where the user is.
    pub shown: PathBuf,
    /// What build.yml says, overrides applied.
    pub settings: BuildYml,
}

/// What is said outside of build.yml and holds for every package of a run.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct PackageOverrides {
    /// `--org` or `LINUXKIT_PKG_ORG`.
    pub org: Option<String>,
    /// `--dev`: the user's name, which stands for `org` where that is not overridden.
    pub dev: Option<String>,
    /// `--tag`: a template. Empty means not given.
    pub tag: Option<String>,
    /// `--network` or `--nonetwork`.
    pub network: Option<bool>,
    /// `--disable-cache` or `--enable-cache`.
    pub disable_cache: Option<bool>,
    /// `--dockerfile`.
    pub dockerfile: Option<PathBuf>,
}

impl Package {
    /// Returns what the ignore file of the package's context leaves out.
    ///
    /// # Errors
    /// Its mistakes, or that it cannot be read.
    pub fn ignored(&self) -> Result<Ignore, PackageError> {
        sources::ignored(self)
    }

    /// Returns `org/image`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.settings.org, self.settings.image)
    }

    /// Returns `org/image:tag` for another tag, such as a release.
    pub fn reference(&self, tag: &str) -> String {
        format!("{}:{tag}", self.name())
    }

    /// Returns the platforms to build for, in order; none when the package is disabled.
    pub fn platforms(&self) -> &[Platform] {
        &self.settings.platforms
    }

    /// Returns the Dockerfile's path in the package's directory.
    pub fn dockerfile(&self) -> &Path {
        &self.settings.dockerfile
    }

    /// Returns the directories of the build context and where each appears in it: the package's own first, at the root.
    pub fn context(&self) -> Vec<(PathBuf, PathBuf)> {
        let extra = self.settings.extra_sources.iter().map(|extra| (self.source(extra), extra.target.clone()));
        std::iter::once((self.directory.clone(), PathBuf::new())).chain(extra).collect()
    }

    /// Returns the absolute path of an extra source.
    pub fn source(&self, extra: &ExtraSource) -> PathBuf {
        path::absolute(&self.directory, &extra.source)
    }

    /// Returns the labels that linuxkit sets on the image, and over them those of build.yml.
    pub fn labels(&self, tag: &PackageTag) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let mut set = |key: &str, value: &str| labels.insert(key.to_owned(), value.to_owned());
        if tag.state != SourceState::OutsideGit && !self.settings.gitrepo.is_empty() {
            set("org.opencontainers.image.source", &self.settings.gitrepo);
        }
        if let Some(revision) = tag.revision() {
            set("org.opencontainers.image.revision", revision);
        }
        if let Some(config) = &self.settings.config_label {
            set("org.mobyproject.config", config);
        }
        set("org.mobyproject.linuxkit.version", env!("CARGO_PKG_VERSION"));
        set("org.mobyproject.linuxkit.revision", "unknown");
        labels.extend(self.settings.labels.clone());
        labels
    }

    /// Applies what overrides build.yml.
    fn apply(&mut self, overrides: &PackageOverrides) -> Result<(), TemplateError> {
        let settings = &mut self.settings;
        if let Some(org) = overrides.org.as_ref().or(overrides.dev.as_ref()) {
            settings.org.clone_from(org);
        }
        if let Some(tag) = overrides.tag.as_deref().filter(|tag| !tag.is_empty()) {
            settings.tag = Template::parse(tag)?;
        }
        settings.network = overrides.network.unwrap_or(settings.network);
        settings.disable_cache = overrides.disable_cache.unwrap_or(settings.disable_cache);
        if let Some(dockerfile) = &overrides.dockerfile {
            settings.dockerfile.clone_from(dockerfile);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tag_tests;
#[cfg(test)]
mod tests;
