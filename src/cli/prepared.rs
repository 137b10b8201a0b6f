//! Packages ready for a run: with tags, arguments and platforms; and, once it is known that something must be built, the
//! packages that it is built from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::args::{PlatformArgs, Selection};
use super::argv::CalledAs;
use super::error::Failure;
use super::packages::{Named, Names, Selected};
use super::registries::registry;
use super::settings::Settings;
use crate::builder::Variation;
use crate::engine::event::EventSink;
use crate::engine::plan::{Build, Decision, Policy, Publish};
use crate::engine::{Job, Plan, mistakes, plan};
use crate::oci::Platform;
use crate::package::{InputKey, Package, Settings as WorkspaceSettings, TagOverrides};
use crate::registry::Registry;
use crate::report::reporter;
use crate::store::Store;

/// Packages, ready to be planned.
pub(super) struct Prepared {
    /// The packages.
    pub(super) jobs: Vec<Job>,
    /// The registries.
    pub(super) registry: Registry,
    /// Where everything that happens is told.
    pub(super) sink: Arc<dyn EventSink>,
    /// How many units are worked on at once.
    pub(super) at_once: usize,
    selected: Selected,
    /// Whether packages were named: then what they are built from need not be among them.
    named: bool,
    platforms: PlatformArgs,
    called: CalledAs,
    aliases: Names,
    /// The keys of all that those asked for are made of, by directory, or why there are none; once asked for.
    keys: Option<Result<BTreeMap<PathBuf, InputKey>, Failure>>,
}

impl Prepared {
    /// Returns whose cache mounts those of the packages are: the workspace's own, unless it says that it shares them.
    pub(super) fn cache_namespace(&self) -> String {
        let workspace = &self.selected.workspace;
        match &workspace.settings().cache_namespace {
            Some(name) => format!("name:{name}"),
            None => format!("workspace:{}", workspace.root().display()),
        }
    }

    /// Reads what the command line means and computes tags and arguments; asks no registry.
    ///
    /// # Errors
    /// Every mistake in the files of the packages.
    pub(super) fn load(selection: &Selection, platforms: &PlatformArgs, settings: &Settings) -> Result<Self, Failure> {
        if let Some(commit) = selection.overrides.hash_commit.as_ref().filter(|commit| *commit != "HEAD") {
            let message = format!("cannot build from commit `{commit}`: what is built is what is checked out");
            let hint = "check the commit out, for example with `git worktree add`".to_owned();
            return Err(Failure::Usage { message, hint: Some(hint) });
        }
        let mut selected = Selected::load(selection, settings)?;
        let mut seen = BTreeSet::new();
        selected.packages.retain(|package| seen.insert(package.directory.clone()));
        let sink: Arc<dyn EventSink> = reporter(settings.look, Box::new(std::io::stderr())).into();
        let registry = registry(settings, selected.workspace.settings(), &sink)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let at_once = settings.jobs.or(selected.workspace.settings().jobs).unwrap_or(processors);
        let mut prepared = Self {
            jobs: Vec::new(),
            registry,
            sink,
            at_once,
            selected,
            named: !selection.packages.is_empty(),
            platforms: platforms.clone(),
            called: settings.called,
            aliases: Names::new(),
            keys: None,
        };
        prepared.add_jobs(true)?;
        refuse_twice(&prepared.jobs)?;
        refuse_nothing(&prepared.jobs, platforms)?;
        Ok(prepared)
    }

    /// Builds what was asked for, but not what that needs, differently from what its Dockerfiles say.
    pub(super) fn vary(&mut self, variation: &Variation) {
        self.jobs.iter_mut().filter(|job| job.asked).for_each(|job| job.variation = variation.clone());
    }

    /// Returns what the workspace file says.
    pub(super) fn workspace(&self) -> &WorkspaceSettings {
        self.selected.workspace.settings()
    }

