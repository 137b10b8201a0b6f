//! From a Dockerfile to an image: what to do, what of it is cached, doing the rest, and putting the image together.

mod checks;
mod given;
mod inputs;
mod key;
mod lower;
mod op;
mod plan;
mod record;
mod select;
mod step;
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::sync::mpsc;

use super::Machine;
use super::base::{blocking, store_error};
use super::context::ContextTree;
use super::image::manifest;
use super::pack::PackedLayer;
use super::remote::RemoteError;
use super::sandbox::StepNetwork;
use crate::builder::{
    BaseKey, BuildError, BuildEvent, BuildRequest, BuiltImage, CacheUse, Context, ContextRoot, NamedContext, Support,
};
use crate::content::ErrorClass;
use crate::diagnostic::Diagnostics;
use crate::dockerfile::stages::{ImageUse, StageOptions, Stages};
use crate::dockerfile::{Dockerfile, Ignore, ignore};
use crate::oci::{MediaType, Raw};
use crate::sys::fs::RootedPath;

pub(super) use checks::lint;
use inputs::{Inputs, KeyError, Keys};
use lower::Images;
use op::Operation;
use plan::{Plan, Root};
pub(super) use record::{Record, Records};
use walk::Walk;

/// How many events may wait for a slow reader before steps wait too.
const EVENTS: usize = 256;

/// Builds what `request` asks for.
///
/// # Errors
/// As [`BuildError`].
pub(super) async fn build(
    machine: &Arc<Machine>,
    request: &BuildRequest,
    on: &(dyn Fn(BuildEvent) + Send + Sync),
) -> Result<BuiltImage, BuildError> {
    let plan = plan(machine, request).await?;
    let warnings = given::check(request, &plan)?;
    plan.warnings.iter().chain(&warnings).for_each(|message| on(BuildEvent::Warning { message: message.clone() }));
    let (keys, inputs) = prepare(machine, request, &plan, on).await?;
    let (sender, mut events) = mpsc::channel(EVENTS);
    let walk = Walk::new(machine, request, &plan, (keys, inputs), sender).run();
    tokio::pin!(walk);
    let layers = loop {
        tokio::select! {
            biased;
            Some(event) = events.recv() => on(event),
            result = &mut walk => break result,
        }
    };
    while let Ok(event) = events.try_recv() {
        on(event);
    }
    assemble(machine, request, &plan, layers?).await
}

/// Reads the Dockerfile and the configs of base images, and says what there is to do.
async fn plan(machine: &Arc<Machine>, request: &BuildRequest) -> Result<Plan, BuildError> {
    let dockerfile = Dockerfile::parse(&request.dockerfile.path, &request.dockerfile.text).map_err(BuildError::Dockerfile)?;
    let mut options = stage_options(request);
    let mut images = Images::new();
    loop {
        let stages = Stages::resolve(&dockerfile, &options).map_err(BuildError::Dockerfile)?;
        let new: Vec<&ImageUse> = stages.images.keys().filter(|image| !images.contains_key(*image)).collect();
        if new.is_empty() {
            let outside = if machine.sandbox.outbound() { StepNetwork::Outbound } else { StepNetwork::Host };
            let plan = lower::lower(request, &dockerfile, &stages, &images, outside).and_then(|mut plan| {
                plan.warnings.extend(checks::warning(&dockerfile, &options, &stages, &images)?);
                Ok(plan)
            });
            return plan.map_err(BuildError::Dockerfile);
        }
        let read = try_join_all(new.into_iter().map(|image| async {
            let key = BaseKey { reference: image.reference.clone(), platform: image.platform.clone() };
            let base = request.bases.get(&key).ok_or_else(|| {
                let message = format!("the base image `{}` for {} was not resolved", image.reference, image.platform);
                BuildError::Dockerfile(Diagnostics(vec![dockerfile.error(stages.images[image], message)]))
            })?;
            Ok::<_, BuildError>((image.clone(), machine.bases.get(base).await?))
        }));
        // Triggers of the images just read can ask for more of them.
        for (image, base) in read.await? {
            if !base.config.config.on_build.is_empty() {
                options.triggers.insert(image.clone(), base.config.config.on_build.clone());
            }
            images.insert(image, base);
        }
    }
}

