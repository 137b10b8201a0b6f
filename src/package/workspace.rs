//! The workspace: `pkgbuild.yml`, where packages are, and which of them a command line means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::build_yml::{self, BuildYml, Defaults, File};
use super::keys::PKGBUILD_YML;
use super::shape::{Findings, Shape, check};
use super::yaml::Node;
use super::{Package, PackageOverrides, TagScheme, path};
use crate::diagnostic::{Diagnostic, Diagnostics, nearest};

/// From where and how packages are read.
#[derive(Clone, PartialEq, Debug)]
pub struct WorkspaceOptions {
    /// Where the user is, absolute: relative paths start there, and messages name files relative to it.
    pub directory: PathBuf,
    /// The workspace file, absolute; `None` for `pkgbuild.yml` at the repository's root, if there is one.
    pub config: Option<PathBuf>,
    /// Name of the build file below a package's directory.
    pub build_yml: PathBuf,
    /// What holds for every package.
    pub overrides: PackageOverrides,
}

impl WorkspaceOptions {
    /// Returns the options of a run in `directory` without flags.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            config: None,
            build_yml: PathBuf::from("build.yml"),
            overrides: PackageOverrides::default(),
        }
    }
}

/// The packages of a repository, and what holds for all of them.
#[derive(Clone, Debug)]
pub struct Workspace {
    options: WorkspaceOptions,
    root: PathBuf,
    settings: Settings,
    defaults: Option<Defaults>,
}

/// What a workspace file says, besides defaults for packages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Patterns of package directories, relative to the workspace's root.
    pub packages: Vec<String>,
    /// How hashes are made.
    pub tag_scheme: TagScheme,
    /// Builder endpoints by platform, as written.
    pub builders: BTreeMap<String, Vec<String>>,
    /// Registries by host; `*` stands for all others.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// How many units are built at once.
    pub jobs: Option<usize>,
    /// The name under which this workspace shares its cache mounts with others; `None` for none.
    pub cache_namespace: Option<String>,
}

/// How one registry is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegistrySettings {
    /// Where to read from instead, in order.
    pub mirrors: Vec<String>,
    /// File with certificates to trust, absolute.
    pub ca: Option<PathBuf>,
    /// Whether plain HTTP is used.
    pub insecure: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            packages: vec!["pkg/*".to_owned()],
            tag_scheme: TagScheme::default(),
            builders: BTreeMap::new(),
            registries: BTreeMap::new(),
            jobs: None,
            cache_namespace: None,
        }
    }
}

/// Name of the workspace file at a repository's root.
pub(crate) const WORKSPACE_FILE: &str = "pkgbuild.yml";

impl Workspace {
    /// Finds the workspace around `options.directory` and reads its file, if it has one.
    ///
    /// # Errors
    /// Every mistake in the workspace file.
    pub fn load(options: WorkspaceOptions) -> Result<Self, Diagnostics> {
        let repository = options.directory.ancestors().find(|directory| directory.join(".git").exists());
        let repository = repository.unwrap_or(&options.directory).to_owned();
        let (root, file) = match &options.config {
            Some(file) => (file.parent().unwrap_or(Path::new("/")).to_owned(), Some(file.clone())),
            None => {
                let file = repository.join(WORKSPACE_FILE);
                (repository, file.exists().then_some(file))
            }
        };
        let mut workspace = Self { options, root, settings: Settings::default(), defaults: None };
        if let Some(file) = file {
            workspace.read(&file)?;
        }
        Ok(workspace)
    }

    /// Returns the directory that package patterns start from.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where the user is.
    pub fn directory(&self) -> &Path {
        &self.options.directory
    }

