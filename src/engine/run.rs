//! A run: packages to a plan, a plan to tasks, and what came of them to a summary.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::bases::Bases;
use super::dispatch::{Ended, Limits, OnFailure, Outside, Task, Teller, Work, cycle, dispatch};
use super::error::{PackageResult, RunSummary, UnitError, UnitFailure};
use super::event::{EventKind, Outcome, SCHEMA, UnitName};
use super::execute::{self, needed_images};
use super::finish;
use super::plan::{Decision, Policy, Publish, Source, decide};
use super::probe::{Question, UnitFacts, probe};
use super::publish::{ArchitectureTags, Existing};
use super::remote::{RemoteError, RemoteRoot, SharedSource};
use crate::builder::steps::StepOptions;
use crate::builder::{Builder, BuiltImage, Keeping, Support, Variation};
use crate::diagnostic::Diagnostics;
use crate::oci::{Platform, Reference};
use crate::package::{InputKey, Package, PackageTag, SourceState};
use crate::registry::Registry;
use crate::store::{Store, StoreError};
use crate::time::SourceDate;

/// A package as a run needs it.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name in messages; no two jobs share one.
    pub name: String,
    /// The package.
    pub package: Package,
    /// What its image is called.
    pub tag: PackageTag,
    /// What else Dockerfiles of this run may call it.
    pub aliases: Vec<Reference>,
    /// Its build arguments.
    pub args: BTreeMap<String, String>,
    /// For which platforms.
    pub platforms: Vec<Platform>,
    /// Positions of jobs that must be done before, whatever the Dockerfile says.
    pub needs: Vec<usize>,
    /// What differs from what its Dockerfile says by itself.
    pub variation: Variation,
    /// Whether it was asked for, or is only there because another is built from it: such a package is not published.
    pub asked: bool,
    /// The key of everything that goes in, to be kept with the image.
    pub input_key: Option<InputKey>,
}

impl Job {
    /// Returns every name that Dockerfiles of this run may call it.
    fn references(&self) -> impl Iterator<Item = &Reference> {
        std::iter::once(&self.tag.reference).chain(&self.aliases)
    }
}

/// What holds for a whole run.
#[derive(Clone, Debug)]
pub struct Options {
    /// When to build, pull, push.
    pub policy: Policy,
    /// Bounds.
    pub limits: Limits,
    /// Whether results of earlier steps are used.
    pub step_cache: bool,
    /// What is kept on this machine beside images.
    pub keeping: Keeping,
    /// Whether base images may come from the cache.
    pub cached_bases: bool,
    /// The time that goes into images.
    pub source_date: SourceDate,
    /// Labels beside those of the package; they win.
    pub labels: BTreeMap<String, String>,
    /// Annotations beside those of the package; they win.
    pub annotations: BTreeMap<String, String>,
    /// Whether tags for single architectures are pushed.
    pub architecture_tags: ArchitectureTags,
    /// Whether a release tag that exists may move.
    pub existing: Existing,
    /// What steps are given beyond their Dockerfiles.
    pub steps: Arc<StepOptions>,
    /// What is to be said beforehand.
    pub warnings: Vec<String>,
}

/// What is to be done with all packages.
pub struct Plan {
    /// One for each job, in their order.
    pub packages: Vec<PlannedPackage>,
}

/// What is to be done with one package.
pub struct PlannedPackage {
    /// One for each platform of the job, in its order.
    pub units: Vec<PlannedUnit>,
    /// What the registry has, when it was asked and has something.
    pub remote: Option<RemoteRoot>,
    /// Why the registry could not be asked.
    pub error: Option<Arc<RemoteError>>,
}

/// What is to be done with one package at one platform.
#[derive(Clone, Debug)]
pub struct PlannedUnit {
    /// The platform.
    pub platform: Platform,
    /// What is known.
    pub facts: UnitFacts,
    /// What follows.
    pub decision: Decision,
}

/// Everything that a run works with.
#[derive(Clone)]
pub struct Engine {
    /// The cache.
    pub store: Store,
    /// The registries.
    pub registry: Registry,
    /// What builds.
    pub builder: Arc<dyn Builder>,
}

