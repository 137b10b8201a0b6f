//! The walk: which steps are cached, and running those that are not.
//!
//! What the result does not need is never looked at: a step with a record does not need what it reads. Each step is settled
//! once:
//!
//! 1. A record under the definition key, made on the same files, is taken: nothing is read or fetched.
//! 2. Otherwise the step's inputs are settled, all at once, and a record under the content key is taken: equal files give
//!    equal results, however they came about.
//! 3. Otherwise the step runs, under a lock that makes every task and process wait that wants the same.
//!
//! A wait for a lock holds no slot, and a running step waits for no lock but those of its cache mounts, which it takes
//! first and in order; so nothing waits in a circle. All futures run within one task; a failure cancels the rest, which is
//! waited for.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::builder::embedded::Machine;
use crate::builder::embedded::pack::PackedLayer;
use crate::builder::embedded::snapshot::Snapshot;
use crate::builder::embedded::tree::LayerId;
use crate::builder::{BuildError, BuildEvent, BuildRequest, CacheUse};

use super::inputs::{Inputs, Keys};
use super::key::{Fields, Key};
use super::plan::{Plan, Root};
use super::record::Record;
use super::step::{self, Job, StepError};

/// What a settled step left.
#[derive(Clone, Debug)]
struct Settled {
    layer: LayerId,
    /// Names the files there are after the step: their hash, or for a linked step a hash of what they are put together from.
    tree: String,
    how: How,
}

/// How a step was settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Cached,
    Ran,
}

/// The walk ended early; the reason is kept by the walk.
#[derive(Clone, Copy, Debug)]
struct Stopped;

/// A layer on its way into the store.
type Packing = JoinHandle<Result<PackedLayer, BuildError>>;

type Settling<'a, T> = Pin<Box<dyn Future<Output = Result<T, Stopped>> + Send + 'a>>;

/// One build under way.
pub(super) struct Walk<'a> {
    machine: &'a Arc<Machine>,
    request: &'a BuildRequest,
    plan: &'a Plan,
    keys: Keys,
    inputs: Inputs,
    events: mpsc::Sender<BuildEvent>,
    cancel: CancellationToken,
    failure: Mutex<Option<BuildError>>,
    settled: Vec<OnceCell<Result<Settled, Stopped>>>,
    snapshots: Vec<OnceCell<Result<Snapshot, Stopped>>>,
    in_result: Vec<bool>,
    packs: Mutex<Vec<Option<Packing>>>,
    tasks: TaskTracker,
}

impl<'a> Walk<'a> {
    /// Prepares the walk of `plan`, whose keys are known.
    pub(super) fn new(
        machine: &'a Arc<Machine>,
        request: &'a BuildRequest,
        plan: &'a Plan,
        (keys, inputs): (Keys, Inputs),
        events: mpsc::Sender<BuildEvent>,
    ) -> Self {
        let count = plan.steps.len();
        let mut in_result = vec![false; count];
        plan.chain(plan.result).1.into_iter().for_each(|step| in_result[step] = true);
        Self {
            machine,
            request,
            plan,
            keys,
            inputs,
            events,
            cancel: request.cancel.child_token(),
            failure: Mutex::default(),
            settled: std::iter::repeat_with(OnceCell::new).take(count).collect(),
            snapshots: std::iter::repeat_with(OnceCell::new).take(count).collect(),
            in_result,
            packs: Mutex::new(std::iter::repeat_with(|| None).take(count).collect()),
            tasks: TaskTracker::new(),
        }
    }

    /// Settles the result and returns its own layers, packed and in the store, lowest first. The layers of the base are in
    /// the store then, too.
    ///
    /// # Errors
    /// The first failure. Nothing runs any more when this returns.
    pub(super) async fn run(self) -> Result<Vec<PackedLayer>, BuildError> {
        // Should the caller drop this future, blocking work ends soon after.
        let _guard = self.cancel.clone().drop_guard();
        let (base, lineage) = self.plan.chain(self.plan.result);
        let fetch = async {
            match base {
                Some(image) => {
                    let progress = |done, total| self.fetched(done, total);
                    let fetched = self.plan.images[image].fetch(&self.machine.store, &progress, &self.cancel).await;
                    fetched.map_err(|error| self.stop(error))
                }
                None => Ok(()),
            }
        };
        let settle = async {
            self.settle_all(vec![self.plan.result]).await?;
            self.packed(&lineage).await
        };
        let (fetched, packed) = join(fetch, settle).await;
        self.tasks.close();
        self.tasks.wait().await;
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (fetched, packed) {
            (Ok(()), Ok(layers)) => {
                for (step, cell) in self.plan.steps.iter().zip(&self.settled) {
                    if !cell.initialized() {
                        // Nobody needed its result: what was made of it is cached.
                        self.send(BuildEvent::StepCached { step: step.name.clone() }).await;
                    }
                }
                Ok(layers)
            }
            _ if self.request.cancel.is_cancelled() => Err(BuildError::Cancelled),
            _ => Err(failure.unwrap_or(BuildError::Cancelled)),
        }
    }

