//! What a package's image is called: linuxkit's formula over facts from git, so that images already published are found.

use std::path::{Path, PathBuf};

use chrono::DateTime;
use sha1::{Digest as _, Sha1};

use super::{Package, PackageError, path};
use crate::git::{Commit, GitError, Location, Repositories};
use crate::oci::{Reference, Tag};

/// How a package's hash is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TagScheme {
    /// linuxkit's: git's tree id of the package's directory, joined with those of its extra sources.
    #[default]
    Linuxkit,
    /// Everything that goes into the image.
    Complete,
}

/// What is said on the command line about hashes, for all packages of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TagOverrides {
    /// `--hash`: used as it is. Empty means not given.
    pub hash: Option<String>,
    /// `--dev`: the hash is `dev` unless one is given.
    pub dev: bool,
    /// `--hash-commit`: the commit whose trees are taken; anything but the word `HEAD` counts as clean.
    pub hash_commit: String,
    /// `--hash-path`, absolute: a directory above the package whose tree and state are taken instead.
    pub hash_path: Option<PathBuf>,
    /// `--force-dirty`.
    pub force_dirty: bool,
}

impl Default for TagOverrides {
    fn default() -> Self {
        Self { hash: None, dev: false, hash_commit: "HEAD".to_owned(), hash_path: None, force_dirty: false }
    }
}

impl TagOverrides {
    /// Returns the hash that is given, if one is.
    pub(super) fn given(&self) -> Option<&str> {
        self.hash.as_deref().filter(|hash| !hash.is_empty()).or(self.dev.then_some("dev"))
    }
}

/// How a package's sources relate to git.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceState {
    /// What is built is what is committed.
    Clean,
    /// Something differs from the commit: such an image must not be published.
    Dirty,
    /// The package is in no repository; its hash is empty and its tag, by default, `latest`.
    OutsideGit,
}

/// What a package's image is called, and from what that follows.
#[derive(Clone, PartialEq, Debug)]
pub struct PackageTag {
    /// `org/image:tag`, as `show-tag` prints it.
    pub short: String,
    /// The same with a registry before it, by linuxkit's rule: the name in the cache, and what is pushed.
    /// A name of three parts or more gets none, whatever its first part is.
    pub full: String,
    /// The same by Docker's rules: what registries are asked for.
    pub reference: Reference,
    /// The hash, with the suffix of a dirty package; empty outside of git.
    pub hash: String,
    /// How the sources relate to git.
    pub state: SourceState,
    /// The commit of `HEAD`, when in a repository that has one.
    pub commit: Option<Commit>,
}

impl PackageTag {
    /// Returns the commit that the sources are, when they are one.
    pub fn revision(&self) -> Option<&str> {
        self.commit.as_ref().filter(|_| self.state == SourceState::Clean).map(|commit| commit.id.as_str())
    }
}

/// Returns what `package` is called under linuxkit's scheme.
///
/// # Errors
/// When git cannot answer (which linuxkit takes for "not in git", and tags `latest`), when the package or a source is not
/// in the commit, or when the template or the resulting name is not usable.
pub fn compute(package: &Package, repositories: &mut Repositories, overrides: &TagOverrides) -> Result<PackageTag, PackageError> {
    let mut facts = Facts { package, repositories, overrides };
    let sources = facts.source_hashes()?;
    let given = overrides.given();
    let location = facts.locate(&package.directory)?;
    let (hash, state, commit) = match &location {
        None => (given.unwrap_or_default().to_owned(), SourceState::OutsideGit, None),
        Some(location) => {
            let scope = facts.scope(location)?;
            let state = facts.state(&scope)?;
            let hash = match given {
                Some(hash) => hash.to_owned(),
                None => {
                    let tree = facts.tree(&scope)?;
                    let content = match state {
                        SourceState::Dirty => Some(facts.ask(|git| git.content_hash(location))?),
                        _ => None,
                    };
                    join(tree, &sources, content.as_deref())
                }
            };
            (hash, state, facts.ask(|git| git.head(location))?)
        }
    };
    name(package, hash, state, commit)
}

