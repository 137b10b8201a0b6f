//! What steps read, as keys: definitions of everything before the walk, content when a step's inputs are there.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::builder::embedded::Machine;
use crate::builder::embedded::context::ContextTree;
use crate::builder::embedded::copy::ParentsSource;
use crate::builder::embedded::remote::Resolved;
use crate::builder::embedded::snapshot::Snapshot;
use crate::builder::embedded::snapshot::gate::Passage;
use crate::builder::embedded::tree::{LayerId, LoopError, Tree};

use crate::dockerfile::Ignore;

use super::key::{Fields, Key};
use super::op::{CopyFrom, CopyWhat, Initial, MountKind, Operation};
use super::plan::{Plan, Root, Step};
use super::record::Record;
use super::select::{selected, selected_with_parents};

/// What all steps of a build may read.
pub(super) struct Inputs {
    /// The build context, when any step reads it.
    pub(super) context: Option<Arc<ContextTree>>,
    /// What the plan's remote sources are in this run.
    pub(super) remotes: Vec<Arc<Resolved>>,
    /// Named contexts that any step reads.
    pub(super) named: BTreeMap<String, Arc<ContextTree>>,
}

/// What is known of all steps before the walk.
pub(super) struct Keys {
    /// The definition key of each step.
    pub(super) definitions: Vec<Key>,
    /// What is recorded under it, if its layer is still there.
    pub(super) records: Vec<Option<(LayerId, Record)>>,
}

impl Keys {
    /// Computes the definition keys, and reads what is recorded under them when `read`.
    ///
    /// # Errors
    /// When a pattern leads in circles, or the cache cannot be read.
    pub(super) fn prepare(machine: &Machine, plan: &Plan, inputs: &Inputs, read: bool) -> Result<Self, KeyError> {
        let mut definitions: Vec<Key> = Vec::with_capacity(plan.steps.len());
        // What stands on a step that runs anew is looked for by its content, once that is known.
        let mut fresh: Vec<bool> = Vec::with_capacity(plan.steps.len());
        let mut roots: Vec<Key> = Vec::with_capacity(plan.steps.len());
        let mut records = Vec::with_capacity(plan.steps.len());
        let passage = machine.snapshots.pass()?;
        for (step, definition) in plan.steps.iter().enumerate() {
            let key = inputs.definition_key(plan, definition, &roots).map_err(|source| KeyError::Pattern { step, source })?;
            definitions.push(key);
            let on_fresh = |root: &Root| matches!(root, Root::Step(step) if fresh[*step]);
            let is_fresh = definition.uncached || on_fresh(&definition.parent) || definition.inputs.iter().any(on_fresh);
            fresh.push(is_fresh);
            roots.push(if definition.linked {
                let parent = inputs.root_key(plan, definition.parent, &roots);
                Fields::new("pkgbuild.link.v1").field("parent", parent.as_bytes()).field("layer", key.as_bytes()).finish()
            } else {
                key
            });
            records.push(if read && !fresh[step] { usable(machine, &key, &passage)? } else { None });
        }
        Ok(Self { definitions, records })
    }
}

/// Why keys cannot be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// A source path leads in circles.
    #[error("the files of step {step} cannot be told")]
    Pattern {
        /// The step's index.
        step: usize,
        /// The path.
        #[source]
        source: LoopError,
    },
    /// The step cache cannot be read.
    #[error(transparent)]
    Cache(#[from] io::Error),
}

/// Returns the record of `key` with its layer, if both are there: they are in use then.
///
/// # Errors
/// When it cannot be told.
pub(super) fn usable(machine: &Machine, key: &Key, passage: &Passage) -> io::Result<Option<(LayerId, Record)>> {
    let Some(record) = machine.records.read(key)? else { return Ok(None) };
    let Ok(layer) = record.layer.parse::<LayerId>() else { return Ok(None) };
    if !machine.snapshots.take(&layer, passage)? {
        return Ok(None);
    }
    machine.records.mark(key, passage)?;
    Ok(Some((layer, record)))
}

