//! The inputs of packages and of all that they need: keys, and the tags that follow from them under the complete scheme.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::args::presets;
use super::key::{InputKey, Inputs};
use super::tag::{Facts, name};
use super::{Args, Graph, Package, PackageError, PackageTag, SourceState, TagOverrides, TagScheme, Via, Workspace, path};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::dockerfile::{self, StageOptions};
use crate::git::{Commit, Repositories};
use crate::oci::Platform;

/// How many digits of a key are a package's hash: as many as a tree id has, so that templates fit both.
const DIGITS: usize = 40;

/// A package's key, and how its sources relate to git.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The key of its inputs.
    pub key: InputKey,
    state: SourceState,
    commit: Option<Commit>,
}

impl Keyed {
    /// Returns what `package` is called under the complete scheme.
    ///
    /// # Errors
    /// When the template or the resulting name is not usable.
    pub fn tag(&self, package: &Package, overrides: &TagOverrides) -> Result<PackageTag, PackageError> {
        let hash = match overrides.given() {
            Some(hash) => hash.to_owned(),
            None if self.state == SourceState::Dirty => format!("{}-dirty", &self.key.key()[..DIGITS]),
            None => self.key.key()[..DIGITS].to_owned(),
        };
        name(package, hash, self.state, self.commit.clone())
    }
}

/// Returns the key of each of `graph`'s packages, in their order. What `overrides` says about hashes holds for those that
/// were selected. Under the complete scheme `args` learns the tags that arguments refer to.
///
/// # Errors
/// When git cannot answer, a file cannot be read, or an argument or a Dockerfile has mistakes.
pub fn input_keys(
    workspace: &Workspace,
    graph: &Graph,
    args: &mut Args<'_>,
    repositories: &mut Repositories,
    overrides: &TagOverrides,
) -> Result<Vec<Keyed>, PackageError> {
    let others = TagOverrides { hash_commit: overrides.hash_commit.clone(), ..TagOverrides::default() };
    let mut keyed: BTreeMap<usize, Keyed> = BTreeMap::new();
    let dependencies = graph.order().iter().flat_map(|place| graph.dependencies(*place));
    let by_argument: BTreeSet<usize> = dependencies
        .filter(|dependency| matches!(dependency.via, Via::Argument { .. }))
        .map(|dependency| dependency.on)
        .collect();
    for &place in graph.order() {
        let package = &graph.packages()[place];
        let overrides = if graph.is_selected(place) { overrides } else { &others };
        let sources = Facts { package, repositories, overrides }.sources()?;
        let settings = &package.settings;
        let arguments = args.own(package, repositories)?;
        let dependencies = graph.dependencies(place).iter().map(|dependency| keyed[&dependency.on].key.key().to_owned());
        let inputs = Inputs {
            files: sources.own,
            extra_sources: sources.extra,
            dockerfile: settings.dockerfile.clone(),
            bases: bases(workspace, package, &arguments)?.into_iter().collect(),
            arguments,
            dependencies: dependencies.collect(),
            platforms: settings.platforms.iter().cloned().collect(),
            network: settings.network,
            target: None,
            config: settings.config_label.clone(),
            gitrepo: settings.gitrepo.clone(),
            labels: settings.labels.clone(),
            annotations: settings.annotations.clone(),
        };
        let this = Keyed { key: inputs.key(), state: sources.state, commit: sources.commit };
        if workspace.settings().tag_scheme == TagScheme::Complete && by_argument.contains(&place) {
            let (directory, named) = referred(workspace, package, &this)?;
            args.know(directory, named);
        }
        keyed.insert(place, this);
    }
    Ok(keyed.into_values().collect())
}

/// Returns a package's directory, and the name and tag that arguments refer to it by: those without what the command line
/// overrides.
fn referred(workspace: &Workspace, package: &Package, keyed: &Keyed) -> Result<(PathBuf, (String, String)), PackageError> {
    let plain = workspace.open_plain(&package.directory).map_err(PackageError::Mistakes)?;
    let short = keyed.tag(&plain, &TagOverrides::default())?.short;
    Ok((package.directory.clone(), (plain.name(), short)))
}

/// Returns the images that the package's Dockerfile names, whichever machine builds it.
fn bases(
    workspace: &Workspace,
    package: &Package,
    arguments: &BTreeMap<String, String>,
) -> Result<Vec<(String, Platform)>, PackageError> {
    if package.platforms().is_empty() {
        return Ok(Vec::new());
    }
    let file = package.directory.join(package.dockerfile());
    let shown = path::shown(workspace.directory(), &file);
    let text = fs_err::read(&file).map_err(|error| {
        let message = format!("the Dockerfile cannot be read: {}", error.kind());
        PackageError::Mistakes(Diagnostics(vec![Diagnostic::error(&shown, message)]))
    })?;
    let mut args = arguments.clone();
    for (key, value) in stand_ins(package) {
        args.entry(key).or_insert(value);
    }
    let platform = Platform::linux("amd64");
    let options = StageOptions { build_platform: platform.clone(), args, ..StageOptions::new(platform) };
    let images = dockerfile::images(&shown, &text, &options, package.platforms()).map_err(PackageError::Mistakes)?;
    Ok(images.into_keys().map(|image| (image.reference, image.platform)).collect())
}

/// Returns a value for each argument that is set where nobody else does. Those that are no inputs have one that never
/// changes.
fn stand_ins(package: &Package) -> Vec<(String, String)> {
    let fixed = ["REVISION", "GOPKGVERSION", "PKG_HASH"].map(|key| (key.to_owned(), "0".to_owned()));
    let of_package = presets(package, None);
    of_package.into_iter().chain(fixed).collect()
}

#[cfg(test)]
mod tests;
