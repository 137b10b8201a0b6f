//! Which package needs which: from the images that Dockerfiles name, from `@lkt:` arguments, and from `depends.packages`.
//!
//! An image is a package's when the repository is the same, whatever the tag: tags are often the hash of an earlier state,
//! kept up by hand. A package that starts from its own earlier image does not depend on itself.

mod render;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

pub use render::Format;

use super::args::{Args, packages_of};
use super::{BuildArg, Package, PackageError, Workspace, path};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::dockerfile::{self, StageOptions};
use crate::oci::{Platform, Reference, Repository};

/// Packages and what each needs, without circles.
#[derive(Clone, Debug)]
pub struct Graph {
    packages: Vec<Package>,
    selected: usize,
    dependencies: Vec<Vec<Dependency>>,
    order: Vec<usize>,
}

/// That one package needs another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Dependency {
    /// Place of the other in [`Graph::packages`].
    pub on: usize,
    /// Why.
    pub via: Via,
}

/// What makes one package need another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Via {
    /// The Dockerfile names its image: in `FROM`, `COPY --from` or `RUN --mount=from=`, by itself or through an argument.
    Image {
        /// The reference, expanded.
        reference: String,
        /// The line in the Dockerfile.
        line: u32,
    },
    /// A build argument is its tag.
    Argument {
        /// The argument's key as written.
        key: String,
    },
    /// `depends.packages` names it.
    Declared,
}

impl Graph {
    /// Returns `selected` and, transitively, every package of the workspace that they need. `args` holds what argument files
    /// say.
    ///
    /// # Errors
    /// Every mistake in the files that say what is needed, or the first circle.
    pub fn build(workspace: &Workspace, selected: Vec<Package>, args: &Args<'_>) -> Result<Self, PackageError> {
        let mut builder = Builder::new(workspace, args, selected);
        let selected = builder.packages.len();
        let mut next = 0;
        // What a package needs is appended, and looked at in its turn.
        while next < builder.packages.len() {
            let found = builder.dependencies_of(next);
            builder.dependencies.push(found);
            next += 1;
        }
        if !builder.mistakes.is_empty() {
            return Err(PackageError::Mistakes(Diagnostics(builder.mistakes)));
        }
        let Builder { packages, mut dependencies, .. } = builder;
        let order = loop {
            match order(&dependencies) {
                Ok(order) => break order,
                Err(circle) => cut(&packages, &mut dependencies, &circle)?,
            }
        };
        Ok(Self { packages, selected, dependencies, order })
    }

    /// Returns the packages: those selected, in the order given and each once, then those that they need.
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// Returns the place of `package`, if it is among the graph's.
    pub fn place_of(&self, package: &Package) -> Option<usize> {
        let same = |other: &Package| other.directory == package.directory && other.build_yml == package.build_yml;
        self.packages.iter().position(same)
    }

    /// Returns whether a package was asked for itself.
    pub fn is_selected(&self, package: usize) -> bool {
        package < self.selected
    }

    /// Returns what a package needs, sorted.
    pub fn dependencies(&self, package: usize) -> &[Dependency] {
        &self.dependencies[package]
    }

    /// Returns the places of all packages, each after those it needs.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Returns the graph as text for people or programs.
    pub fn render(&self, format: Format) -> String {
        render::render(self, format)
    }
}

struct Builder<'a> {
    workspace: &'a Workspace,
    args: &'a Args<'a>,
    packages: Vec<Package>,
    places: HashMap<(PathBuf, PathBuf), usize>,
    dependencies: Vec<Vec<Dependency>>,
    /// Packages of the workspace by repository; filled when first needed.
    by_repository: Option<HashMap<Repository, Vec<Package>>>,
    mistakes: Vec<Diagnostic>,
}

impl<'a> Builder<'a> {
    fn new(workspace: &'a Workspace, args: &'a Args<'a>, selected: Vec<Package>) -> Self {
        let mut builder = Self {
            workspace,
            args,
            packages: Vec::new(),
            places: HashMap::new(),
            dependencies: Vec::new(),
            by_repository: None,
            mistakes: Vec::new(),
        };
        for package in selected {
            builder.place(package);
        }
        builder
    }

    /// Returns the package's place, adding it when it is new.
    fn place(&mut self, package: Package) -> usize {
        let key = (package.directory.clone(), package.build_yml.clone());
        let next = self.packages.len();
        let place = *self.places.entry(key).or_insert(next);
        if place == next {
            self.packages.push(package);
        }
        place
    }