    /// Returns what the workspace file says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn read(&mut self, path: &Path) -> Result<(), Diagnostics> {
        let shown = path::shown(&self.options.directory, path);
        let file = File { path, shown: &shown, directory: &self.root };
        let text = build_yml::read(file)?;
        let root = build_yml::parse(file, &text)?;
        let mut findings = Findings::new(&shown, &text);
        check(&root, &Shape::Record(PKGBUILD_YML), "", &mut findings);
        let settings = read_settings(&root, &self.root, &mut findings);
        let section = root.get("defaults").cloned();
        if let Some(section) = &section {
            if let Some((key, _)) = section.entries().iter().find(|(key, _)| key.text() == Some("image")) {
                findings.error(key.span, "`image` cannot have a default: each package has its own");
            }
            BuildYml::check_defaults(section, file, &text, &mut findings);
        }
        if !findings.is_empty() {
            return Err(findings.finish());
        }
        self.settings = settings;
        self.defaults = section.map(|section| Defaults { section, path: path.to_owned(), text: text.clone() });
        Ok(())
    }

    /// Returns the package in `directory`, an absolute path.
    ///
    /// # Errors
    /// Every mistake in its build.yml, or that it has none.
    pub fn open(&self, directory: &Path) -> Result<Package, Diagnostics> {
        self.open_as(directory, &self.options.build_yml, &self.options.overrides)
    }

    /// Returns the package in `directory` as linuxkit reads one that another refers to: from `build.yml`, nothing overridden.
    pub(super) fn open_plain(&self, directory: &Path) -> Result<Package, Diagnostics> {
        self.open_as(directory, Path::new("build.yml"), &PackageOverrides::default())
    }

    fn open_as(&self, directory: &Path, build_yml: &Path, overrides: &PackageOverrides) -> Result<Package, Diagnostics> {
        // An absolute name is still taken below the package, as in linuxkit.
        let build_yml = directory.join(build_yml.strip_prefix("/").unwrap_or(build_yml));
        let build_yml = path::clean(&build_yml);
        let shown_file = path::shown(&self.options.directory, &build_yml);
        let file = File { path: &build_yml, shown: &shown_file, directory };
        let text = build_yml::read(file)?;
        let settings = BuildYml::read(file, &text, self.defaults.as_ref())?;
        let shown = path::shown(&self.options.directory, directory);
        let mut package = Package { directory: directory.to_owned(), build_yml: build_yml.clone(), shown, settings };
        package.apply(overrides).map_err(|error| {
            Diagnostics(vec![Diagnostic::error(Path::new("--tag"), format!("not a template that can be evaluated: {error}"))])
        })?;
        if package.settings.org.is_empty() {
            let help = "a name without an organisation would be `/image`: leave the key out for `linuxkit`";
            return Err(Diagnostics(vec![Diagnostic::error(&shown_file, "`org` must not be empty").help(help)]));
        }
        Ok(package)
    }

    /// Returns every package of the workspace, in the order of its patterns, and the mistakes of those that have some.
    pub fn packages(&self) -> (Vec<Package>, Diagnostics) {
        let (mut packages, mut mistakes) = (Vec::new(), Vec::new());
        let mut seen = std::collections::HashSet::new();
        for pattern in &self.settings.packages {
            let absolute = path::absolute(&self.root, Path::new(pattern));
            match self.matching(&absolute) {
                Ok(directories) => {
                    for directory in directories {
                        if !seen.insert(directory.clone()) {
                            continue;
                        }
                        match self.open(&directory) {
                            Ok(package) => packages.push(package),
                            Err(Diagnostics(more)) => mistakes.extend(more),
                        }
                    }
                }
                Err(message) => mistakes.push(Diagnostic::error(&self.root.join(WORKSPACE_FILE), message)),
            }
        }
        (packages, Diagnostics(mistakes))
    }

    /// Returns the directories that match and hold a build file. A pattern without wildcards is taken at its word.
    fn matching(&self, pattern: &Path) -> Result<Vec<PathBuf>, String> {
        if !path::is_pattern(&pattern.to_string_lossy()) {
            return Ok(vec![pattern.to_owned()]);
        }
        let has_file = |directory: &PathBuf| directory.join(&self.options.build_yml).is_file();
        Ok(path::directories(pattern)?.into_iter().filter(has_file).collect())
    }

    /// Returns the packages that `names` mean, in their order: a directory, a pattern of directories, or an image name with
    /// or without its organisation. No name means every package of the workspace.
    ///
    /// # Errors
    /// Every mistake of every package that is meant, and every name that means none or several.
    pub fn select(&self, names: &[String]) -> Result<Vec<Package>, Diagnostics> {
        let (mut selected, mut mistakes) = (Vec::new(), Vec::new());
        let mut all = None;
        if names.is_empty() {
            let (packages, Diagnostics(found)) = self.packages();
            if packages.is_empty() && found.is_empty() {
                let patterns = self.settings.packages.join("`, `");
                let help = "name a package's directory, or list patterns under `packages` in pkgbuild.yml";
                mistakes.push(Diagnostic::error(&self.root, format!("no packages match `{patterns}`")).help(help));
            }
            selected.extend(packages);
            mistakes.extend(found);
        }
        for name in names {
            let directory = path::absolute(&self.options.directory, Path::new(name));
            if directory.is_dir() {
                match self.open(&directory) {
                    Ok(package) => selected.push(package),
                    Err(Diagnostics(more)) => mistakes.extend(more),
                }
            } else if path::is_pattern(name) {
                match self.matching(&directory) {
                    Ok(found) if found.is_empty() => {
                        mistakes.push(Diagnostic::error(Path::new(name), "no packages match"));
                    }
                    Ok(found) => {
                        for directory in found {
                            match self.open(&directory) {
                                Ok(package) => selected.push(package),
                                Err(Diagnostics(more)) => mistakes.extend(more),
                            }
                        }
                    }
                    Err(message) => mistakes.push(Diagnostic::error(Path::new(name), message)),
                }
            } else {
                let (packages, broken) = all.get_or_insert_with(|| self.packages());
                match named(name, packages) {
                    Ok(package) => selected.push(package),
                    Err(diagnostic) => {
                        mistakes.push(*diagnostic);
                        // The one that is meant may be among those that cannot be read.
                        mistakes.append(&mut broken.0);
                    }
                }
            }
        }
        let mut told: Vec<Diagnostic> = Vec::new();
        for mistake in mistakes {
            if !told.contains(&mistake) {
                told.push(mistake);
            }
        }
        if told.is_empty() { Ok(selected) } else { Err(Diagnostics(told)) }
    }
}