/// Gathers facts and decides. Changes nothing; without a cache nothing is in it.
///
/// # Errors
/// When the cache cannot be read.
pub async fn plan(store: Option<&Store>, registry: &Registry, jobs: &[Job], policy: &Policy) -> Result<Plan, StoreError> {
    let questions: Vec<Question> = jobs
        .iter()
        .map(|job| Question {
            name: job.tag.full.clone(),
            reference: job.tag.reference.clone(),
            source: source_of(&job.tag),
            platforms: job.platforms.clone(),
        })
        .collect();
    let answers = probe(store, registry, &questions, policy).await?;
    let packages = jobs.iter().zip(answers).map(|(job, answer)| {
        let units = job.platforms.iter().cloned().zip(answer.units).map(|(platform, facts)| {
            let decision = decide(&facts.facts, policy);
            PlannedUnit { platform, facts, decision }
        });
        PlannedPackage { units: units.collect(), remote: answer.remote, error: answer.error.map(Arc::new) }
    });
    Ok(Plan { packages: packages.collect() })
}

/// Returns whether what a tag names may be published: outside of git nobody can tell what it is made of, but nothing
/// says that it differs from anything either.
fn source_of(tag: &PackageTag) -> Source {
    match tag.state {
        SourceState::Dirty => Source::Dirty,
        SourceState::Clean | SourceState::OutsideGit => Source::Clean,
    }
}

impl PlannedUnit {
    /// Returns whether nothing is to be done for it.
    fn is_idle(&self) -> bool {
        matches!(self.decision, Decision::UseLocal(_) | Decision::UseRemote(_))
    }
}

impl Plan {
    /// Returns whether carrying it out changes anything.
    pub fn has_work(&self) -> bool {
        self.packages.iter().flat_map(|package| &package.units).any(|unit| unit.decision.is_work())
    }

    /// Returns whether carrying it out builds something.
    pub fn builds(&self) -> bool {
        self.packages.iter().flat_map(|package| &package.units).any(|unit| matches!(unit.decision, Decision::Build(_)))
    }

    /// Returns the units that cannot be done, by position of job and platform.
    pub fn refused(&self) -> Vec<(usize, usize)> {
        let units = self
            .packages
            .iter()
            .enumerate()
            .flat_map(|(job, package)| package.units.iter().enumerate().map(move |(at, unit)| (job, at, unit)));
        units.filter(|(_, _, unit)| matches!(unit.decision, Decision::Refuse(_))).map(|(job, at, _)| (job, at)).collect()
    }
}

/// An image of the cache and, in one word, how it came there.
pub(super) type KeptImage = (BuiltImage, &'static str);

/// What the tasks of one run share.
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) jobs: Vec<Job>,
    pub(super) plan: Plan,
    pub(super) options: Options,
    pub(super) bases: Bases,
    pub(super) cancel: CancellationToken,
    /// Images that are in the cache, by job and platform.
    pub(super) images: Mutex<BTreeMap<(usize, usize), KeptImage>>,
}

/// What a task does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A unit: job and platform.
    Unit(usize, usize),
    /// The index of a job.
    Finish(usize),
}

impl Shared {
    pub(super) fn unit(&self, job: usize, at: usize) -> &PlannedUnit {
        &self.plan.packages[job].units[at]
    }

    pub(super) fn name(&self, job: usize, at: usize) -> UnitName {
        UnitName { package: self.jobs[job].name.clone(), platform: self.unit(job, at).platform.clone() }
    }

    /// Keeps an image of the cache for what follows: the package's index, and packages that are built from it.
    pub(super) fn keep(&self, job: usize, at: usize, image: BuiltImage, word: &'static str) {
        let platform = &self.unit(job, at).platform;
        self.announce(job, platform, &image, Arc::new(self.engine.store.clone()));
        self.images.lock().expect("no holder panics").insert((job, at), (image, word));
    }

    /// Lets packages that are built from an image of this run find it, under each of its names.
    fn announce(&self, job: usize, platform: &Platform, image: &BuiltImage, source: SharedSource) {
        for reference in self.jobs[job].references() {
            self.bases.announce(reference, platform, image, source.clone());
        }
    }

    fn refusal(&self, job: usize, at: usize) -> Option<UnitError> {
        match self.unit(job, at).decision {
            Decision::Refuse(refusal) => {
                let source = self.plan.packages[job].error.clone();
                Some(UnitError::Refused { refusal, source })
            }
            _ => None,
        }
    }
}