    fn stop(&self, error: BuildError) -> Stopped {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.cancel.cancel();
        Stopped
    }

    fn fetched(&self, done: u64, total: u64) {
        // Progress may be dropped when the reader of events is slow; nothing else may.
        drop(self.events.try_send(BuildEvent::Fetched { done, total }));
    }

    async fn send(&self, event: BuildEvent) {
        // The receiver outlives the walk, unless the whole build is being dropped.
        drop(self.events.send(event).await);
    }

    /// Runs `work` on a thread that may block, and waits for it even when this future is dropped meanwhile.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
    ) -> Result<T, Stopped> {
        match self.tasks.spawn_blocking(work).await {
            Ok(result) => result.map_err(|error| self.stop(error)),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(self.stop(BuildError::Cancelled)),
            },
        }
    }

    /// Settles what `roots` need, all at once. Steps come before those that work on them, so that waiting for another step
    /// is never more than one call deep, however long the chain.
    fn settle_all(&'a self, roots: Vec<Root>) -> Settling<'a, ()> {
        Box::pin(async move {
            let recorded = |step: usize| self.keys.records[step].is_some();
            let settled = join_all(self.plan.needed(&roots, recorded).into_iter().map(|step| self.settle(step))).await;
            settled.into_iter().try_for_each(|result| result.map(drop))
        })
    }

    fn settle(&'a self, step: usize) -> Settling<'a, Settled> {
        Box::pin(async move { self.settled[step].get_or_init(|| self.settle_once(step)).await.clone() })
    }

    async fn settle_once(&'a self, number: usize) -> Result<Settled, Stopped> {
        if self.cancel.is_cancelled() {
            return Err(Stopped);
        }
        let step = &self.plan.steps[number];
        let settled = match self.by_definition(number).await? {
            Some(settled) => settled,
            None => {
                let started = Instant::now();
                let settled = self.by_content(number).await?;
                if settled.how == How::Ran {
                    self.send(BuildEvent::StepFinished { step: step.name.number, took: started.elapsed() }).await;
                }
                settled
            }
        };
        if settled.how == How::Cached {
            self.send(BuildEvent::StepCached { step: step.name.clone() }).await;
        }
        if self.in_result[number] {
            self.start_pack(number, settled.layer);
        }
        if step.linked {
            // Only now: the layer does not wait for what it is put on.
            let tree = self.linked(step.parent, &settled.layer).await?;
            return Ok(Settled { tree, ..settled });
        }
        Ok(settled)
    }

    /// Names the files of `parent` with `layer` put on them, without reading either.
    async fn linked(&'a self, parent: Root, layer: &LayerId) -> Result<String, Stopped> {
        let below = match parent {
            Root::Scratch => String::new(),
            Root::Image(image) => self.plan.images[image].digest().to_string(),
            Root::Step(step) => self.settle(step).await?.tree,
            Root::Remote(number) => self.inputs.remotes[number].key().to_string(),
        };
        Ok(Fields::new("pkgbuild.linked.v1").field("below", below).field("layer", layer.to_string()).finish().to_string())
    }

    /// Takes the record that was read under the definition key, if it was made on the files that are there now.
    async fn by_definition(&'a self, number: usize) -> Result<Option<Settled>, Stopped> {
        let Some((layer, record)) = &self.keys.records[number] else { return Ok(None) };
        // A step's files can differ from an earlier run of the same definition; an image's and nothing's cannot.
        if let Root::Step(parent) = self.plan.steps[number].works_on()
            && self.settle(parent).await?.tree != record.parent
        {
            return Ok(None);
        }
        Ok(Some(Settled { layer: *layer, tree: record.tree.clone(), how: How::Cached }))
    }

    async fn by_content(&'a self, number: usize) -> Result<Settled, Stopped> {
        let step = &self.plan.steps[number];
        self.settle_all(step.inputs.iter().copied().chain([step.works_on()]).collect()).await?;
        let (parent, inputs) =
            join(self.snapshot(step.works_on()), join_all(step.inputs.iter().map(|root| self.snapshot(*root)))).await;
        let (parent, inputs) = (parent?, inputs.into_iter().collect::<Result<Vec<_>, _>>()?);
        let below = match step.works_on() {
            Root::Step(parent) => self.settle(parent).await?.tree,
            Root::Scratch | Root::Image(_) | Root::Remote(_) => parent.tree.id().to_string(),
        };
        let definition = self.keys.definitions[number];
        let content = self.inputs.content_key(step, &parent, &inputs);
        let content = content.map_err(|error| self.stop(self.step_error(number, StepError::from(error))))?;
        let read = self.request.cache == CacheUse::ReadWrite && !step.uncached;
        if read && let Some(settled) = self.recorded(&content, Some(&definition), &below).await? {
            return Ok(settled);
        }
        let lock =
            self.machine.records.lock(&content, &self.cancel).await.map_err(|error| self.stop(step::cache_error(error)))?;
        let Some(_lock) = lock else { return Err(Stopped) };
        if read && let Some(settled) = self.recorded(&content, Some(&definition), &below).await? {
            return Ok(settled);
        }
        let started = Instant::now();
        let snapshot = self.run_step(number, parent.clone(), inputs).await?;
        let layer = *snapshot.layers.last().expect("a step adds a layer");
        let tree = snapshot.tree.id().to_string();
        self.record([definition, content], &layer, &tree, (&below, started.elapsed())).await?;
        if !step.linked {
            let kept = self.snapshots[number].set(Ok(snapshot));
            debug_assert!(kept.is_ok(), "nobody can have asked for the files of a step that was not settled");
        }
        Ok(Settled { layer, tree, how: How::Ran })
    }

    /// Looks for a record under the content key, and lets the definition key find it next time.
    async fn recorded(&self, content: &Key, alias: Option<&Key>, below: &str) -> Result<Option<Settled>, Stopped> {
        let (machine, content, alias) = (self.machine.clone(), *content, alias.copied());
        let below = below.to_owned();
        self.blocking(move || {
            let passage = machine.snapshots.pass().map_err(step::cache_error)?;
            let Some((layer, mut record)) = super::inputs::usable(&machine, &content, &passage).map_err(step::cache_error)?
            else {
                return Ok(None);
            };
            record.parent = below;
            if let Some(alias) = alias {
                machine.records.write(&alias, &record, &passage).map_err(step::cache_error)?;
            }
            Ok(Some(Settled { layer, tree: record.tree, how: How::Cached }))
        })
        .await
    }

    async fn record(&self, keys: [Key; 2], layer: &LayerId, tree: &str, (below, took): (&str, Duration)) -> Result<(), Stopped> {
        let (machine, layer, tree) = (self.machine.clone(), layer.to_string(), tree.to_owned());
        let below = below.to_owned();
        self.blocking(move || {
            let record = Record::new(layer, tree, below, took);
            let passage = machine.snapshots.pass().map_err(step::cache_error)?;
            keys.iter().try_for_each(|key| machine.records.write(key, &record, &passage)).map_err(step::cache_error)
        })
        .await
    }

    async fn run_step(&'a self, number: usize, parent: Snapshot, inputs: Vec<Snapshot>) -> Result<Snapshot, Stopped> {
        let step = &self.plan.steps[number];
        let job = Job {
            machine: self.machine.clone(),
            operation: step.operation.clone(),
            keep: self.request.keeping.failed_steps.then(|| (self.request.package.clone(), step.name.clone())),
            namespace: self.namespace(),
            number: step.name.number,
            parent,
            inputs,
            context: self.inputs.context.clone(),
            options: self.request.steps.clone(),
            named: step.named_context().and_then(|name| self.inputs.named.get(name)).cloned(),
            events: self.events.clone(),
            cancel: self.cancel.clone(),
        };
        let mounts = step::lock_caches(&job).await.map_err(|error| self.stop(self.step_error(number, error)))?;
        let slot = tokio::select! {
            slot = self.machine.slots.clone().acquire_owned() => slot.expect("the slots are never closed"),
            () = self.cancel.cancelled() => return Err(Stopped),
        };
        self.send(BuildEvent::StepStarted { step: step.name.clone() }).await;
        let ran = self.tasks.spawn_blocking(move || {
            let result = step::run(&job, mounts);
            drop(slot);
            result
        });
        match ran.await {
            Ok(Ok(snapshot)) => Ok(snapshot),
            Ok(Err(error)) => Err(self.stop(self.step_error(number, error))),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(self.stop(BuildError::Cancelled)),
            },
        }
    }

    /// Returns whose cache mounts this build's are. BuildKit's argument for it wins, as it does there.
    fn namespace(&self) -> String {
        match self.request.args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(name) if !name.is_empty() => format!("argument:{name}"),
            _ => self.request.keeping.cache_namespace.clone(),
        }
    }

    /// Returns the files of `root`, settling, fetching and loading what that needs.
    fn snapshot(&'a self, root: Root) -> Settling<'a, Snapshot> {
        Box::pin(async move {
            match root {
                Root::Scratch => Ok(self.machine.snapshots.scratch()),
                Root::Image(image) => {
                    let progress = |done, total| self.fetched(done, total);
                    let snapshot = self.plan.images[image].snapshot(self.machine, &progress, &self.cancel).await;
                    snapshot.map_err(|error| self.stop(error))
                }
                Root::Remote(number) => self.remote(number).await,
                Root::Step(step) => {
                    self.settle(step).await?;
                    self.snapshots[step].get_or_init(|| self.load(step)).await.clone()
                }
            }
        })
    }

    async fn remote(&self, number: usize) -> Result<Snapshot, Stopped> {
        let machine = self.machine;
        machine.begins_to_write();
        let progress = |done, total| self.fetched(done, total);
        let resolved = (&*self.inputs.remotes[number], self.request.source_date);
        let snapshot = machine.remotes.snapshot(&machine.snapshots, resolved, (&progress, &self.cancel)).await;
        snapshot.map_err(|error| self.stop(super::remote_error(self.request, self.plan, number, error)))
    }

    async fn load(&'a self, number: usize) -> Result<Snapshot, Stopped> {
        let (base, steps) = self.plan.chain(Root::Step(number));
        let mut layers = match base {
            Some(image) => self.snapshot(Root::Image(image)).await?.layers.to_vec(),
            None => Vec::new(),
        };
        for step in steps {
            layers.push(self.settle(step).await?.layer);
        }
        let machine = self.machine.clone();
        self.blocking(move || match machine.snapshots.load(&layers)? {
            Some(snapshot) => Ok(snapshot),
            None => Err(step::cache_error(std::io::Error::other("a layer vanished while it was in use"))),
        })
        .await
    }

    /// Packs a layer of the result while later steps run.
    fn start_pack(&self, number: usize, layer: LayerId) {
        let (machine, date, cancel) = (self.machine.clone(), self.request.source_date, self.cancel.clone());
        let pack = self.tasks.spawn(async move {
            let slot = tokio::select! {
                slot = machine.packers.clone().acquire_owned() => slot.expect("the packers are never closed"),
                () = cancel.cancelled() => return Err(BuildError::Cancelled),
            };
            let (snapshots, store) = (machine.snapshots.clone(), machine.store.clone());
            let packed = tokio::task::spawn_blocking(move || snapshots.pack(&layer, date, &store)).await;
            drop(slot);
            match packed {
                Ok(result) => result.map_err(step::pack_error),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        });
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(pack);
    }

    async fn packed(&self, lineage: &[usize]) -> Result<Vec<PackedLayer>, Stopped> {
        let mut layers = Vec::with_capacity(lineage.len());
        for step in lineage {
            let pack = self.packs.lock().unwrap_or_else(PoisonError::into_inner)[*step].take();
            let pack = pack.expect("every step of the result is settled before its layers are asked for");
            match pack.await {
                Ok(Ok(layer)) => layers.push(layer),
                Ok(Err(error)) => return Err(self.stop(error)),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        Ok(layers)
    }

    fn step_error(&self, number: usize, error: StepError) -> BuildError {
        error.about(&self.plan.steps[number], self.request)
    }
}
