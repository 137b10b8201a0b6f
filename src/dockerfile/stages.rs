//! The graph of stages for one platform: which stages the target needs, what each starts from and copies from, and which
//! images have to be there.
//!
//! Names of stages are computed (`FROM build-${TARGETARCH}`), so the graph is known only for a platform and its arguments.
//! Stages that the target does not need are not looked into: their images may not exist for this platform.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::diagnostic::{Diagnostic, Diagnostics, Span, nearest};
use crate::oci::{Platform, Reference};

use super::expand::{Expanded, Mode, expand};
use super::instruction::{Command, Instruction};
use super::mount::Mount;
use super::scope::Globals;
use super::{Dockerfile, From};

/// What the graph depends on besides the Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StageOptions {
    /// The platform to build for.
    pub platform: Platform,
    /// The platform that builds: `BUILDPLATFORM`.
    pub build_platform: Platform,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// The stage to build; `None` for the last.
    pub target: Option<String>,
    /// Named contexts: they stand in for stages and images of their name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// The `ONBUILD` triggers of base images, as far as known. They can ask for further stages and images: resolve, read the
    /// images, and resolve again while new triggers are found.
    pub triggers: BTreeMap<ImageUse, Vec<String>>,
}

impl StageOptions {
    /// Returns the options to build the last stage for `platform` on the same platform, without arguments.
    pub fn new(platform: Platform) -> Self {
        Self {
            build_platform: platform.clone(),
            platform,
            args: BTreeMap::new(),
            target: None,
            contexts: BTreeMap::new(),
            triggers: BTreeMap::new(),
        }
    }
}

/// What a named context is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NamedContext {
    /// An image, by its reference.
    Image(String),
    /// Files that the caller knows by the context's name.
    Files,
}

/// An image that a build needs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ImageUse {
    /// The reference as written, after expansion.
    pub reference: String,
    /// For which platform.
    pub platform: Platform,
}

/// Where files come from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Input {
    /// Nothing.
    Scratch,
    /// A stage, by its place in [`Stages::stages`].
    Stage(usize),
    /// An image.
    Image(ImageUse),
    /// A named context that is no image, by its name.
    Context(String),
}

/// An instruction of a stage with where it takes files from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The instruction, unexpanded.
    pub instruction: Instruction,
    /// For `COPY`: what `--from` means. For `RUN`: what `from` of each mount means, in order. `None` is the build context,
    /// or nothing for a kind of mount that has no files.
    pub inputs: Vec<Option<Input>>,
    /// Whether it comes from an `ONBUILD` of what the stage starts from.
    pub triggered: bool,
}

/// A stage that the target needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// Its number in the Dockerfile, from 0.
    pub number: usize,
    /// Its name in lower case, or `stage-<number>`.
    pub title: String,
    /// What it starts from.
    pub base: Input,
    /// The platform its steps run on.
    pub platform: Platform,
    /// The `FROM` that opens it.
    pub from: From,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// The stages that the target needs, each after those it needs; the target is the last.
#[derive(Clone, Debug)]
pub struct Stages {
    /// The stages.
    pub stages: Vec<Stage>,
    /// The images they need, and where each is first asked for.
    pub images: BTreeMap<ImageUse, Span>,
    /// The arguments that [`super::Scope::declare`] needs.
    pub globals: Globals,
    /// What is worth saying and stops nothing.
    pub warnings: Diagnostics,
}

impl Stages {
    /// Resolves the graph.
    ///
    /// # Errors
    /// All mistakes that the reachable stages hold for this platform, each with its line.
    pub fn resolve(dockerfile: &Dockerfile, options: &StageOptions) -> Result<Self, Diagnostics> {
        let mut mistakes = Vec::new();
        let resolver = Resolver::new(dockerfile, options, &mut mistakes);
        let target = resolver.target(&mut mistakes);
        let (true, Some(target)) = (mistakes.is_empty(), target) else { return Err(Diagnostics(mistakes)) };
        let stages = resolver.reachable(target, &mut mistakes);
        if !mistakes.is_empty() {
            mistakes.sort_by_key(|mistake| mistake.span);
            return Err(Diagnostics(mistakes));
        }
        let mut images = BTreeMap::new();
        for stage in &stages {
            let steps =
                stage.steps.iter().flat_map(|step| step.inputs.iter().flatten().map(|input| (step.instruction.span, input)));
            for (span, input) in std::iter::once((stage.from.span, &stage.base)).chain(steps) {
                if let Input::Image(image) = input {
                    images.entry(image.clone()).or_insert(span);
                }
            }
        }
        let warnings = Diagnostics(stages.iter().filter_map(|stage| resolver.missing_stage(stage)).collect());
        Ok(Self { stages, images, globals: resolver.globals, warnings })
    }