    /// Returns the packages that are for some of the platforms asked for but not for all: the name, what it is not for, what
    /// it is for.
    pub(super) fn partly(&self) -> impl Iterator<Item = (&str, (Vec<Platform>, Vec<Platform>))> {
        let without = move |job: &Job| {
            let without: Vec<Platform> =
                self.platforms.platforms.iter().filter(|platform| !job.platforms.contains(platform)).cloned().collect();
            (!without.is_empty()).then(|| (without, job.package.platforms().to_vec()))
        };
        let some = self.jobs.iter().filter(|job| job.asked && !job.platforms.is_empty());
        some.filter_map(move |job| Some((job.name.as_str(), without(job)?)))
    }

    /// Gathers facts and decides, about what was asked for and about what has to be built for it.
    ///
    /// # Errors
    /// When the cache cannot be read, and every mistake in the Dockerfiles of what would be built.
    pub(super) async fn plan(&mut self, store: Option<&Store>, policy: &Policy) -> Result<Plan, Failure> {
        let mut planned = plan(store, &self.registry, &self.jobs, policy).await?;
        let builds = |package: &crate::engine::PlannedPackage| {
            package.units.iter().any(|unit| matches!(unit.decision, Decision::Build(_)))
        };
        if planned.builds() {
            // While it is known what was asked for. Who needs the keys asks again, and is told what failed.
            let _ = self.give_keys();
        }
        if self.named && planned.packages.iter().any(builds) {
            let needs = self.add_needed()?;
            // What was not asked for is neither built again nor published.
            let implied = Policy { build: Build::IfMissing, publish: Publish::No, ..policy.clone() };
            let asked = planned.packages.len();
            let more = plan(store, &self.registry, &self.jobs[asked..], &implied).await?;
            planned.packages.extend(more.packages);
            let mut wanted: Vec<bool> = (0..planned.packages.len()).map(|at| at < asked).collect();
            let mut open: Vec<usize> = (0..asked).collect();
            while let Some(at) = open.pop() {
                if !builds(&planned.packages[at]) {
                    continue;
                }
                for need in needs[at].iter().copied() {
                    if !std::mem::replace(&mut wanted[need], true) {
                        open.push(need);
                    }
                }
            }
            self.keep(&wanted, &mut planned);
        }
        let mistakes = mistakes(&self.jobs, &planned);
        if mistakes.0.is_empty() { Ok(planned) } else { Err(mistakes.into()) }
    }