impl Engine {
    /// Carries out `plan`, which was made of `jobs`, and reports to `outside`.
    pub async fn run(&self, jobs: Vec<Job>, plan: Plan, options: Options, outside: &mut Outside<'_>) -> RunSummary {
        let bases = Bases::new(self.store.clone(), self.registry.clone(), options.cached_bases);
        let cancel = CancellationToken::new();
        let images = Mutex::default();
        let shared = Arc::new(Shared { engine: self.clone(), jobs, plan, options, bases, cancel, images });
        announce(&shared, outside);
        let mut summary = RunSummary::default();
        let refused = shared.plan.refused();
        if !refused.is_empty() && shared.options.limits.on_failure != OnFailure::KeepGoing {
            // Before anything is built: what cannot end well does not begin.
            for (job, at) in refused {
                let error = shared.refusal(job, at).expect("it was refused");
                let (unit, took) = (shared.name(job, at), std::time::Duration::ZERO);
                outside.emit(EventKind::UnitFinished { unit, outcome: failed(&error), took });
                fail(&shared, &mut summary, Kind::Unit(job, at), error);
            }
        } else {
            let (kinds, tasks) = tasks(&shared);
            if let Some(error) = circle(&shared, &kinds, &tasks) {
                fail(&shared, &mut summary, error.0, error.1);
                outside.emit(EventKind::RunFinished { summary: summary.totals });
                return summary;
            }
            let cancel = shared.cancel.clone();
            let ended = {
                let kinds = &kinds;
                let start = |at: usize, teller: Teller| work(Arc::clone(&shared), kinds[at], teller);
                let work = Work { start: &start, was_cancelled: UnitError::is_cancelled };
                dispatch(&tasks, shared.options.limits, outside, &cancel, work).await
            };
            summary.cancelled = ended.cancelled;
            conclude(&shared, outside, &mut summary, &kinds, ended.ended);
        }
        self.unchanged(&shared, &mut summary).await;
        let order = |package: &PackageResult| shared.jobs.iter().position(|job| job.name == package.package);
        summary.packages.sort_by_key(order);
        outside.emit(EventKind::RunFinished { summary: summary.totals });
        summary
    }

    /// Adds the packages that nothing had to be done for.
    async fn unchanged(&self, shared: &Shared, summary: &mut RunSummary) {
        let idle = |(job, package): (usize, &PlannedPackage)| {
            let idle = package.units.iter().all(|unit| unit.is_idle() && unit.facts.listed);
            (idle && shared.options.policy.publish == Publish::No).then_some(job)
        };
        let idle: Vec<usize> = shared.plan.packages.iter().enumerate().filter_map(idle).collect();
        if idle.is_empty() {
            return;
        }
        let store = self.store.clone();
        let roots = tokio::task::spawn_blocking(move || store.roots()).await.ok().and_then(Result::ok);
        for job in idle {
            let local = roots.as_ref().and_then(|roots| roots.get(&shared.jobs[job].tag.full)).map(|root| root.digest);
            let remote = shared.plan.packages[job].remote.as_ref().map(|root| root.descriptor().digest);
            summary.packages.push(finish::result(shared, job, local.or(remote)));
        }
    }
}

fn announce(shared: &Shared, outside: &Outside<'_>) {
    let units = shared.plan.packages.iter().map(|package| package.units.len()).sum();
    let (packages, jobs) = (shared.jobs.len(), shared.options.limits.jobs);
    outside.emit(EventKind::RunStarted { schema: SCHEMA, packages, units, jobs });
    for message in &shared.options.warnings {
        outside.emit(EventKind::Warning { package: None, message: message.clone() });
    }
    for (at, job) in shared.jobs.iter().enumerate() {
        let dirty = job.tag.state == SourceState::Dirty;
        outside.emit(EventKind::PackageTagged { package: job.name.clone(), reference: job.tag.reference.clone(), dirty });
        for (unit, planned) in shared.plan.packages[at].units.iter().enumerate() {
            let (decision, reason) = (planned.decision.word(), planned.decision.reason());
            outside.emit(EventKind::Planned { unit: shared.name(at, unit), decision, reason });
        }
    }
    for (job, package) in shared.plan.packages.iter().enumerate() {
        for (at, unit) in package.units.iter().enumerate() {
            let reused = match (unit.decision, &unit.facts.local, &unit.facts.remote) {
                (Decision::UseLocal(digest), Some(image), _) => {
                    shared.keep(job, at, image.clone(), "reused");
                    digest
                }
                (Decision::UseRemote(digest), _, Some(image)) => {
                    let source = package.remote.as_ref().expect("it has an image").source.clone();
                    shared.announce(job, &unit.platform, image, source);
                    digest
                }
                _ => continue,
            };
            let outcome = Outcome::Reused { digest: reused };
            outside.emit(EventKind::UnitFinished { unit: shared.name(job, at), outcome, took: std::time::Duration::ZERO });
        }
    }
}

