//! From the stage graph to steps: every instruction expanded with the variables in force, checked, and turned into what it
//! does. Nothing is read but Dockerfile and image configs, and what this builder does not have is refused here, by name and
//! with its line, before anything runs.

mod run;
mod transfer;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::builder::embedded::base::BaseImage;
use crate::builder::embedded::image::{ImageState, join_directory, makes_layer};
use crate::builder::embedded::remote::{RemoteSource, without_user};
use crate::builder::embedded::sandbox::StepNetwork;
use crate::builder::{BuildRequest, StepName};
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::dockerfile::expand::{Mode, expand_word};
use crate::dockerfile::instruction::{Copy, Transfer};
use crate::dockerfile::stages::{self, ImageUse, Input, Stage, Stages};
use crate::dockerfile::{Command, Dockerfile, From, Ignore, Scope};
use crate::oci::Platform;

use super::op::{CopyOperation, CopyPart, CopyWhat, MakeDirectoryOperation, Operation};
use super::plan::{Plan, Root, Step};

/// How many layers an image may have: overlay mounts of engines take no more.
const LAYERS_LIMIT: usize = 127;

/// Arguments that every package is given, whether its Dockerfile wants them or not.
pub(super) const PRESETS: [&str; 5] = ["GOPKGVERSION", "PKG_HASH", "PKG_IMAGE", "REVISION", "SOURCE"];

/// Base images by what the Dockerfile calls them.
pub(super) type Images = BTreeMap<ImageUse, Arc<BaseImage>>;

/// Turns the stages into a plan. `outside` is how steps reach other machines here.
///
/// # Errors
/// All mistakes, each with its line.
pub(super) fn lower(
    request: &BuildRequest,
    dockerfile: &Dockerfile,
    stages: &Stages,
    images: &Images,
    outside: StepNetwork,
) -> Result<Plan, Diagnostics> {
    let mut lowering = Lowering {
        request,
        outside,
        dockerfile,
        stages,
        image_numbers: images.keys().enumerate().map(|(number, image)| (image, number)).collect(),
        images,
        contexts: BTreeMap::new(),
        done: Vec::new(),
        steps: Vec::new(),
        remotes: Vec::new(),
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    lowering.named_contexts();
    for stage in &stages.stages {
        let state = lowering.stage(stage);
        lowering.done.push(state);
    }
    let Lowering { done, mut steps, remotes, mut mistakes, warnings, .. } = lowering;
    let target = done.into_iter().next_back().expect("the target itself is among the stages");
    let layers = target.image.layer_count();
    if layers > LAYERS_LIMIT {
        let message = format!("the image would have {layers} layers, and engines mount at most {LAYERS_LIMIT}");
        mistakes.push(dockerfile.error(stages.target().from.span, message).help("join RUN or COPY instructions into fewer"));
    }
    if !mistakes.is_empty() {
        mistakes.sort_by_key(|mistake| mistake.span);
        return Err(Diagnostics(mistakes));
    }
    let of = steps.len();
    for (index, step) in steps.iter_mut().enumerate() {
        (step.name.number, step.name.of) = (index + 1, of);
    }
    let mut warnings: Vec<String> = warnings;
    for stage in &request.variation.uncached_stages {
        let is_called = |from: &From| from.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(stage));
        if !dockerfile.stages.iter().any(|source| is_called(&source.from)) {
            warnings.push(format!("no stage is called `{stage}`, so none of its steps runs again"));
        }
    }
    let unused: Vec<String> = dockerfile
        .unused_arguments(request.args.keys().map(String::as_str).filter(|name| !PRESETS.contains(name)))
        .into_iter()
        .map(|name| format!("`{name}`"))
        .collect();
    if !unused.is_empty() {
        warnings.push(format!(
            "no ARG declares the build argument{} {}",
            if unused.len() == 1 { "" } else { "s" },
            unused.join(", ")
        ));
    }
    let images = images.values().cloned().collect();
    Ok(Plan { steps, images, remotes, result: target.root, image: target.image, warnings })
}

struct Lowering<'a> {
    request: &'a BuildRequest,
    outside: StepNetwork,
    dockerfile: &'a Dockerfile,
    stages: &'a Stages,
    images: &'a Images,
    image_numbers: BTreeMap<&'a ImageUse, usize>,
    /// The steps that bring the files of named contexts.
    contexts: BTreeMap<&'a str, usize>,
    done: Vec<StageState>,
    steps: Vec<Step>,
    remotes: Vec<RemoteSource>,
    mistakes: Vec<Diagnostic>,
    warnings: Vec<String>,
}

/// A stage as far as its instructions have been walked.
struct StageState {
    image: ImageState,
    scope: Scope,
    root: Root,
}

/// Why an instruction cannot become a step: a message, and what would be right.
type Refusal = (String, Option<String>);

fn refuse<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err((message.into(), None))
}

fn refuse_with<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Refusal> {
    Err((message.into(), Some(help.into())))
}

fn told(error: &dyn std::error::Error) -> Refusal {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        message.push_str(": ");
        message.push_str(&error.to_string());
        source = error.source();
    }
    (message, None)
}

impl<'a> Lowering<'a> {
    /// Makes a step of each named context that is needed: one that brings its files.
    fn named_contexts(&mut self) {
        let stages = self.stages;
        for stage in &stages.stages {
            let read =
                stage.steps.iter().flat_map(|step| step.inputs.iter().flatten().map(|input| (step.instruction.span, input)));
            for (span, input) in std::iter::once((stage.from.span, &stage.base)).chain(read) {
                if let Input::Context(name) = input {
                    self.named_context(name, span);
                }
            }
        }
    }