    fn dependencies_of(&mut self, at: usize) -> Vec<Dependency> {
        let package = self.packages[at].clone();
        let mut found = BTreeSet::new();
        let mut stand_ins = BTreeMap::new();
        for arg in package.settings.build_args.iter().chain(self.args.of_files()) {
            match self.argument(arg, &mut stand_ins) {
                Ok(packages) => found.extend(packages.into_iter().map(|on| (on, Via::Argument { key: arg.key.clone() }))),
                Err(Diagnostics(mistakes)) => self.mistakes.extend(mistakes),
            }
        }
        for depended in &package.settings.depends.packages {
            match self.declared(&package, &depended.name) {
                Ok(on) => {
                    found.insert((on, Via::Declared));
                }
                Err(Diagnostics(mistakes)) => {
                    let shown = path::shown(self.workspace.directory(), &package.build_yml);
                    let message = format!("`depends.packages` names `{}`, which is no package", depended.name);
                    let place = Diagnostic { span: Some(depended.span), ..Diagnostic::error(&shown, message) };
                    self.mistakes.push(place);
                    self.mistakes.extend(mistakes);
                }
            }
        }
        stand_ins.extend(self.args.fixed().iter().cloned());
        if !package.platforms().is_empty() {
            match self.images(&package, stand_ins) {
                Ok(images) => {
                    for (reference, line) in images {
                        for on in self.of_reference(&reference) {
                            found.insert((on, Via::Image { reference: reference.clone(), line }));
                        }
                    }
                }
                Err(Diagnostics(mistakes)) => self.mistakes.extend(mistakes),
            }
        }
        let is_other = |(on, _): &(usize, Via)| *on != at && self.packages[*on].directory != package.directory;
        found.into_iter().filter(is_other).map(|(on, via)| Dependency { on, via }).collect()
    }

    /// Returns the packages that an argument's value names, and notes the value that a Dockerfile would see: the name
    /// without a tag, which is enough to find the package again.
    fn argument(&mut self, arg: &BuildArg, values: &mut BTreeMap<String, String>) -> Result<Vec<usize>, Diagnostics> {
        let shown = path::shown(self.workspace.directory(), &arg.file);
        let directories = packages_of(arg).map_err(|message| {
            let diagnostic = Diagnostic::error(&shown, format!("argument `{}`: {message}", arg.key));
            Diagnostics(vec![Diagnostic { span: Some(arg.span), source: Some(arg.line.clone()), ..diagnostic }])
        })?;
        if directories.is_empty() {
            values.insert(arg.key.clone(), arg.value.clone());
        }
        let mut places = Vec::new();
        for directory in directories {
            let name = self.workspace.open_plain(&directory)?.name();
            values.insert(super::args::key_for(arg, &name), name);
            let package = self.workspace.open(&directory).or_else(|_| self.workspace.open_plain(&directory))?;
            places.push(self.place(package));
        }
        Ok(places)
    }

    /// Returns the package that `depends.packages` means: a directory beside the package or below the workspace's root, or
    /// an image's name.
    fn declared(&mut self, package: &Package, name: &str) -> Result<usize, Diagnostics> {
        for base in [&package.directory, self.workspace.root()] {
            let directory = path::absolute(base, Path::new(name));
            if directory.is_dir() && directory != package.directory {
                let found = self.workspace.open(&directory)?;
                return Ok(self.place(found));
            }
        }
        let found = self.workspace.select(&[name.to_owned()])?;
        Ok(found.into_iter().map(|package| self.place(package)).next_back().expect("one name means one package"))
    }

    /// Returns the images that the package's Dockerfile names on any of its platforms, with the line that does.
    fn images(&self, package: &Package, args: BTreeMap<String, String>) -> Result<BTreeSet<(String, u32)>, Diagnostics> {
        let file = package.directory.join(package.dockerfile());
        let shown = path::shown(self.workspace.directory(), &file);
        let text = fs_err::read(&file).map_err(|error| {
            let message = format!("the Dockerfile cannot be read: {}", error.kind());
            Diagnostics(vec![Diagnostic::error(&shown, message)])
        })?;
        let options = StageOptions { build_platform: Platform::host(), args, ..StageOptions::new(Platform::host()) };
        let images = dockerfile::images(&shown, &text, &options, package.platforms())?;
        Ok(images.into_iter().map(|(image, span)| (image.reference, span.line)).collect())
    }

