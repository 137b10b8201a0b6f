//! Build arguments: those of build.yml and of argument files, `@lkt:` values expanded, linuxkit's presets under them.
//!
//! `@lkt:pkg:<dir>` is the short name, `org/image:tag`, of the package in that directory; `@lkt:pkgs:<pattern>` is one
//! argument for each package that the pattern matches. Those packages are read as linuxkit reads them: `build.yml`, `HEAD`,
//! and nothing of what the command line overrides.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::{Path, PathBuf};

use super::{BuildArg, Package, PackageError, PackageTag, TagOverrides, TagScheme, Workspace, path, tag};
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::git::Repositories;

/// What a value stands for.
enum Meaning<'a> {
    Text,
    Package(&'a str),
    Packages(&'a str),
    Unknown,
}

fn meaning(value: &str) -> Meaning<'_> {
    match value.strip_prefix("@lkt:") {
        None => Meaning::Text,
        Some(rest) => match rest.split_once(':') {
            Some(("pkg", path)) => Meaning::Package(path),
            Some(("pkgs", pattern)) => Meaning::Packages(pattern),
            _ => Meaning::Unknown,
        },
    }
}

/// Tells what is wrong with an argument as written.
pub(crate) fn check(arg: &BuildArg) -> Result<(), String> {
    match meaning(&arg.value) {
        Meaning::Packages(_) if !arg.key.contains('%') => {
            Err(format!("the key `{}` of a `@lkt:pkgs:` argument must contain a `%`", arg.key))
        }
        Meaning::Unknown => Err(format!("`{}` is not known: there are `@lkt:pkg:<dir>` and `@lkt:pkgs:<pattern>`", arg.value)),
        _ => Ok(()),
    }
}

/// A file of `KEY=value` lines, as `--build-arg-file` names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArgFile {
    /// Absolute path.
    pub path: PathBuf,
    /// How messages name it.
    pub shown: PathBuf,
}

/// The arguments of all packages of a run; the tags that they refer to are computed once.
#[derive(Debug)]
pub struct Args<'a> {
    workspace: &'a Workspace,
    from_files: Vec<BuildArg>,
    fixed: Vec<(String, String)>,
    shown: HashMap<PathBuf, PathBuf>,
    tags: HashMap<PathBuf, (String, String)>,
}

impl<'a> Args<'a> {
    /// Reads `files`, whose arguments hold for every package and win over those of build.yml, later files over earlier.
    ///
    /// # Errors
    /// Every line of every file that is no argument. Blank lines and comments are none.
    pub fn read(workspace: &'a Workspace, files: &[ArgFile]) -> Result<Self, Diagnostics> {
        let fixed = Vec::new();
        let mut args = Self { workspace, from_files: Vec::new(), fixed, shown: HashMap::new(), tags: HashMap::new() };
        let mut mistakes = Vec::new();
        for file in files {
            args.shown.insert(file.path.clone(), file.shown.clone());
            let directory = file.path.parent().unwrap_or(Path::new("/"));
            let named = super::build_yml::File { path: &file.path, shown: &file.shown, directory };
            match super::build_yml::read(named) {
                Ok(text) => args.lines(file, &text, &mut mistakes),
                Err(Diagnostics(more)) => mistakes.extend(more),
            }
        }
        if mistakes.is_empty() { Ok(args) } else { Err(Diagnostics(mistakes)) }
    }

    fn lines(&mut self, file: &ArgFile, text: &str, mistakes: &mut Vec<Diagnostic>) {
        for (line, number) in text.lines().zip(1..) {
            let span = Span::at(number, 1);
            let mut wrong = |message: String| mistakes.push(Diagnostic::error(&file.shown, message).at(span, text));
            let Some((key, value)) = line.trim().split_once('=').filter(|(key, _)| !key.trim().is_empty()) else {
                wrong(format!("`{}` is not of the form `KEY=value`", line.trim()));
                continue;
            };
            let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
            let arg = BuildArg { key, value, file: file.path.clone(), span, line: line.to_owned() };
            match check(&arg) {
                Ok(()) => self.from_files.push(arg),
                Err(message) => wrong(message),
            }
        }
    }

    /// Adds arguments that hold for every package, win over all others, and are not expanded.
    #[must_use]
    pub fn with(mut self, fixed: &[(String, String)]) -> Self {
        self.fixed.extend_from_slice(fixed);
        self
    }

    /// Returns what [`Args::with`] added.
    pub(super) fn fixed(&self) -> &[(String, String)] {
        &self.fixed
    }

    /// Learns that arguments refer to the package in `directory` as `org/image` and `org/image:tag`.
    pub(super) fn know(&mut self, directory: PathBuf, named: (String, String)) {
        self.tags.insert(directory, named);
    }

    /// Returns what the argument files hold, not expanded.
    pub(super) fn of_files(&self) -> &[BuildArg] {
        &self.from_files
    }