    /// Returns the stage to build.
    pub fn target(&self) -> &Stage {
        self.stages.last().expect("the target itself is among the stages")
    }
}

/// Returns the images that a Dockerfile needs on any of `platforms`, each with the place that first asks for it.
///
/// # Errors
/// All mistakes of the Dockerfile, or all that its stages hold for these platforms.
pub fn images(
    path: &Path,
    text: &[u8],
    options: &StageOptions,
    platforms: &[Platform],
) -> Result<BTreeMap<ImageUse, Span>, Diagnostics> {
    let dockerfile = Dockerfile::parse(path, text)?;
    let mut images = BTreeMap::new();
    let mut mistakes = Diagnostics::default();
    for platform in platforms {
        match Stages::resolve(&dockerfile, &StageOptions { platform: platform.clone(), ..options.clone() }) {
            Ok(stages) => images.extend(stages.images),
            // A mistake that does not depend on the platform is told once.
            Err(found) => mistakes.0.extend(found.0.into_iter().filter(|new| !mistakes.0.contains(new)).collect::<Vec<_>>()),
        }
    }
    if mistakes.0.is_empty() { Ok(images) } else { Err(mistakes) }
}

/// A stage whose `FROM` is expanded; other stages by their number in the Dockerfile.
struct Node {
    base: Input,
    /// The platform of its steps: of the stage it starts from; else its own, which `FROM scratch` does not have.
    platform: Platform,
    /// Stands in for a named context: the instructions do not count.
    replaced: bool,
}

struct Resolver<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a StageOptions,
    globals: Globals,
    nodes: Vec<Node>,
    /// Numbers of stages by name in lower case; of two with one name the later.
    names: BTreeMap<String, usize>,
}

impl<'a> Resolver<'a> {
    fn new(dockerfile: &'a Dockerfile, options: &'a StageOptions, mistakes: &mut Vec<Diagnostic>) -> Self {
        let last = dockerfile.stages.last().and_then(|stage| stage.from.name.as_deref()).unwrap_or_default();
        let target = options.target.clone().unwrap_or_else(|| last.to_lowercase());
        let mut globals = Globals::new(&options.args, &options.build_platform, &options.platform, &target);
        for instruction in &dockerfile.arguments {
            let Command::Arg(arguments) = &instruction.command else { continue };
            for argument in arguments {
                if let Err(error) = globals.declare(argument, dockerfile.directives.escape) {
                    mistakes.push(dockerfile.error(instruction.span, format!("ARG {}: {error}", argument.name)));
                }
            }
        }
        let mut resolver = Self { dockerfile, options, globals, nodes: Vec::new(), names: BTreeMap::new() };
        for stage in &dockerfile.stages {
            let node = resolver.node(&stage.from).unwrap_or_else(|mistake| {
                mistakes.push(*mistake);
                Node { base: Input::Scratch, platform: options.platform.clone(), replaced: true }
            });
            if let Some(name) = &stage.from.name {
                resolver.names.insert(name.to_lowercase(), resolver.nodes.len());
            }
            resolver.nodes.push(node);
        }
        resolver
    }

    /// Expands a `FROM`, of which only the arguments before the first one are visible.
    fn node(&self, from: &From) -> Result<Node, Box<Diagnostic>> {
        let platform = match &from.platform {
            None => None,
            Some(text) => {
                let expanded = self.expanded(from, text)?;
                let platform = expanded.text.parse::<Platform>();
                Some(platform.map_err(|error| self.unmatched(from, format!("--platform={text}: {error}"), &expanded))?)
            }
        };
        if let Some(name) = &from.name
            && let Some(base) = self.context(&name.to_lowercase(), platform.as_ref())
        {
            return Ok(Node { base, platform: platform.unwrap_or_else(|| self.options.platform.clone()), replaced: true });
        }
        let expanded = self.expanded(from, &from.base)?;
        let name = expanded.text.to_lowercase();
        let base = match self.names.get(&name) {
            Some(stage) => Input::Stage(*stage),
            None if expanded.text.is_empty() => {
                return Err(Box::new(self.unmatched(from, format!("`{}` is empty after expansion", from.base), &expanded)));
            }
            None => self.outside(&expanded.text, platform.as_ref()),
        };
        let platform = match &base {
            Input::Stage(base) => self.nodes[*base].platform.clone(),
            Input::Scratch => self.options.platform.clone(),
            Input::Image(_) | Input::Context(_) => platform.unwrap_or_else(|| self.options.platform.clone()),
        };
        Ok(Node { base, platform, replaced: false })
    }