/// Returns the package whose image is called `name`.
fn named(name: &str, packages: &[Package]) -> Result<Package, Box<Diagnostic>> {
    let is_meant = |package: &&Package| package.settings.image == name || package.name() == name;
    let meant: Vec<&Package> = packages.iter().filter(is_meant).collect();
    let error = |message: String| Diagnostic::error(Path::new(name), message);
    match meant[..] {
        [package] => Ok(package.clone()),
        [] => {
            let error = error("no such directory, and no package of this name".to_owned());
            let names = packages.iter().map(|package| package.settings.image.as_str());
            Err(Box::new(match nearest(name, names) {
                Some(near) => error.help(format!("did you mean `{near}`?")),
                None => error,
            }))
        }
        _ => {
            let where_ = meant.iter().map(|package| format!("`{}`", package.shown.display())).collect::<Vec<_>>().join(", ");
            Err(Box::new(error("means several packages".to_owned()).help(format!("name one by its directory: {where_}"))))
        }
    }
}

fn read_settings(root: &Node, directory: &Path, findings: &mut Findings<'_>) -> Settings {
    let texts = |node: &Node| -> Vec<String> {
        match node.text() {
            Some(text) => vec![text.to_owned()],
            None => node.items().iter().filter_map(Node::text).map(str::to_owned).collect(),
        }
    };
    let mut settings = Settings::default();
    if let Some(packages) = root.get("packages") {
        settings.packages = texts(packages);
    }
    if root.get("tag-scheme").and_then(Node::text) == Some("complete") {
        settings.tag_scheme = TagScheme::Complete;
    }
    settings.cache_namespace = root.get("cache-namespace").and_then(Node::text).map(str::to_owned);
    settings.jobs = root.get("jobs").and_then(Node::integer).and_then(|jobs| usize::try_from(jobs).ok());
    for (key, value) in root.get("builders").map(Node::entries).unwrap_or_default() {
        let platform = key.text().unwrap_or_default();
        if platform != "*" && platform.parse::<crate::oci::Platform>().is_err() {
            findings.error(key.span, format!("`{platform}` is not a platform"));
        }
        settings.builders.insert(platform.to_owned(), texts(value));
    }
    for (key, value) in root.get("registries").map(Node::entries).unwrap_or_default() {
        let registry = RegistrySettings {
            mirrors: value.get("mirror").map(texts).unwrap_or_default(),
            ca: value.get("ca").and_then(Node::text).map(|file| path::absolute(directory, Path::new(file))),
            insecure: value.get("insecure").and_then(Node::boolean).unwrap_or(false),
        };
        for mirror in registry.mirrors.iter().filter(|url| !(url.starts_with("https://") || url.starts_with("http://"))) {
            let span = value.get("mirror").map(|node| node.span).unwrap_or_default();
            findings.error(span, format!("mirror `{mirror}` must start with `http://` or `https://`"));
        }
        settings.registries.insert(key.text().unwrap_or_default().to_owned(), registry);
    }
    settings
}