/// Returns what is to be done, and in which order it may be.
fn tasks(shared: &Shared) -> (Vec<Kind>, Vec<Task>) {
    let publish = shared.options.policy.publish != Publish::No;
    let mut kinds = Vec::new();
    for (job, package) in shared.plan.packages.iter().enumerate() {
        let active = |unit: &PlannedUnit| !unit.is_idle();
        let unlisted = package.units.iter().any(|unit| matches!(unit.decision, Decision::UseLocal(_)) && !unit.facts.listed);
        let units = package.units.iter().enumerate().filter(|(_, unit)| active(unit)).map(|(at, _)| Kind::Unit(job, at));
        let before = kinds.len();
        kinds.extend(units);
        if kinds.len() > before || unlisted || (publish && shared.jobs[job].asked) {
            kinds.push(Kind::Finish(job));
        }
    }
    let place = |kind: Kind| kinds.iter().position(|other| *other == kind);
    let named = |(at, job): (usize, &Job)| job.references().map(|name| (Store::name_of(name), at)).collect::<Vec<_>>();
    let references: BTreeMap<String, usize> = shared.jobs.iter().enumerate().flat_map(named).collect();
    let tasks = kinds.iter().map(|kind| match *kind {
        Kind::Finish(job) => {
            let units = (0..shared.jobs[job].platforms.len()).filter_map(|at| place(Kind::Unit(job, at)));
            Task { needs: units.collect(), cost: if publish { 4 } else { 1 } }
        }
        Kind::Unit(job, at) => {
            let Decision::Build(_) = shared.unit(job, at).decision else { return Task { needs: Vec::new(), cost: 2 } };
            let mut needs: Vec<usize> = needed_units(shared, &references, job, at)
                .into_iter()
                .filter_map(|(job, at)| place(Kind::Unit(job, at)))
                .collect();
            needs.sort_unstable();
            needs.dedup();
            let cost = match shared.engine.builder.support(&shared.unit(job, at).platform) {
                Support::Native => 10,
                Support::Emulated | Support::Unsupported => 50,
            };
            Task { needs, cost }
        }
    });
    let tasks = tasks.collect();
    (kinds, tasks)
}

/// Returns the error of tasks that need each other, with the first of them.
fn circle(shared: &Shared, kinds: &[Kind], tasks: &[Task]) -> Option<(Kind, UnitError)> {
    let circle = cycle(tasks)?;
    let name = |at: &usize| match kinds[*at] {
        Kind::Unit(job, at) => format!("{} for {}", shared.jobs[job].name, shared.unit(job, at).platform),
        Kind::Finish(job) => shared.jobs[job].name.clone(),
    };
    let cycle = circle.iter().chain(circle.first()).map(name).collect();
    Some((kinds[circle[0]], UnitError::Cycle { cycle }))
}

/// Returns the units of this run that a unit is built from. A Dockerfile with mistakes needs none: it fails by itself.
fn needed_units(shared: &Shared, references: &BTreeMap<String, usize>, job: usize, at: usize) -> Vec<(usize, usize)> {
    let platform = &shared.unit(job, at).platform;
    let unit_of =
        |job: usize, platform: &Platform| shared.jobs[job].platforms.iter().position(|own| own == platform).map(|at| (job, at));
    let mut needed: Vec<(usize, usize)> = shared.jobs[job].needs.iter().filter_map(|needed| unit_of(*needed, platform)).collect();
    let images = needed_images(&shared.jobs[job], platform).unwrap_or_default();
    needed.extend(images.iter().filter_map(|image| {
        let reference: Reference = image.reference.parse().ok()?;
        unit_of(*references.get(&Store::name_of(&reference))?, &image.platform)
    }));
    // A package's own tag can only be meant by mistake; resolving it tells.
    needed.retain(|(needed, _)| *needed != job);
    needed
}