impl Inputs {
    /// Returns the key of the files of `root` by how they come about; `known` are those of earlier steps.
    fn root_key(&self, plan: &Plan, root: Root, known: &[Key]) -> Key {
        match root {
            Root::Scratch => Fields::new("pkgbuild.scratch.v1").finish(),
            Root::Image(image) => {
                Fields::new("pkgbuild.image.v1").field("manifest", plan.images[image].digest().to_string()).finish()
            }
            Root::Step(step) => known[step],
            Root::Remote(number) => {
                Fields::new("pkgbuild.remote.v1").field("content", self.remotes[number].key().as_bytes()).finish()
            }
        }
    }

    fn definition_key(&self, plan: &Plan, step: &Step, known: &[Key]) -> Result<Key, LoopError> {
        let definition = |root: Root| self.root_key(plan, root, known);
        let fields = step.operation.fields("definition").field("parent", definition(step.works_on()).as_bytes());
        self.sources(step, fields, &|number, fields, source| {
            let fields = fields.field("input", definition(step.inputs[number]).as_bytes());
            Ok(match source {
                Source::Patterns(patterns, exclude) => fields.list("patterns", patterns).list("exclude", exclude.patterns()),
                Source::Parents(sources, exclude) => {
                    fields.list("parents", sources.iter().map(ParentsSource::text)).list("exclude", exclude.patterns())
                }
                Source::Mounted(path) => fields.field("path", path),
            })
        })
    }

    /// Returns the content key of a step whose inputs are there.
    ///
    /// # Errors
    /// When a path leads in circles.
    pub(super) fn content_key(&self, step: &Step, parent: &Snapshot, inputs: &[Snapshot]) -> Result<Key, LoopError> {
        let fields = step.operation.fields("content").field("parent", parent.tree.id().0.as_bytes());
        self.sources(step, fields, &|number, fields, source| read(&inputs[number].tree, fields, source))
    }

    /// Adds what the operation reads besides its parent; `input` adds what is read of a numbered input.
    fn sources(
        &self,
        step: &Step,
        fields: Fields,
        input: &dyn Fn(usize, Fields, Source<'_>) -> Result<Fields, LoopError>,
    ) -> Result<Key, LoopError> {
        let add = |fields, from, source| match from {
            CopyFrom::Input(number) => input(number, fields, source),
            // What the context holds is known before the walk, so both kinds of keys read it alike.
            CopyFrom::Context => match &self.context {
                Some(context) => read(context.tree(), fields, source),
                None => Ok(fields),
            },
        };
        let fields = match &step.operation {
            Operation::Copy(copy) => copy.parts.iter().try_fold(fields, |fields, part| match &part.what {
                CopyWhat::Patterns { from, patterns } => add(fields, *from, Source::Patterns(patterns, &copy.exclude)),
                CopyWhat::Parents { from, sources } => add(fields, *from, Source::Parents(sources, &copy.exclude)),
                CopyWhat::Named(name) => match self.named.get(name) {
                    Some(context) => read(context.tree(), fields, Source::Mounted("")),
                    None => Ok(fields),
                },
                CopyWhat::Inline(_) => Ok(fields),
            })?,
            Operation::MakeDirectory(_) => fields,
            Operation::Run(run) => run.mounts.iter().try_fold(fields, |fields, mount| match &mount.what {
                MountKind::Bind { from, source, .. } | MountKind::Cache { initial: Some(Initial { from, source, .. }), .. } => {
                    add(fields, *from, Source::Mounted(source))
                }
                _ => Ok(fields),
            })?,
        };
        Ok(fields.finish())
    }
}

/// What an operation reads of a source.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// What a copy's patterns match, less what is left out.
    Patterns(&'a [String], &'a Ignore),
    /// What a copy with parents takes, less what is left out.
    Parents(&'a [ParentsSource], &'a Ignore),
    /// A path and all below it.
    Mounted(&'a str),
}

fn read(tree: &Tree, fields: Fields, source: Source<'_>) -> Result<Fields, LoopError> {
    match source {
        Source::Patterns(patterns, exclude) => Ok(fields.list("files", selected(tree, patterns, exclude)?)),
        Source::Parents(sources, exclude) => Ok(fields.list("files", selected_with_parents(tree, sources, exclude)?)),
        Source::Mounted(path) => {
            let real = tree.resolve(path.as_bytes())?;
            Ok(fields.optional("tree", tree.hash_of(&real).map(|id| *id.0.as_bytes())))
        }
    }
}