    /// Returns all arguments of `package`, which is called `tag`.
    ///
    /// # Errors
    /// Every argument whose packages cannot be found or have no tag.
    pub fn resolve(
        &mut self,
        package: &Package,
        tag: &PackageTag,
        repositories: &mut Repositories,
    ) -> Result<BTreeMap<String, String>, PackageError> {
        let mut resolved = self.own(package, repositories)?;
        for (key, value) in presets(package, Some(tag)) {
            resolved.entry(key).or_insert(value);
        }
        Ok(resolved)
    }

    /// Returns the arguments of `package` that somebody sets.
    ///
    /// # Errors
    /// As [`Args::resolve`].
    pub(super) fn own(
        &mut self,
        package: &Package,
        repositories: &mut Repositories,
    ) -> Result<BTreeMap<String, String>, PackageError> {
        let mut resolved = BTreeMap::new();
        let mut mistakes = Vec::new();
        let entries: Vec<BuildArg> = package.settings.build_args.iter().chain(&self.from_files).cloned().collect();
        for arg in entries {
            match self.expand(&arg, repositories) {
                Ok(expanded) => resolved.extend(expanded),
                Err(message) => {
                    let shown = self.shown.get(&arg.file).cloned();
                    let shown = shown.unwrap_or_else(|| path::shown(self.workspace.directory(), &arg.file));
                    let message = format!("argument `{}`: {message}", arg.key);
                    let diagnostic = Diagnostic::error(&shown, message);
                    mistakes.push(Diagnostic { span: Some(arg.span), source: Some(arg.line.clone()), ..diagnostic });
                }
            }
        }
        if !mistakes.is_empty() {
            return Err(PackageError::Mistakes(Diagnostics(mistakes)));
        }
        resolved.extend(self.fixed.iter().cloned());
        Ok(resolved)
    }

    /// Returns what the `@lkt:` values that were resolved so far call each package, by its directory: names that nothing on
    /// the command line overrides.
    pub fn names(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.tags.iter().map(|(directory, (_, short))| (directory.as_path(), short.as_str()))
    }

    fn expand(&mut self, arg: &BuildArg, repositories: &mut Repositories) -> Result<Vec<(String, String)>, String> {
        if matches!(meaning(&arg.value), Meaning::Text | Meaning::Unknown) {
            return Ok(vec![(arg.key.clone(), arg.value.clone())]);
        }
        let mut expanded = Vec::new();
        for directory in packages_of(arg)? {
            let (name, short) = self.tag_of(&directory, repositories)?;
            expanded.push((key_for(arg, &name), short));
        }
        Ok(expanded)
    }

    /// Returns `org/image` and `org/image:tag` of the package in `directory`.
    fn tag_of(&mut self, directory: &Path, repositories: &mut Repositories) -> Result<(String, String), String> {
        if let Some(known) = self.tags.get(directory) {
            return Ok(known.clone());
        }
        if self.workspace.settings().tag_scheme == TagScheme::Complete {
            // Whatever a package needs was looked at before it; only the package itself was not.
            return Err("the tag of a package follows from its arguments and cannot be one of them".to_owned());
        }
        let package = self.workspace.open_plain(directory).map_err(|mistakes| mistakes.to_string())?;
        let tag = tag::compute(&package, repositories, &TagOverrides::default()).map_err(|error| chain(&error))?;
        let known = (package.name(), tag.short);
        self.tags.insert(directory.to_owned(), known.clone());
        Ok(known)
    }
}

/// Returns the key of the argument that an entry makes for the package called `name`.
pub(super) fn key_for(arg: &BuildArg, name: &str) -> String {
    match meaning(&arg.value) {
        Meaning::Packages(_) => arg.key.replace('%', &name.replace(['/', '-'], "_").to_uppercase()),
        _ => arg.key.clone(),
    }
}

/// Returns the directories of the packages that an argument's value names; none when it is plain text.
pub(super) fn packages_of(arg: &BuildArg) -> Result<Vec<PathBuf>, String> {
    let anchor = arg.file.parent().unwrap_or(Path::new("/"));
    match meaning(&arg.value) {
        Meaning::Text | Meaning::Unknown => Ok(Vec::new()),
        Meaning::Package(path) => Ok(vec![path::absolute(anchor, Path::new(path))]),
        Meaning::Packages(pattern) => {
            let pattern = path::absolute(anchor, Path::new(pattern));
            let directories = path::directories(&pattern)?;
            if directories.is_empty() {
                return Err(format!("no packages match `{}`", pattern.display()));
            }
            Ok(directories)
        }
    }
}

/// Returns the arguments that linuxkit sets where nobody else does; without a tag, those that do not follow from it.
pub(super) fn presets(package: &Package, tag: Option<&PackageTag>) -> Vec<(String, String)> {
    let version = tag.and_then(|tag| tag.commit.as_ref()).map(tag::go_package_version);
    let presets = [
        ("SOURCE", Some(package.settings.gitrepo.clone())),
        ("REVISION", tag.and_then(PackageTag::revision).map(str::to_owned)),
        ("GOPKGVERSION", version),
        ("PKG_HASH", tag.map(|tag| tag.hash.clone())),
        ("PKG_IMAGE", Some(package.name())),
    ];
    let given = |(key, value): (&str, Option<String>)| Some((key.to_owned(), value.filter(|value| !value.is_empty())?));
    presets.into_iter().filter_map(given).collect()
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