/// Boxed, so that the compiler need not look through the futures of everything below when it checks the loop.
fn work(shared: Arc<Shared>, kind: Kind, teller: Teller) -> BoxFuture<'static, Result<Option<PackageResult>, UnitError>> {
    Box::pin(async move {
        match kind {
            Kind::Unit(job, at) => {
                let result = match shared.refusal(job, at) {
                    Some(refused) => Err(refused),
                    None => execute::unit(&shared, job, at, teller.clone()).await,
                };
                // Told at once: what else runs may take hours.
                if let Err(error) = result.as_ref().map_err(|error| (!error.is_cancelled()).then(|| failed(error)))
                    && let Some(outcome) = error
                {
                    let (unit, took) = (shared.name(job, at), std::time::Duration::ZERO);
                    teller.tell(EventKind::UnitFinished { unit, outcome, took }).await;
                }
                result.map(|()| None)
            }
            Kind::Finish(job) => finish::package(&shared, job, teller).await.map(Some),
        }
    })
}

fn conclude(
    shared: &Shared,
    outside: &Outside<'_>,
    summary: &mut RunSummary,
    kinds: &[Kind],
    ended: Vec<Ended<Option<PackageResult>, UnitError>>,
) {
    for (kind, ended) in kinds.iter().zip(ended) {
        match (ended, *kind) {
            (Ended::Done(Some(result)), _) => summary.packages.push(result),
            (Ended::Done(None), _) => {}
            (Ended::Failed(error), kind) => fail(shared, summary, kind, error),
            (Ended::Skipped(by), Kind::Unit(job, at)) => {
                let unit = shared.name(job, at);
                let because = match kinds[by] {
                    Kind::Unit(job, at) => format!("{} for {}", shared.jobs[job].name, shared.unit(job, at).platform),
                    Kind::Finish(job) => shared.jobs[job].name.clone(),
                };
                summary.totals.skipped += 1;
                summary.skipped.push(unit.clone());
                let outcome = Outcome::Skipped { because };
                outside.emit(EventKind::UnitFinished { unit, outcome, took: std::time::Duration::ZERO });
            }
            (Ended::Cancelled, Kind::Unit(job, at)) => {
                summary.totals.cancelled += 1;
                let (unit, outcome) = (shared.name(job, at), Outcome::Cancelled);
                outside.emit(EventKind::UnitFinished { unit, outcome, took: std::time::Duration::ZERO });
            }
            (Ended::Skipped(_) | Ended::Cancelled, Kind::Finish(_)) => {}
        }
    }
    for (_, word) in shared.images.lock().expect("no holder panics").values() {
        match *word {
            "built" => summary.totals.built += 1,
            "pulled" => summary.totals.pulled += 1,
            _ => summary.totals.reused += 1,
        }
    }
    let units = shared.plan.packages.iter().flat_map(|package| &package.units);
    summary.totals.reused += units.filter(|unit| matches!(unit.decision, Decision::UseRemote(_))).count();
    summary.totals.pushed = summary.packages.iter().filter(|package| package.pushed).count();
}

fn fail(shared: &Shared, summary: &mut RunSummary, kind: Kind, error: UnitError) {
    summary.totals.failed += 1;
    let (job, platform) = match kind {
        Kind::Unit(job, at) => (job, Some(shared.unit(job, at).platform.clone())),
        Kind::Finish(job) => (job, None),
    };
    summary.failures.push(UnitFailure { package: shared.jobs[job].name.clone(), platform, error });
}

/// Returns the outcome of a unit that failed: the error and its causes.
fn failed(error: &UnitError) -> Outcome {
    let mut lines = vec![error.to_string()];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        lines.push(error.to_string());
        cause = error.source();
    }
    Outcome::Failed { error: lines }
}

/// Returns every mistake in the Dockerfiles of what would be built, all at once, so that none is found an hour later.
pub fn mistakes(jobs: &[Job], plan: &Plan) -> Diagnostics {
    let mut found = Diagnostics::default();
    for (job, package) in jobs.iter().zip(&plan.packages) {
        for unit in package.units.iter().filter(|unit| matches!(unit.decision, Decision::Build(_))) {
            if let Err(UnitError::Mistakes(Diagnostics(more))) = needed_images(job, &unit.platform) {
                // A mistake that does not depend on the platform is told once.
                found.0.extend(more.into_iter().filter(|new| !found.0.contains(new)).collect::<Vec<_>>());
            }
        }
    }
    found
}