/// The formula. All parts are hex, joined as text.
fn join(tree: String, sources: &[String], content: Option<&str>) -> String {
    let hash = match sources {
        [] => tree,
        sources => hex(&Sha1::digest(format!("{tree}{}", sources.concat()))),
    };
    match content {
        Some(content) => format!("{hash}-dirty-{}", &content[..7]),
        None => hash,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a name of a hash.
///
/// # Errors
/// When the template or the resulting name is not usable.
pub(super) fn name(
    package: &Package,
    hash: String,
    state: SourceState,
    commit: Option<Commit>,
) -> Result<PackageTag, PackageError> {
    let template = &package.settings.tag;
    let tag = template.render(&hash).map_err(|source| PackageError::Template {
        package: package.shown.clone(),
        template: template.source().to_owned(),
        source,
    })?;
    let tag = if tag.is_empty() { "latest" } else { &tag };
    let invalid = |source| PackageError::Name { package: package.shown.clone(), source };
    tag.parse::<Tag>().map_err(invalid)?;
    let short = package.reference(tag);
    let reference = short.parse::<Reference>().map_err(invalid)?;
    Ok(PackageTag { full: expand(&short), short, reference, hash, state, commit })
}

/// Puts a registry before a name by linuxkit's rule, which counts parts: one is a library image, two have a registry only
/// if the first looks like a host, and three or more are left as they are.
fn expand(name: &str) -> String {
    match name.split('/').collect::<Vec<_>>()[..] {
        [_] => format!("docker.io/library/{name}"),
        [first, _] if !(first.contains(['.', ':']) || first == "localhost") => format!("docker.io/{name}"),
        _ => name.to_owned(),
    }
}

/// Returns linuxkit's `GOPKGVERSION` for `commit`. It is meant as a Go pseudo-version, so the time is in UTC, where linuxkit
/// has the machine's zone; its base is always `v0.0.0`, since linuxkit's pattern for version tags never matches one.
pub fn go_package_version(commit: &Commit) -> String {
    let time = DateTime::from_timestamp(commit.time, 0).unwrap_or_default();
    format!("v0.0.0-{}-{}", time.format("%Y%m%d%H%M%S"), commit.short)
}

/// The questions about one package's sources.
pub(super) struct Facts<'a> {
    pub(super) package: &'a Package,
    pub(super) repositories: &'a mut Repositories,
    pub(super) overrides: &'a TagOverrides,
}

impl Facts<'_> {
    pub(super) fn ask<T>(&mut self, question: impl FnOnce(&mut Repositories) -> Result<T, GitError>) -> Result<T, PackageError> {
        question(self.repositories).map_err(|source| PackageError::Git { package: self.package.shown.clone(), source })
    }

    pub(super) fn locate(&mut self, directory: &Path) -> Result<Option<Location>, PackageError> {
        self.ask(|git| git.locate(directory))
    }

    pub(super) fn tree(&mut self, location: &Location) -> Result<String, PackageError> {
        let revision = self.overrides.hash_commit.clone();
        match self.ask(|git| git.tree(location, &revision))? {
            Some(id) => Ok(id.to_string()),
            None => Err(PackageError::NotInGit { package: self.package.shown.clone(), path: location.path.clone(), revision }),
        }
    }

    /// Returns the tree ids of the extra sources, in order; each may lie in a repository of its own.
    fn source_hashes(&mut self) -> Result<Vec<String>, PackageError> {
        let package = self.package;
        let mut hashes = Vec::new();
        for extra in &package.settings.extra_sources {
            let source_path = package.source(extra);
            let absent = || PackageError::SourceNotInGit { package: package.shown.clone(), source_path: source_path.clone() };
            // What is no directory is told as such; a directory that cannot be read is told by git.
            if fs_err::metadata(&source_path).is_ok_and(|found| !found.is_dir()) || !source_path.exists() {
                return Err(absent());
            }
            let location = self.locate(&source_path)?.ok_or_else(absent)?;
            hashes.push(self.tree(&location)?);
        }
        Ok(hashes)
    }

    /// Returns the directory whose tree and state count.
    pub(super) fn scope(&mut self, location: &Location) -> Result<Location, PackageError> {
        let Some(hash_path) = &self.overrides.hash_path else { return Ok(location.clone()) };
        let hash_path = path::clean(hash_path);
        let wrong = || PackageError::HashPath { package: self.package.shown.clone(), hash_path: hash_path.clone() };
        if !self.package.directory.starts_with(&hash_path) {
            return Err(wrong());
        }
        let error = wrong();
        match self.locate(&hash_path)? {
            Some(scope) if scope.root == location.root => Ok(scope),
            _ => Err(error),
        }
    }

    fn state(&mut self, scope: &Location) -> Result<SourceState, PackageError> {
        let dirty =
            self.overrides.force_dirty || (self.overrides.hash_commit == "HEAD" && self.ask(|git| git.is_dirty(scope))?);
        Ok(if dirty { SourceState::Dirty } else { SourceState::Clean })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule and its odd third line are linuxkit's `ReferenceExpand`.
    #[test]
    fn full_names_follow_linuxkits_rule() {
        for (short, full) in [
            ("alpine:3", "docker.io/library/alpine:3"),
            ("linuxkit/init:abc", "docker.io/linuxkit/init:abc"),
            ("x/y/img:t", "x/y/img:t"),
            ("localhost/img:t", "localhost/img:t"),
            ("localhost:5000/img:t", "localhost:5000/img:t"),
            ("ghcr.io/img:t", "ghcr.io/img:t"),
            ("ghcr.io/a/img:t", "ghcr.io/a/img:t"),
        ] {
            assert_eq!(expand(short), full);
        }
    }

    /// `printf %s "$(printf 'a%.0s' {1..40})$(printf 'b%.0s' {1..40})" | sha1sum`.
    #[test]
    fn sources_are_joined_as_hex_text() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        assert_eq!(join(a.clone(), &[], None), a);
        assert_eq!(join(a.clone(), &[], Some("0123456789")), format!("{a}-dirty-0123456"));
        assert_eq!(join(a, &[b], None), "c361e706434ebcd03e8857c6c8dd2786adaeb3ef");
    }
}