    fn expanded(&self, from: &From, text: &str) -> Result<Expanded, Box<Diagnostic>> {
        expand(text, self.dockerfile.directives.escape, &|name| self.globals.get(name), Mode::WORD)
            .map_err(|error| Box::new(self.dockerfile.error(from.span, format!("`{text}` cannot be expanded: {error}"))))
    }

    /// An error about a `FROM`, with help about the arguments in it that have no value.
    fn unmatched(&self, from: &From, message: String, expanded: &Expanded) -> Diagnostic {
        let diagnostic = self.dockerfile.error(from.span, message);
        let Some(name) = expanded.unmatched.first() else { return diagnostic };
        match nearest(name, self.globals.names().filter(|known| known != name)) {
            Some(near) => diagnostic.help(format!("`{name}` has no value here: did you mean `{near}`?")),
            None => diagnostic.help(format!("`{name}` has no value here: give it one by an ARG before the first FROM")),
        }
    }

    /// What a name means that no stage has.
    fn outside(&self, name: &str, platform: Option<&Platform>) -> Input {
        if name == "scratch" {
            return Input::Scratch;
        }
        let platform = platform.unwrap_or(&self.options.platform);
        self.context(name, Some(platform))
            .unwrap_or_else(|| Input::Image(ImageUse { reference: name.to_owned(), platform: platform.clone() }))
    }