    /// Returns the packages whose image a reference names.
    fn of_reference(&mut self, reference: &str) -> Vec<usize> {
        let Ok(reference) = reference.parse::<Reference>() else { return Vec::new() };
        let by_repository = self.by_repository.get_or_insert_with(|| {
            let mut by_repository: HashMap<Repository, Vec<Package>> = HashMap::new();
            let mut seen = BTreeSet::new();
            // Those of the run come first: they may lie outside of the workspace. One that cannot be read is told when it
            // is asked for, and nobody's dependency until then.
            for package in self.packages.iter().cloned().chain(self.workspace.packages().0) {
                if let (Ok(repository), true) = (package.name().parse(), seen.insert(package.directory.clone())) {
                    by_repository.entry(repository).or_default().push(package);
                }
            }
            by_repository
        });
        let packages = by_repository.get(&reference.repository).cloned().unwrap_or_default();
        packages.into_iter().map(|package| self.place(package)).collect()
    }
}

/// Returns the places in an order in which each comes after what it needs, or the places of a circle.
fn order(dependencies: &[Vec<Dependency>]) -> Result<Vec<usize>, Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; dependencies.len()];
    let mut order = Vec::with_capacity(dependencies.len());
    for start in 0..dependencies.len() {
        // A stack of our own: a chain of packages may be longer than the thread's.
        let mut stack = vec![(start, 0)];
        while let Some((place, at)) = stack.pop() {
            if at == 0 {
                if marks[place] == Mark::Done {
                    continue;
                }
                marks[place] = Mark::Open;
            }
            match dependencies[place].get(at) {
                None => {
                    marks[place] = Mark::Done;
                    order.push(place);
                }
                Some(dependency) => {
                    stack.push((place, at + 1));
                    match marks[dependency.on] {
                        Mark::New => stack.push((dependency.on, 0)),
                        Mark::Done => {}
                        Mark::Open => {
                            let from = stack.iter().position(|(open, _)| *open == dependency.on).unwrap_or(0);
                            return Err(stack[from..].iter().map(|(open, _)| *open).collect());
                        }
                    }
                }
            }
        }
    }
    Ok(order)
}

/// Opens a circle where an image is named by a tree hash: no directory can contain the hash of what is made from it, so
/// that one is an earlier state. A circle without such a place is an error.
fn cut(packages: &[Package], dependencies: &mut [Vec<Dependency>], circle: &[usize]) -> Result<(), PackageError> {
    let next = |at: usize| circle[(at + 1) % circle.len()];
    for (at, place) in circle.iter().enumerate() {
        let before = dependencies[*place].len();
        let all_earlier = dependencies[*place].iter().filter(|d| d.on == next(at)).all(|d| names_tree_hash(&d.via));
        if all_earlier {
            dependencies[*place].retain(|dependency| dependency.on != next(at));
        }
        if dependencies[*place].len() < before {
            return Ok(());
        }
    }
    let step = |(at, place): (usize, &usize)| {
        let via = dependencies[*place].iter().find(|dependency| dependency.on == next(at)).map(|dependency| &dependency.via);
        format!("{} ({})", packages[*place].name(), via.map(|via| reason(&packages[*place], via)).unwrap_or_default())
    };
    let mut cycle: Vec<String> = circle.iter().enumerate().map(step).collect();
    cycle.push(packages[circle[0]].name());
    Err(PackageError::Cycle { cycle })
}

fn names_tree_hash(via: &Via) -> bool {
    let Via::Image { reference, .. } = via else { return false };
    let Ok(reference) = reference.parse::<Reference>() else { return false };
    let tag = reference.tag.as_ref().map(|tag| tag.as_str()).unwrap_or_default();
    let is_hash = |part: &str| part.len() == 40 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    reference.digest.is_some() || tag.split(['-', '_', '.']).any(is_hash)
}

/// Returns why, for people.
fn reason(package: &Package, via: &Via) -> String {
    match via {
        Via::Image { reference, line } => format!("{}:{line}: {reference}", package.shown.join(package.dockerfile()).display()),
        Via::Argument { key } => format!("argument {key}"),
        Via::Declared => "depends.packages".to_owned(),
    }
}

#[cfg(test)]
mod tests;