/// Returns what the graph of stages depends on besides the Dockerfile.
fn stage_options(request: &BuildRequest) -> StageOptions {
    let mut args = request.args.clone();
    // Steps see the image's time only where the Dockerfile asks for it.
    args.entry("SOURCE_DATE_EPOCH".to_owned()).or_insert_with(|| request.source_date.0.to_string());
    StageOptions {
        build_platform: lower::build_platform(),
        args,
        target: request.variation.target.clone(),
        contexts: request.variation.for_stages(),
        ..StageOptions::new(request.platform.clone())
    }
}

/// Reads the context and the step cache.
async fn prepare(
    machine: &Arc<Machine>,
    request: &BuildRequest,
    plan: &Plan,
    on: &(dyn Fn(BuildEvent) + Send + Sync),
) -> Result<(Keys, Inputs), BuildError> {
    let context = if plan.steps.iter().any(plan::Step::reads_context) {
        let (context, dockerfile) = (request.context.clone(), request.dockerfile.in_context.clone());
        let cache = machine.store.directory().to_owned();
        let context = blocking(move || scan(&context, &ignore::candidates(&dockerfile), &cache)).await?;
        context.warnings().iter().for_each(|message| on(BuildEvent::Warning { message: message.clone() }));
        Some(Arc::new(context))
    } else {
        None
    };
    let progress = |done, total| on(BuildEvent::Fetched { done, total });
    // All at once, and before the walk: what they are now is part of the keys of the steps that read them.
    let remotes = plan.remotes.iter().enumerate().map(|(number, source)| async move {
        let resolved = machine.remotes.resolve(source, (&progress, &request.cancel)).await;
        resolved.map_err(|error| remote_error(request, plan, number, error))
    });
    let remotes = try_join_all(remotes).await?;
    let mut named = BTreeMap::new();
    for name in plan.steps.iter().filter_map(plan::Step::named_context) {
        if let Some(NamedContext::Directory(directory)) = request.variation.contexts.get(name) {
            let root = ContextRoot { source: directory.clone(), target: PathBuf::new(), replaces: false };
            let (context, cache) = (Context { roots: vec![root] }, machine.store.directory().to_owned());
            let context = blocking(move || scan(&context, &[PathBuf::from(ignore::DEFAULT_NAME)], &cache)).await?;
            context.warnings().iter().for_each(|message| on(BuildEvent::Warning { message: message.clone() }));
            named.insert(name.to_owned(), Arc::new(context));
        }
    }
    let inputs = Inputs { context, remotes, named };
    let read = request.cache == CacheUse::ReadWrite;
    // Some tens of small files; a thread for that would cost more.
    let keys = Keys::prepare(machine, plan, &inputs, read).map_err(|error| match error {
        KeyError::Pattern { step, source } => {
            let step = &plan.steps[step];
            BuildError::Files {
                step: Box::new(step.name.clone()),
                dockerfile: request.dockerfile.path.clone(),
                lines: step.lines.clone(),
                class: ErrorClass::Permanent,
                source: source.into(),
            }
        }
        KeyError::Cache(error) => step::cache_error(error),
    })?;
    for (step, record) in plan.steps.iter().zip(&keys.records) {
        let (Operation::Run(run), None) = (&step.operation, record) else { continue };
        if machine.sandbox.support(&run.platform) == Support::Unsupported {
            return Err(step::no_emulator(&run.platform));
        }
        if let Some(missing) = step::missing(run) {
            return Err(missing.about(step, request));
        }
    }
    Ok((keys, inputs))
}