    /// What a named context stands in for `name` with; `alpine` and `docker.io/library/alpine:latest` are one name.
    fn context(&self, name: &str, platform: Option<&Platform>) -> Option<Input> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        let wanted = context_name(name);
        let (key, context) = self.options.contexts.iter().find(|(key, _)| context_name(key) == wanted)?;
        Some(match context {
            NamedContext::Files => Input::Context(key.clone()),
            NamedContext::Image(reference) => {
                let platform = platform.unwrap_or(&self.options.platform).clone();
                Input::Image(ImageUse { reference: reference.clone(), platform })
            }
        })
    }

    fn target(&self, mistakes: &mut Vec<Diagnostic>) -> Option<usize> {
        let Some(name) = &self.options.target else { return self.nodes.len().checked_sub(1) };
        let found = self.names.get(&name.to_lowercase()).copied();
        if found.is_none() {
            let diagnostic = Diagnostic::error(&self.dockerfile.path, format!("there is no stage `{name}` to build"));
            let near = nearest(name, self.names.keys().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
            mistakes.push(Diagnostic { help: near, ..diagnostic });
        }
        found
    }

    /// Returns the target and all it needs, in the order of the Dockerfile: a stage only needs earlier ones.
    fn reachable(&self, target: usize, mistakes: &mut Vec<Diagnostic>) -> Vec<Stage> {
        let mut found: BTreeMap<usize, Stage> = BTreeMap::new();
        let mut wanted = BTreeSet::from([target]);
        while let Some(number) = wanted.pop_last() {
            if found.contains_key(&number) {
                continue;
            }
            let stage = self.stage(number, mistakes);
            let inputs = stage.steps.iter().flat_map(|step| step.inputs.iter().flatten());
            for input in std::iter::once(&stage.base).chain(inputs) {
                if let Input::Stage(needed) = input {
                    wanted.insert(*needed);
                }
            }
            found.insert(number, stage);
        }
        let places: BTreeMap<usize, usize> = found.keys().enumerate().map(|(place, number)| (*number, place)).collect();
        let renumber = |input: &mut Input| {
            if let Input::Stage(number) = input {
                *number = places[number];
            }
        };
        let mut stages: Vec<Stage> = found.into_values().collect();
        for stage in &mut stages {
            renumber(&mut stage.base);
            stage.steps.iter_mut().flat_map(|step| step.inputs.iter_mut().flatten()).for_each(renumber);
        }
        stages
    }

    fn stage(&self, number: usize, mistakes: &mut Vec<Diagnostic>) -> Stage {
        let source = &self.dockerfile.stages[number];
        let node = &self.nodes[number];
        if let Input::Image(image) = &node.base {
            self.check_reference(source.from.span, &image.reference, mistakes);
        }
        let mut steps = Vec::new();
        if !node.replaced {
            for instruction in self.triggers(number, mistakes) {
                let inputs = self.inputs(number, &instruction, mistakes);
                steps.push(Step { instruction, inputs, triggered: true });
            }
            for instruction in &source.instructions {
                let inputs = self.inputs(number, instruction, mistakes);
                steps.push(Step { instruction: instruction.clone(), inputs, triggered: false });
            }
        }
        let title = source.from.name.as_ref().map_or_else(|| format!("stage-{number}"), |name| name.to_lowercase());
        Stage { number, title, base: node.base.clone(), platform: node.platform.clone(), from: source.from.clone(), steps }
    }

    /// The triggers that run right after a stage's `FROM`.
    fn triggers(&self, number: usize, mistakes: &mut Vec<Diagnostic>) -> Vec<Instruction> {
        let span = self.dockerfile.stages[number].from.span;
        let expressions = match &self.nodes[number].base {
            Input::Stage(base) => {
                let instructions = self.dockerfile.stages[*base].instructions.iter();
                let trigger = |instruction: &Instruction| match &instruction.command {
                    Command::Onbuild(trigger) => Some(Instruction { span, ..(*trigger.instruction).clone() }),
                    _ => None,
                };
                return if self.nodes[*base].replaced { Vec::new() } else { instructions.filter_map(trigger).collect() };
            }
            Input::Image(image) => self.options.triggers.get(image),
            Input::Scratch | Input::Context(_) => None,
        };
        let mut triggers = Vec::new();
        for expression in expressions.into_iter().flatten() {
            match self.dockerfile.parse_instruction(expression, span) {
                Ok(instruction) => triggers.push(instruction),
                Err(found) => mistakes.extend(found.0),
            }
        }
        triggers
    }

    fn inputs(&self, stage: usize, instruction: &Instruction, mistakes: &mut Vec<Diagnostic>) -> Vec<Option<Input>> {
        let span = instruction.span;
        match &instruction.command {
            Command::Copy(copy) => {
                let from = copy.from.iter();
                from.map(|from| {
                    let found = from.parse::<usize>().ok().or_else(|| self.names.get(&from.to_lowercase()).copied());
                    self.input(stage, span, from, found, mistakes)
                })
                .collect()
            }
            Command::Run(run) => {
                let mut inputs = Vec::new();
                for mount in &run.mounts {
                    if !mount.text.contains('$')
                        && let Err(error) = Mount::parse(mount, self.dockerfile.directives.escape, &|_| None)
                    {
                        mistakes.push(self.dockerfile.error(span, error.to_string()));
                    }
                    // Unlike in COPY a number is no stage here but an image of that name.
                    inputs.push(
                        mount.from.as_ref().and_then(|from| {
                            self.input(stage, span, from, self.names.get(&from.to_lowercase()).copied(), mistakes)
                        }),
                    );
                }
                inputs
            }
            _ => Vec::new(),
        }
    }

    /// What `from` means inside of a stage, given the stage it names, if any.
    fn input(&self, stage: usize, span: Span, from: &str, found: Option<usize>, mistakes: &mut Vec<Diagnostic>) -> Option<Input> {
        match found {
            Some(number) if number < stage => return Some(Input::Stage(number)),
            Some(number) if number == stage => {
                mistakes.push(self.dockerfile.error(span, format!("`from={from}` is the stage itself")));
            }
            Some(number) if number < self.nodes.len() => {
                let line = self.dockerfile.stages[number].from.span.line;
                let message = format!("`from={from}` is a stage that begins only later, in line {line}");
                mistakes.push(self.dockerfile.error(span, message).help("move that stage before this one"));
            }
            Some(_) => {
                let message = format!("there is no stage {from}: the Dockerfile has {}, counted from 0", self.nodes.len());
                mistakes.push(self.dockerfile.error(span, message));
            }
            None => {
                let input = self.outside(from, None);
                if let Input::Image(image) = &input {
                    self.check_reference(span, &image.reference, mistakes);
                }
                return Some(input);
            }
        }
        None
    }

    /// A computed name that no stage has is an image by the rules, and hardly ever meant as one: often the Dockerfile has no
    /// stage for this platform.
    fn missing_stage(&self, stage: &Stage) -> Option<Diagnostic> {
        let Input::Image(image) = &stage.base else { return None };
        let name = &image.reference;
        if !stage.from.base.contains('$') || name.contains(['/', ':', '@']) || self.names.is_empty() {
            return None;
        }
        let message = format!("no stage is called `{name}`, so it is taken for an image");
        let help = nearest(name, self.names.keys().map(String::as_str)).map(|near| format!("there is a stage `{near}`"));
        Some(Diagnostic { help, ..self.dockerfile.warning(stage.from.span, message) })
    }

    fn check_reference(&self, span: Span, text: &str, mistakes: &mut Vec<Diagnostic>) {
        if let Err(error) = text.parse::<Reference>() {
            let near = nearest(text, self.names.keys().map(String::as_str));
            let help = near.map(|near| format!("did you mean the stage `{near}`?"));
            mistakes.push(Diagnostic { help, ..self.dockerfile.error(span, error.to_string()) });
        }
    }
}

/// The form in which names of contexts are compared.
fn context_name(name: &str) -> String {
    let familiar = name.parse::<Reference>().map_or_else(|_| name.to_owned(), |reference| reference.familiar());
    familiar.strip_suffix(":latest").map_or_else(|| familiar.clone(), str::to_owned)
}