    fn named_context(&mut self, name: &'a str, span: Span) {
        if self.contexts.contains_key(name) {
            return;
        }
        self.contexts.insert(name, self.steps.len());
        let what = CopyWhat::Named(name.to_owned());
        let operation = CopyOperation {
            parts: vec![CopyPart { what, unpack: false }],
            exclude: Ignore::default(),
            destination: "/".to_owned(),
            owner: None,
            mode: None,
            date: self.request.source_date,
        };
        let text = format!("context {name}");
        self.steps.push(Step {
            name: StepName { number: 0, of: 0, stage: name.to_owned(), text, span },
            lines: self.dockerfile.lines(span),
            parent: Root::Scratch,
            uncached: false,
            linked: false,
            inputs: Vec::new(),
            operation: Operation::Copy(operation),
        });
    }
}

impl Lowering<'_> {
    fn stage(&mut self, stage: &Stage) -> StageState {
        let date = self.request.source_date;
        let mut state = match &stage.base {
            Input::Stage(base) => {
                let base = &self.done[*base];
                let image = base.image.child();
                let scope = base.scope.inherited(image.env());
                StageState { image, scope, root: base.root }
            }
            Input::Image(name) => {
                let image = ImageState::from_base(self.images[name].config.clone(), date);
                StageState { scope: Scope::new(image.env()), image, root: Root::Image(self.image_numbers[name]) }
            }
            Input::Scratch => {
                let image = ImageState::scratch(stage.platform.clone(), date);
                StageState { scope: Scope::new(image.env()), image, root: Root::Scratch }
            }
            Input::Context(name) => {
                let mut image = ImageState::scratch(stage.platform.clone(), date);
                // The files are a layer, and each layer has its line.
                let transfer = Transfer { sources: vec![".".to_owned()], destination: "/".to_owned(), ..Transfer::default() };
                let copy = Copy { transfer, from: Some(name.clone()), ..Copy::default() };
                image.apply(&Command::Copy(copy), &[]);
                StageState { scope: Scope::new(image.env()), image, root: Root::Step(self.contexts[&**name]) }
            }
        };
        if stage.platform.os == "windows" {
            let message = format!("`{}` is no platform that this builder builds for", stage.platform);
            self.mistakes.push(self.dockerfile.error(stage.from.span, message).help("images of Windows need Windows"));
        }
        for step in &stage.steps {
            if let Err((message, help)) = self.instruction(stage, step, &mut state) {
                let diagnostic = self.dockerfile.error(step.instruction.span, message);
                self.mistakes.push(Diagnostic { help, ..diagnostic });
            }
        }
        state
    }

    fn instruction(&mut self, stage: &Stage, step: &stages::Step, state: &mut StageState) -> Result<(), Refusal> {
        let escape = self.dockerfile.directives.escape;
        let written = &step.instruction;
        let command = {
            let scope = &state.scope;
            written.command.expand(escape, &|name| scope.get(name)).map_err(|error| told(&error))?
        };
        let operation = match &command {
            Command::Copy(copy) => Some(self.copy(copy, step, state)?),
            Command::Add(add) => Some(self.add(add, state)?),
            Command::Run(run) => Some(self.run(run, step, (stage, state))?),
            Command::Workdir(path) => {
                let path = join_directory(state.image.working_directory(), path);
                let owner = state.image.user().to_owned();
                let operation = MakeDirectoryOperation { path, owner, date: self.request.source_date };
                makes_layer(&command, &operation.path).then_some((Operation::MakeDirectory(operation), Vec::new()))
            }
            Command::Arg(arguments) => {
                for argument in arguments {
                    let declared = state.scope.declare(argument, &self.stages.globals, escape);
                    declared.map_err(|error| told(&error))?;
                }
                None
            }
            Command::Env(pairs) => {
                // Shown with the variables from before, so only now.
                pairs.iter().for_each(|pair| state.scope.set(&pair.key, &pair.value));
                None
            }
            _ => None,
        };
        if let Some((operation, inputs)) = operation {
            let scope = &state.scope;
            let text = expand_word(&written.text, escape, &|name| scope.get(name), Mode::SHOWN);
            self.steps.push(Step {
                name: StepName {
                    number: 0,
                    of: 0,
                    stage: stage.title.clone(),
                    text: without_user(&text.unwrap_or_else(|_| written.text.clone())),
                    span: written.span,
                },
                lines: self.dockerfile.lines(written.span).iter().map(|line| without_user(line)).collect(),
                parent: state.root,
                uncached: self.request.variation.is_uncached(&stage.title),
                linked: is_linked(&command),
                inputs,
                operation,
            });
            state.root = Root::Step(self.steps.len() - 1);
        }
        state.image.apply(&transfer::shown(command), &state.scope.arguments());
        Ok(())
    }

    fn root(&self, input: &Input) -> Root {
        match input {
            Input::Stage(stage) => self.done[*stage].root,
            Input::Image(image) => Root::Image(self.image_numbers[image]),
            Input::Context(name) => Root::Step(self.contexts[&**name]),
            Input::Scratch => Root::Scratch,
        }
    }
}

/// Returns whether an instruction makes a layer of its own that is put on whatever is below. As in BuildKit, `--chmod` takes
/// that back.
fn is_linked(command: &Command) -> bool {
    let transfer = match command {
        Command::Copy(copy) => &copy.transfer,
        Command::Add(add) => &add.transfer,
        _ => return false,
    };
    transfer.link && transfer.chmod.is_none()
}

/// Returns the platform that builds, which is where this program runs.
pub(super) fn build_platform() -> Platform {
    Platform::host()
}
