//! One unit: its bases resolved, built; or copied from the registry.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::mpsc;

use super::bundle::bundle;
use super::dispatch::{Meter, Teller};
use super::error::UnitError;
use super::event::{Direction, EventKind, Outcome, UnitName, Work};
use super::plan::Decision;
use super::run::{Job, Shared};
use crate::builder::steps::StepOptions;
use crate::builder::{
    Base, BaseKey, BuildEvent, BuildRequest, BuiltImage, CacheUse, Context, ContextRoot, DockerfileSource, Network,
};
use crate::content::{DOCUMENT_LIMIT, read_whole};
use crate::dockerfile::{self, Dockerfile, ImageUse, StageOptions, Stages};
use crate::git::Repositories;
use crate::oci::{ImageConfig, Manifest, Platform};
use crate::package::{INPUT_KEY, Package};
use crate::sys::fs::read_regular;
use crate::transfer::{CopyOptions, copy};

/// Carries out one unit.
pub(super) async fn unit(shared: &Shared, job: usize, at: usize, teller: Teller) -> Result<(), UnitError> {
    let name = shared.name(job, at);
    let began = Instant::now();
    let (image, word, outcome) = match shared.unit(job, at).decision {
        Decision::Pull(digest) => {
            teller.tell(EventKind::UnitStarted { unit: name.clone(), work: Work::Pull }).await;
            (pull(shared, job, at, teller.clone()).await?, "pulled", Outcome::Pulled { digest })
        }
        _ => {
            teller.tell(EventKind::UnitStarted { unit: name.clone(), work: Work::Build }).await;
            let image = build(shared, job, &name, teller.clone()).await?;
            let digest = image.manifest.digest;
            (image, "built", Outcome::Built { digest })
        }
    };
    name_architecture(shared, job, &image).await?;
    shared.keep(job, at, image, word);
    teller.tell(EventKind::UnitFinished { unit: name, outcome, took: began.elapsed() }).await;
    Ok(())
}