/// Returns the error of a remote source, told with the step that reads it.
fn remote_error(request: &BuildRequest, plan: &Plan, number: usize, error: RemoteError) -> BuildError {
    if let RemoteError::Cancelled = error {
        return BuildError::Cancelled;
    }
    let step = plan.reader(Root::Remote(number)).expect("a remote source is there because a step reads it");
    BuildError::Files {
        step: Box::new(step.name.clone()),
        dockerfile: request.dockerfile.path.clone(),
        lines: step.lines.clone(),
        class: error.class(),
        source: error.into(),
    }
}

fn scan(context: &Context, ignore_files: &[PathBuf], cache: &Path) -> Result<ContextTree, BuildError> {
    let failed = |action: &str, class, source: Box<dyn std::error::Error + Send + Sync>| BuildError::Builder {
        action: action.to_owned(),
        class,
        source,
    };
    let mut ignored = Ignore::default();
    for candidate in ignore_files {
        let found = read_in_context(context, candidate);
        if let Some(bytes) = found.map_err(|error| failed("read the ignore file", ErrorClass::Permanent, error.into()))? {
            ignored = Ignore::parse(candidate, &bytes).map_err(BuildError::Dockerfile)?;
            break;
        }
    }
    ContextTree::scan(context, &ignored, cache).map_err(|error| failed("read the build context", error.class(), error.into()))
}

/// Reads a small file of the context; of roots laid over each other the last that has it counts.
fn read_in_context(context: &Context, path: &Path) -> io::Result<Option<Vec<u8>>> {
    for root in context.roots.iter().rev() {
        let Ok(inner) = path.strip_prefix(&root.target) else { continue };
        if let Some(bytes) = RootedPath::open(&root.source)?.read_regular(inner, ignore::LIMIT as u64)? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Writes config and manifest.
async fn assemble(
    machine: &Arc<Machine>,
    request: &BuildRequest,
    plan: &Plan,
    own: Vec<PackedLayer>,
) -> Result<BuiltImage, BuildError> {
    let base = plan.chain(plan.result).0.map(|image| &plan.images[image]);
    let mut diff_ids = base.map_or_else(Vec::new, |base| base.config.rootfs.diff_ids.clone());
    let mut layers = base.map_or_else(Vec::new, |base| base.layers.clone());
    for layer in own {
        diff_ids.push(layer.diff_id);
        layers.push(layer.descriptor);
    }
    let config = Raw::encode(plan.image.finish(&request.platform, &request.labels, diff_ids));
    let manifest = Raw::encode(manifest(config.descriptor(MediaType::CONFIG), layers, &request.annotations));
    let mut descriptor = manifest.descriptor(MediaType::MANIFEST);
    descriptor.platform = Some(request.platform.clone());
    let store = machine.store.clone();
    blocking(move || {
        store.write(MediaType::CONFIG, config.bytes())?;
        store.write(MediaType::MANIFEST, manifest.bytes())
    })
    .await
    .map_err(store_error)?;
    Ok(BuiltImage { manifest: descriptor, attestations: Vec::new() })
}

#[cfg(test)]
pub(super) mod testing {
    //! Records for tests of what is done to them.

    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use super::key::Fields;
    use super::record::{Record, Records};
    use crate::builder::embedded::snapshot::gate::Gate;

    /// Writes a record under a key of `name`, and returns its file.
    pub(in crate::builder::embedded) fn record(home: &Path, name: &str, layer: &str, tree: &str, parent: &str) -> PathBuf {
        let (records, key) = (Records::open(home).expect("opens"), Fields::new(name).finish());
        let record = Record::new(layer.to_owned(), tree.to_owned(), parent.to_owned(), Duration::ZERO);
        records.write(&key, &record, &Gate::of(home).pass().expect("locks")).expect("writes");
        let name = key.to_string();
        home.join("keys").join(&name[..2]).join(name)
    }
}
