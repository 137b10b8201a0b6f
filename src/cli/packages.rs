//! From package arguments and overrides to packages with their tags and arguments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::{Overrides, Selection};
use super::error::Failure;
use super::settings::Settings;
use crate::git::Repositories;
use crate::package::{
    ArgFile, Args, Graph, InputKey, Keyed, Package, PackageError, PackageOverrides, PackageTag, TagOverrides, TagScheme,
    Workspace, WorkspaceOptions, compute, input_keys,
};

/// The workspace, and the packages of it that a command line means.
pub(super) struct Selected {
    /// The workspace.
    pub(super) workspace: Workspace,
    /// The packages, in the order of the command line.
    pub(super) packages: Vec<Package>,
    /// What is said about hashes.
    pub(super) tags: TagOverrides,
    /// Every repository that was asked so far.
    pub(super) repositories: Repositories,
    arguments: Vec<(String, String)>,
    argument_files: Vec<ArgFile>,
    /// The keys of the inputs of the packages and of those that they need, by directory, once asked for.
    keys: Option<BTreeMap<PathBuf, InputKey>>,
}

/// What `@lkt:` arguments call packages, by directory.
pub(super) type Names = BTreeMap<PathBuf, String>;

/// What follows from packages and the command line, in the packages' order.
pub(super) struct Named {
    /// The tags.
    pub(super) tags: Vec<PackageTag>,
    /// The build arguments.
    pub(super) arguments: Vec<BTreeMap<String, String>>,
    /// What `@lkt:` arguments call packages, by directory.
    pub(super) called: Names,
}

impl Selected {
    /// Reads the workspace and the packages that `selection` means.
    ///
    /// # Errors
    /// Every mistake in their files.
    pub(super) fn load(selection: &Selection, settings: &Settings) -> Result<Self, Failure> {
        let overrides = &selection.overrides;
        let dev = match (overrides.dev, &settings.user) {
            (false, _) => None,
            (true, Some(user)) => Some(user.clone()),
            (true, None) => return Err(Failure::usage("--dev needs a user, and neither USER nor LOGNAME is set")),
        };
        let mut options = WorkspaceOptions::new(&settings.directory);
        options.config.clone_from(&settings.config);
        if let Some(name) = &overrides.build_yml {
            options.build_yml = PathBuf::from(name);
        }
        options.overrides = PackageOverrides {
            org: overrides.org.clone().or_else(|| settings.organisation.clone()),
            dev,
            tag: overrides.tag.clone(),
            network: switch(overrides.network, overrides.nonetwork),
            disable_cache: switch(overrides.disable_cache, overrides.enable_cache),
            dockerfile: overrides.dockerfile.clone(),
        };
        let workspace = Workspace::load(options)?;
        let packages = workspace.select(&selection.packages)?;
        Ok(Self {
            workspace,
            packages,
            tags: tag_overrides(overrides, settings),
            repositories: Repositories::new(),
            arguments: key_values(&overrides.build_arg, "--build-arg")?,
            argument_files: overrides.build_arg_file.iter().map(|file| argument_file(file, settings)).collect(),
            keys: None,
        })
    }

    /// Returns the tag of each package, in their order.
    ///
    /// # Errors
    /// The first package that has none.
    pub(super) fn package_tags(&mut self) -> Result<Vec<PackageTag>, Failure> {
        Ok(match self.workspace.settings().tag_scheme {
            TagScheme::Linuxkit => {
                let (repositories, tags) = (&mut self.repositories, &self.tags);
                self.packages.iter().map(|package| compute(package, repositories, tags)).collect::<Result<_, PackageError>>()?
            }
            TagScheme::Complete => self.inputs()?.tags,
        })
    }

    /// Returns the packages and everything of the workspace that they need.
    ///
    /// # Errors
    /// Every mistake in the files that say what is needed, or the first circle.
    pub(super) fn graph(&self) -> Result<Graph, Failure> {
        let args = Args::read(&self.workspace, &self.argument_files)?.with(&self.arguments);
        Ok(Graph::build(&self.workspace, self.packages.clone(), &args)?)
    }