    /// Gives each job the key of its inputs. Asks more of files than tags need, so only those ask who use it.
    ///
    /// # Errors
    /// When something that goes in cannot be read. Under linuxkit's scheme, where nothing else follows from the key, a run
    /// can go on without.
    pub(super) fn give_keys(&mut self) -> Result<(), &Failure> {
        match self.keys.get_or_insert_with(|| self.selected.keys()) {
            Ok(keys) => self.jobs.iter_mut().for_each(|job| job.input_key = keys.get(&job.package.directory).cloned()),
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Adds the packages of the workspace that those asked for need, and returns which job needs which.
    fn add_needed(&mut self) -> Result<Vec<Vec<usize>>, Failure> {
        let graph = self.selected.graph()?;
        let asked = self.jobs.len();
        self.selected.packages = graph.packages()[asked..].to_vec();
        // What is said about the hash is said about what was asked for.
        self.selected.tags = TagOverrides::default();
        self.add_jobs(false)?;
        let needs = |at: usize| graph.dependencies(at).iter().map(|dependency| dependency.on).collect();
        Ok((0..self.jobs.len()).map(needs).collect())
    }

    /// Makes jobs of the selected packages.
    fn add_jobs(&mut self, asked: bool) -> Result<(), Failure> {
        let Named { tags, arguments, called } = self.selected.named()?;
        self.aliases.extend(called);
        for ((package, tag), args) in self.selected.packages.iter().zip(tags).zip(arguments) {
            let platforms = chosen(package, &self.platforms, self.called);
            let (name, aliases, needs) = (String::new(), Vec::new(), Vec::new());
            let (package, variation, input_key) = (package.clone(), Variation::default(), None);
            self.jobs.push(Job { name, package, tag, aliases, args, platforms, needs, variation, asked, input_key });
        }
        let packages: Vec<Package> = self.jobs.iter().map(|job| job.package.clone()).collect();
        for (job, name) in self.jobs.iter_mut().zip(names(&packages)) {
            job.name = name;
            job.needs = needs(&job.package, &packages);
            // `@lkt:` arguments say what a package is called when nothing is overridden; this run means the same package.
            let alias = self.aliases.get(&job.package.directory).and_then(|short| short.parse().ok());
            job.aliases = alias.into_iter().filter(|alias| *alias != job.tag.reference).collect();
        }
        Ok(())
    }

    /// Drops the jobs that are not wanted, with their plans.
    fn keep(&mut self, wanted: &[bool], plan: &mut Plan) {
        let places: BTreeMap<usize, usize> =
            wanted.iter().enumerate().filter(|(_, wanted)| **wanted).enumerate().map(|(new, (old, _))| (old, new)).collect();
        let mut keep = wanted.iter();
        self.jobs.retain(|_| *keep.next().expect("one for each job"));
        let mut keep = wanted.iter();
        plan.packages.retain(|_| *keep.next().expect("one for each job"));
        for job in &mut self.jobs {
            job.needs = job.needs.iter().filter_map(|need| places.get(need).copied()).collect();
        }
    }
}

/// Two packages with one name would overwrite each other, and which one wins would depend on luck.
fn refuse_twice(jobs: &[Job]) -> Result<(), Failure> {
    let mut seen: BTreeMap<&str, &Job> = BTreeMap::new();
    for job in jobs {
        if let Some(other) = seen.insert(&job.tag.full, job)
            && other.package.directory != job.package.directory
        {
            let (one, two) = (other.package.shown.display(), job.package.shown.display());
            return Err(Failure::usage(format!("`{one}` and `{two}` are both called `{}`", job.tag.short)));
        }
    }
    Ok(())
}

/// One list of platforms may serve a whole workspace, but a list that fits no package at all is a mistake.
fn refuse_nothing(jobs: &[Job], platforms: &PlatformArgs) -> Result<(), Failure> {
    let mut own: Vec<Platform> = jobs.iter().flat_map(|job| job.package.platforms().iter().cloned()).collect();
    own.sort();
    own.dedup();
    if platforms.platforms.is_empty() || own.is_empty() || jobs.iter().any(|job| !job.platforms.is_empty()) {
        return Ok(());
    }
    let what = match jobs {
        [job] => format!("`{}` is not", job.name),
        _ => "no package is".to_owned(),
    };
    let hint = format!("build.yml lists {}; another platform has to be in its `arches`", listed(&own));
    Err(Failure::Usage { message: format!("{what} for {}", listed(&platforms.platforms)), hint: Some(hint) })
}

/// Returns platforms as a text.
pub(super) fn listed(platforms: &[Platform]) -> String {
    platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns a name for each package: its image's, and where two share that, its directory.
fn names(packages: &[Package]) -> Vec<String> {
    let count = |image: &str| packages.iter().filter(|package| package.settings.image == image).count();
    let name = |package: &Package| match count(&package.settings.image) {
        1 => package.settings.image.clone(),
        _ => package.shown.display().to_string(),
    };
    packages.iter().map(name).collect()
}

/// Returns the positions of the packages that `depends.packages` of `package` names.
fn needs(package: &Package, packages: &[Package]) -> Vec<usize> {
    let named = &package.settings.depends.packages;
    let is_meant = |other: &Package, name: &str| {
        other.settings.image == name || other.name() == name || other.directory == package.directory.join(name)
    };
    let positions = packages.iter().enumerate().filter(|(_, other)| named.iter().any(|needed| is_meant(other, &needed.name)));
    positions.map(|(at, _)| at).collect()
}

/// Returns the platforms to build `package` for. linuxkit builds for whatever is asked; we leave out what a package is not
/// for, so that one list serves a whole workspace.
fn chosen(package: &Package, args: &PlatformArgs, called: CalledAs) -> Vec<Platform> {
    let own = package.platforms();
    if !args.platforms.is_empty() {
        let mut platforms = Vec::new();
        for platform in &args.platforms {
            let wanted = own.contains(platform) || (called == CalledAs::Linuxkit && !own.is_empty());
            if wanted && !platforms.contains(platform) {
                platforms.push(platform.clone());
            }
        }
        return platforms;
    }
    own.iter().filter(|platform| !args.skip_platforms.contains(platform)).cloned().collect()
}