/// Names an image for its architecture, as linuxkit does, at once: whatever happens to the other platforms, it is kept and
/// found again.
async fn name_architecture(shared: &Shared, job: usize, image: &BuiltImage) -> Result<(), UnitError> {
    let Some(platform) = &image.manifest.platform else { return Ok(()) };
    let name = format!("{}-{}", shared.jobs[job].tag.full, platform.tag_suffix());
    let (store, manifest) = (shared.engine.store.clone(), image.manifest.clone());
    match tokio::task::spawn_blocking(move || store.set_roots(&[(name, manifest)])).await {
        Ok(result) => Ok(result?),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn pull(shared: &Shared, job: usize, at: usize, teller: Teller) -> Result<BuiltImage, UnitError> {
    let unit = shared.unit(job, at);
    let root = shared.plan.packages[job].remote.as_ref().expect("what is pulled was found");
    let image = unit.facts.remote.clone().expect("what is pulled was found");
    let meter = teller.meter(&shared.jobs[job].name, Some(&unit.platform), Direction::Down);
    for root_descriptor in std::iter::once(&image.manifest).chain(&image.attestations) {
        let options = metered(&meter);
        let copied = copy(&*root.source, &shared.engine.store, root_descriptor, &options);
        tokio::select! {
            copied = copied => copied?,
            () = shared.cancel.cancelled() => return Err(UnitError::Cancelled),
        };
    }
    Ok(image)
}

/// Returns options that tell a meter how far a copy is.
pub(super) fn metered(meter: &Arc<Meter>) -> CopyOptions {
    let meter = Arc::clone(meter);
    CopyOptions { progress: Some(Arc::new(move |progress| meter.set(progress.done, progress.total))), ..CopyOptions::default() }
}

async fn build(shared: &Shared, job: usize, name: &UnitName, teller: Teller) -> Result<BuiltImage, UnitError> {
    let mut request = tokio::select! {
        request = request(shared, &shared.jobs[job], &name.platform) => request?,
        () = shared.cancel.cancelled() => return Err(UnitError::Cancelled),
    };
    // To be held until the build is over.
    let bundle = tokio::select! {
        bundle = bundle(shared, &shared.jobs[job], &name.platform, &teller) => bundle?,
        () = shared.cancel.cancelled() => return Err(UnitError::Cancelled),
    };
    request.context.roots.extend(bundle.iter().flat_map(|bundle| bundle.roots.clone()));
    let meter = teller.meter(&name.package, Some(&name.platform), Direction::Down);
    let (sender, mut events) = mpsc::unbounded_channel();
    let telling = Telling::new(name.clone(), sender, meter, log_file(shared, name));
    let on = |event: BuildEvent| telling.tell(event);
    let building = shared.engine.builder.build(&request, &on);
    tokio::pin!(building);
    let result = loop {
        tokio::select! {
            biased;
            Some(kind) = events.recv() => {
                telling.waiting.fetch_sub(1, Ordering::Relaxed);
                teller.tell(kind).await;
            }
            result = &mut building => break result,
        }
    };
    telling.end();
    while let Ok(kind) = events.try_recv() {
        teller.tell(kind).await;
    }
    Ok(result?)
}

async fn request(shared: &Shared, job: &Job, platform: &Platform) -> Result<BuildRequest, UnitError> {
    let (package, options) = (&job.package, &shared.options);
    let text = dockerfile_text(job)?;
    let bases = bases(shared, job, platform, &text).await?;
    let mut labels = package.labels(&job.tag);
    // A label of that name in build.yml stays.
    if labels.get(REVISION).is_some_and(|label| Some(label.as_str()) == job.tag.revision())
        && let Some(revision) = last_change(package).await?
    {
        labels.insert(REVISION.to_owned(), revision);
    }
    labels.extend(options.labels.clone());
    let mut annotations = package.settings.annotations.clone();
    annotations.extend(options.annotations.clone());
    // The key tells what the Dockerfile says by itself is made of.
    if let Some(key) = job.input_key.as_ref().filter(|_| !job.variation.is_another_image()) {
        annotations.insert(INPUT_KEY.to_owned(), key.annotation());
    }
    let use_cache = options.step_cache && !package.settings.disable_cache;
    Ok(BuildRequest {
        package: job.name.clone(),
        platform: platform.clone(),
        context: Context {
            roots: package
                .context()
                .into_iter()
                .map(|(source, target)| ContextRoot { source, target, replaces: false })
                .collect(),
        },
        dockerfile: DockerfileSource {
            path: package.shown.join(package.dockerfile()),
            in_context: package.dockerfile().to_owned(),
            text: text.into(),
        },
        args: job.args.clone(),
        labels,
        annotations,
        variation: job.variation.clone(),
        network: if package.settings.network { Network::Default } else { Network::None },
        keeping: options.keeping.clone(),
        cache: if use_cache { CacheUse::ReadWrite } else { CacheUse::WriteOnly },
        source_date: options.source_date,
        bases,
        steps: given(package, &options.steps),
        cancel: shared.cancel.clone(),
    })
}

/// Returns what the steps of `package` are given: of secrets and agents only those that its build.yml names, if it names any.
fn given(package: &Package, options: &Arc<StepOptions>) -> Arc<StepOptions> {
    let (secrets, agents) = (&package.settings.secrets, &package.settings.ssh);
    if secrets.is_none() && agents.is_none() {
        return Arc::clone(options);
    }
    let named = |names: &Option<Vec<String>>, id: &String| names.as_ref().is_none_or(|names| names.contains(id));
    let mut own = StepOptions::clone(options);
    own.secrets.retain(|id, _| named(secrets, id));
    own.agents.retain(|id, _| named(agents, id));
    Arc::new(own)
}

/// The label that names the commit of what was built (OCI image-spec, "Pre-Defined Annotation Keys").
const REVISION: &str = "org.opencontainers.image.revision";

/// Returns the last commit that changed the package. One tag is one tree, which may sit in many commits; this one is the
/// same for all of them, so that the same tree gives the same image. `None` when no commit has the package.
///
/// # Errors
/// When git cannot answer: another commit in its place would be another image.
async fn last_change(package: &Package) -> Result<Option<String>, UnitError> {
    let directory = package.directory.clone();
    let found = tokio::task::spawn_blocking(move || {
        let mut repositories = Repositories::new();
        let Some(location) = repositories.locate(&directory)? else { return Ok(None) };
        repositories.last_change(&location)
    });
    match found.await {
        Ok(found) => Ok(found?.map(|commit| commit.id.to_string())),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn dockerfile_text(job: &Job) -> Result<Vec<u8>, UnitError> {
    let path = job.package.directory.join(job.package.dockerfile());
    read_regular(&path, dockerfile::LIMIT as u64).map_err(UnitError::Dockerfile)
}

fn stage_options(job: &Job, platform: &Platform) -> StageOptions {
    let mut options = StageOptions::new(platform.clone());
    options.build_platform = Platform::host();
    options.args.clone_from(&job.args);
    options.target.clone_from(&job.variation.target);
    options.contexts = job.variation.for_stages();
    options
}

/// Returns the images that a Dockerfile needs for `platform`, as far as it says so itself.
///
/// # Errors
/// When it cannot be read, or has mistakes.
pub fn needed_images(job: &Job, platform: &Platform) -> Result<BTreeSet<ImageUse>, UnitError> {
    let text = dockerfile_text(job)?;
    let dockerfile = Dockerfile::parse(&job.package.shown.join(job.package.dockerfile()), &text)?;
    Ok(Stages::resolve(&dockerfile, &stage_options(job, platform))?.images.into_keys().collect())
}

/// Resolves the images that the Dockerfile needs, and those that the triggers of those images need, too.
async fn bases(shared: &Shared, job: &Job, platform: &Platform, text: &[u8]) -> Result<BTreeMap<BaseKey, Base>, UnitError> {
    let dockerfile = Dockerfile::parse(&job.package.shown.join(job.package.dockerfile()), text)?;
    let mut options = stage_options(job, platform);
    let mut bases = BTreeMap::new();
    loop {
        let stages = Stages::resolve(&dockerfile, &options)?;
        let mut new = false;
        for image in stages.images.keys() {
            let key = BaseKey { reference: image.reference.clone(), platform: image.platform.clone() };
            if bases.contains_key(&key) {
                continue;
            }
            let base = shared.bases.resolve(&image.reference, &image.platform).await?;
            let triggers = triggers(&base).await?;
            new |= !triggers.is_empty();
            options.triggers.insert(image.clone(), triggers);
            bases.insert(key, base);
        }
        if !new {
            return Ok(bases);
        }
    }
}

/// Returns the `ONBUILD` triggers of a base image.
async fn triggers(base: &Base) -> Result<Vec<String>, UnitError> {
    let damaged = |source: serde_json::Error| {
        UnitError::Build(crate::builder::BuildError::Builder {
            action: format!("read base image {}", base.manifest.digest),
            class: crate::content::ErrorClass::Damaged,
            source: Box::new(source),
        })
    };
    let content = |error| UnitError::Build(crate::builder::BuildError::Content(error));
    let bytes = read_whole(&*base.source, &base.manifest, DOCUMENT_LIMIT).await.map_err(content)?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(damaged)?;
    let bytes = read_whole(&*base.source, &manifest.config, DOCUMENT_LIMIT).await.map_err(content)?;
    let config: ImageConfig = serde_json::from_slice(&bytes).map_err(damaged)?;
    Ok(config.config.on_build)
}

/// Opens the file that keeps all that a build prints. A build without one is still a build.
fn log_file(shared: &Shared, name: &UnitName) -> Option<fs_err::File> {
    let directory = shared.engine.store.directory().join("pkgbuild/v1/logs");
    fs_err::create_dir_all(&directory).ok()?;
    fs_err::File::create(directory.join(log_name(name))).ok()
}

/// Returns the name of the file that keeps what a unit's build prints.
pub fn log_name(name: &UnitName) -> PathBuf {
    PathBuf::from(format!("{}-{}.log", name.package, name.platform).replace('/', "-"))
}

/// Output that may wait for a slow reporter; what exceeds it is in the log file only.
const BACKLOG: usize = 10_000;

/// Turns what a builder tells into events. The builder calls it from threads that must not wait.
struct Telling {
    unit: UnitName,
    sender: mpsc::UnboundedSender<EventKind>,
    meter: Arc<Meter>,
    waiting: AtomicUsize,
    /// The unfinished last line of each step.
    partial: Mutex<HashMap<usize, Vec<u8>>>,
    log: Mutex<Option<fs_err::File>>,
}

impl Telling {
    fn new(unit: UnitName, sender: mpsc::UnboundedSender<EventKind>, meter: Arc<Meter>, log: Option<fs_err::File>) -> Self {
        Self { unit, sender, meter, waiting: AtomicUsize::new(0), partial: Mutex::default(), log: Mutex::new(log) }
    }

    fn send(&self, kind: EventKind) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // Nobody receives any more when the unit was given up.
        let _ = self.sender.send(kind);
    }

    fn tell(&self, event: BuildEvent) {
        let unit = self.unit.clone();
        match event {
            BuildEvent::StepStarted { step } => self.send(EventKind::BuildStep {
                unit,
                step: step.number,
                of: step.of,
                stage: step.stage,
                text: step.text,
                line: step.span.line,
            }),
            BuildEvent::Log { step, bytes } => self.log(step, &bytes),
            BuildEvent::StepCached { step } => {
                self.send(EventKind::StepCached { unit, step: step.number, of: step.of, text: step.text });
            }
            BuildEvent::StepFinished { step, took } => {
                self.flush(step);
                self.send(EventKind::StepFinished { unit, step, took });
            }
            BuildEvent::Warning { message } => self.send(EventKind::Warning { package: Some(unit.package), message }),
            BuildEvent::Fetched { done, total } => self.meter.set(done, total),
        }
    }

    fn log(&self, step: usize, bytes: &[u8]) {
        if let Some(log) = &mut *self.log.lock().expect("no holder panics") {
            // A full disk ends the build elsewhere, with an error that says so.
            let _ = log.write_all(bytes);
        }
        let mut partial = self.partial.lock().expect("no holder panics");
        let line = partial.entry(step).or_default();
        line.extend_from_slice(bytes);
        let Some(end) = line.iter().rposition(|byte| *byte == b'\n') else { return };
        let whole: Vec<u8> = line.drain(..=end).collect();
        drop(partial);
        self.lines(step, &whole);
    }

    fn lines(&self, step: usize, bytes: &[u8]) {
        if self.waiting.load(Ordering::Relaxed) < BACKLOG {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.send(EventKind::BuildLog { unit: self.unit.clone(), step, text });
        }
    }

    fn flush(&self, step: usize) {
        let rest = self.partial.lock().expect("no holder panics").remove(&step).unwrap_or_default();
        if !rest.is_empty() {
            self.lines(step, &rest);
        }
    }

    fn end(&self) {
        let mut steps: Vec<usize> = self.partial.lock().expect("no holder panics").keys().copied().collect();
        steps.sort_unstable();
        for step in steps {
            self.flush(step);
        }
    }
}