    /// Returns the tags and the build arguments of each package.
    ///
    /// # Errors
    /// The first package that has no tag, and every argument that cannot be resolved.
    pub(super) fn named(&mut self) -> Result<Named, Failure> {
        if self.workspace.settings().tag_scheme == TagScheme::Complete {
            return self.inputs();
        }
        let tags = self.package_tags()?;
        let mut args = Args::read(&self.workspace, &self.argument_files)?.with(&self.arguments);
        let resolve = |(package, tag)| args.resolve(package, tag, &mut self.repositories);
        let arguments = self.packages.iter().zip(&tags).map(resolve).collect::<Result<_, PackageError>>()?;
        let called = args.names().map(|(directory, short)| (directory.to_owned(), short.to_owned())).collect();
        Ok(Named { tags, arguments, called })
    }

    /// Returns the keys of the inputs of the packages and of all that they need, by directory.
    ///
    /// # Errors
    /// As [`Selected::graph`] and [`Selected::named`].
    pub(super) fn keys(&mut self) -> Result<BTreeMap<PathBuf, InputKey>, Failure> {
        if self.keys.is_none() {
            self.inputs()?;
        }
        Ok(self.keys.clone().expect("set above"))
    }

    /// Looks at everything that goes into the packages, those that they need included, and keeps their keys. Tags and
    /// arguments follow under the complete scheme only.
    fn inputs(&mut self) -> Result<Named, Failure> {
        let mut args = Args::read(&self.workspace, &self.argument_files)?.with(&self.arguments);
        let graph = Graph::build(&self.workspace, self.packages.clone(), &args)?;
        let keyed = input_keys(&self.workspace, &graph, &mut args, &mut self.repositories, &self.tags)?;
        let (mut tags, mut arguments) = (Vec::new(), Vec::new());
        let key = |(package, keyed): (&Package, &Keyed)| (package.directory.clone(), keyed.key.clone());
        let keys = graph.packages().iter().zip(&keyed).map(key).collect();
        for package in &self.packages {
            let this = &keyed[graph.place_of(package).expect("the graph was made of the packages")];
            if self.workspace.settings().tag_scheme == TagScheme::Complete {
                let tag = this.tag(package, &self.tags)?;
                arguments.push(args.resolve(package, &tag, &mut self.repositories)?);
                tags.push(tag);
            }
        }
        let called = args.names().map(|(directory, short)| (directory.to_owned(), short.to_owned())).collect();
        self.keys = Some(keys);
        Ok(Named { tags, arguments, called })
    }
}

/// Returns what two opposite flags say; the parser allows only one of them.
fn switch(on: bool, off: bool) -> Option<bool> {
    match (on, off) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn tag_overrides(overrides: &Overrides, settings: &Settings) -> TagOverrides {
    TagOverrides {
        hash: overrides.hash.clone(),
        dev: overrides.dev,
        hash_commit: overrides.hash_commit.clone().unwrap_or_else(|| TagOverrides::default().hash_commit),
        hash_path: overrides.hash_path.as_ref().filter(|path| !path.as_os_str().is_empty()).map(|path| settings.path(path)),
        force_dirty: overrides.force_dirty,
    }
}

/// Splits `KEY=VALUE` texts of a flag.
///
/// # Errors
/// The first that has no key.
pub(super) fn key_values(texts: &[String], flag: &str) -> Result<Vec<(String, String)>, Failure> {
    let split = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Failure::usage(format!("`{text}` of {flag} is not of the form KEY=VALUE"))),
    };
    texts.iter().map(split).collect()
}

fn argument_file(file: &Path, settings: &Settings) -> ArgFile {
    ArgFile { path: settings.path(file), shown: file.to_owned() }
}
