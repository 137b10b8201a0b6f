//! From the stage graph to steps: every instruction expanded with the variables in force, checked, and turned into what it
//! does. Nothing is read but Dockerfile and image configs, and what this builder does not have is refused here, by name and
//! with its line, before anything runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::builder::embedded::base::BaseImage;
use crate::builder::embedded::copy::ModeChange;
use crate::builder::embedded::image::{ImageState, join_directory, makes_layer};
use crate::builder::embedded::sandbox::{Access, StepNetwork};
use crate::builder::{BuildRequest, Network, StepName};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::dockerfile::expand::{Mode, expand_word};
use crate::dockerfile::instruction::{Add, Copy, Run, RunBody, RunNetwork, RunSecurity, SCRIPT_DIRECTORY, Transfer};
use crate::dockerfile::mount::{self, Mount, Sharing};
use crate::dockerfile::scope::is_proxy;
use crate::dockerfile::stages::{self, ImageUse, Input, Stage, Stages};
use crate::dockerfile::{Command, Dockerfile, Scope};
use crate::oci::Platform;

use super::op::{
    CacheSharing, CopyFrom, CopyOperation, MakeDirectoryOperation, MountKind, MountOperation, Operation, RunOperation,
};
use super::plan::{Plan, Root, Step};

/// How many layers an image may have: overlay mounts of engines take no more.
const LAYERS_LIMIT: usize = 127;

/// Arguments that every package is given, whether its Dockerfile wants them or not.
const PRESETS: [&str; 5] = ["GOPKGVERSION", "PKG_HASH", "PKG_IMAGE", "REVISION", "SOURCE"];

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
        done: Vec::new(),
        steps: Vec::new(),
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    for stage in &stages.stages {
        let state = lowering.stage(stage);
        lowering.done.push(state);
    }
    let Lowering { done, mut steps, mut mistakes, warnings, .. } = lowering;
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
    warnings.extend(dockerfile.warnings.0.iter().map(ToString::to_string));
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
    Ok(Plan { steps, images: images.values().cloned().collect(), result: target.root, image: target.image, warnings })
}

struct Lowering<'a> {
    request: &'a BuildRequest,
    outside: StepNetwork,
    dockerfile: &'a Dockerfile,
    stages: &'a Stages,
    images: &'a Images,
    image_numbers: BTreeMap<&'a ImageUse, usize>,
    done: Vec<StageState>,
    steps: Vec<Step>,
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

fn not_yet<T>(what: &str) -> Result<T, Refusal> {
    refuse_with(
        format!("the embedded builder does not have {what} yet"),
        "rewrite the instruction: this version has no other builder to give it to",
    )
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
            // A build request has no named contexts.
            Input::Scratch | Input::Context(_) => {
                let image = ImageState::scratch(stage.platform.clone(), date);
                StageState { scope: Scope::new(image.env()), image, root: Root::Scratch }
            }
        };
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
                    text: text.unwrap_or_else(|_| written.text.clone()),
                    span: written.span,
                },
                lines: self.dockerfile.lines(written.span),
                parent: state.root,
                inputs,
                operation,
            });
            state.root = Root::Step(self.steps.len() - 1);
        }
        state.image.apply(&command, &state.scope.arguments());
        Ok(())
    }

    fn copy(&self, copy: &Copy, step: &stages::Step, state: &StageState) -> Result<(Operation, Vec<Root>), Refusal> {
        if copy.parents {
            return not_yet("`COPY --parents`");
        }
        for source in &copy.transfer.sources {
            if is_remote(source) {
                return refuse_with(format!("COPY takes no URL: `{source}`"), "use ADD");
            }
        }
        let (from, inputs) = match step.inputs.first().and_then(Option::as_ref) {
            Some(input) => (CopyFrom::Input(0), vec![self.root(input)]),
            None => (CopyFrom::Context, Vec::new()),
        };
        Ok((self.transfer(&copy.transfer, (from, false), state)?, inputs))
    }

    fn add(&self, add: &Add, state: &StageState) -> Result<(Operation, Vec<Root>), Refusal> {
        for source in &add.transfer.sources {
            if is_git(source) {
                return not_yet(&format!("`ADD` of a git repository (`{source}`)"));
            }
            if is_remote(source) {
                return not_yet(&format!("`ADD` of a URL (`{source}`)"));
            }
        }
        if add.checksum.is_some() {
            return refuse("`--checksum` needs a source that is a URL or a git repository");
        }
        if add.keep_git_dir.is_some() {
            return not_yet("`ADD --keep-git-dir`");
        }
        let unpack = add.unpack.unwrap_or(true);
        Ok((self.transfer(&add.transfer, (CopyFrom::Context, unpack), state)?, Vec::new()))
    }

    fn transfer(&self, transfer: &Transfer, (from, unpack): (CopyFrom, bool), state: &StageState) -> Result<Operation, Refusal> {
        if transfer.link {
            return not_yet("`--link`");
        }
        if !transfer.exclude.is_empty() {
            return not_yet("`--exclude`");
        }
        if !transfer.inline.is_empty() && !transfer.sources.is_empty() {
            return not_yet("heredocs beside other sources in one instruction");
        }
        if let Some(mode) = &transfer.chmod {
            ModeChange::parse(mode).map_err(|error| told(&error))?;
        }
        let mut inline = Vec::new();
        for file in &transfer.inline {
            if file.name.contains('/') || matches!(&file.name[..], "." | "..") {
                return refuse(format!("`{}` cannot be the name of a file", file.name));
            }
            inline.push((file.name.clone(), file.data.clone().into_bytes()));
        }
        Ok(Operation::Copy(CopyOperation {
            from,
            patterns: transfer.sources.clone(),
            inline,
            destination: destination(state.image.working_directory(), &transfer.destination),
            owner: transfer.chown.clone(),
            mode: transfer.chmod.clone(),
            unpack,
            date: self.request.source_date,
        }))
    }

    fn run(
        &mut self,
        run: &Run,
        step: &stages::Step,
        (stage, state): (&Stage, &StageState),
    ) -> Result<(Operation, Vec<Root>), Refusal> {
        if run.security == RunSecurity::Insecure {
            return not_yet("`RUN --security=insecure`");
        }
        if !run.devices.is_empty() {
            return not_yet("`RUN --device`");
        }
        let network = self.network(run.network)?;
        let mut inputs = Vec::new();
        let mut mounts: Vec<MountOperation> = Vec::new();
        for (text, input) in run.mounts.iter().zip(&step.inputs) {
            let scope = &state.scope;
            let mount =
                Mount::parse(text, self.dockerfile.directives.escape, &|name| scope.get(name)).map_err(|error| told(&error))?;
            let mount = self.mount(&mount, input.as_ref(), (state.image.working_directory(), &mut inputs))?;
            // Of two mounts at one place the later is meant.
            mounts.retain(|earlier| earlier.target != mount.target);
            mounts.push(mount);
        }
        let body = run.body();
        let argv = body.argv(&state.image.shell());
        if argv.first().is_none_or(String::is_empty) {
            return refuse("RUN has no command");
        }
        let script = match body {
            RunBody::Script { name, data } => Some((format!("{SCRIPT_DIRECTORY}/{name}"), data.into_bytes())),
            _ => None,
        };
        let proxies = self.request.args.iter().filter(|(name, _)| is_proxy(name));
        let proxies = proxies
            .flat_map(|(name, value)| [name.to_ascii_uppercase(), name.to_ascii_lowercase()].map(|name| (name, value.clone())));
        let operation = RunOperation {
            argv,
            env: state.scope.environment().to_vec(),
            proxies: proxies.collect(),
            cwd: state.image.working_directory().to_owned(),
            user: state.image.user().to_owned(),
            network,
            mounts,
            script,
            platform: stage.platform.clone(),
        };
        Ok((Operation::Run(operation), inputs))
    }

    fn network(&mut self, asked: RunNetwork) -> Result<StepNetwork, Refusal> {
        let network = match asked {
            RunNetwork::None => Network::None,
            RunNetwork::Default => self.request.network,
            RunNetwork::Host if self.request.network == Network::Host => Network::Host,
            RunNetwork::Host => return refuse("`RUN --network=host` needs the permission of whoever starts the build"),
        };
        if network == Network::Default && self.outside == StepNetwork::Host {
            let warning = "steps with a network use this machine's own, because `pasta` is not installed";
            if !self.warnings.iter().any(|told| told == warning) {
                self.warnings.push(warning.to_owned());
            }
        }
        Ok(match network {
            Network::None => StepNetwork::None,
            Network::Default => self.outside,
            Network::Host => StepNetwork::Host,
        })
    }

    fn mount(
        &self,
        mount: &Mount,
        input: Option<&Input>,
        (directory, inputs): (&str, &mut Vec<Root>),
    ) -> Result<MountOperation, Refusal> {
        let target = join_directory(directory, &mount.target);
        let access = if mount.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let what = match &mount.kind {
            mount::MountKind::Bind { source, .. } => {
                let from = match input {
                    Some(Input::Scratch) => return refuse("there is nothing in `scratch` to mount"),
                    Some(input) => {
                        inputs.push(self.root(input));
                        CopyFrom::Input(inputs.len() - 1)
                    }
                    None => CopyFrom::Context,
                };
                MountKind::Bind { from, source: join_directory("/", source).trim_start_matches('/').to_owned(), access }
            }
            mount::MountKind::Cache { from: Some(_), .. } => return not_yet("a cache mount with `from`"),
            mount::MountKind::Cache { source, .. } if !source.is_empty() => return not_yet("a cache mount with `source`"),
            mount::MountKind::Cache { id, sharing, .. } => MountKind::Cache {
                id: id.clone(),
                sharing: match sharing {
                    Sharing::Shared => CacheSharing::Shared,
                    Sharing::Private => CacheSharing::Private,
                    Sharing::Locked => CacheSharing::Locked,
                },
                uid: mount.uid.unwrap_or(0),
                gid: mount.gid.unwrap_or(0),
                mode: mount.mode.unwrap_or(0o755),
                access,
            },
            mount::MountKind::Tmpfs { size } => MountKind::Tmpfs { size: Some(*size).filter(|size| *size > 0) },
            mount::MountKind::Secret { .. } => return not_yet("secret mounts"),
            mount::MountKind::Ssh { .. } => return not_yet("SSH mounts"),
        };
        if target == "/" {
            return refuse("a mount cannot be at `/`");
        }
        Ok(MountOperation { target, what })
    }

    fn root(&self, input: &Input) -> Root {
        match input {
            Input::Stage(stage) => self.done[*stage].root,
            Input::Image(image) => Root::Image(self.image_numbers[image]),
            Input::Scratch | Input::Context(_) => Root::Scratch,
        }
    }
}

/// Returns a destination with the working directory in front when it is relative; a slash at its end stays, and `.` is a
/// directory.
fn destination(directory: &str, path: &str) -> String {
    let joined = join_directory(directory, path);
    let is_directory = path.is_empty() || path.ends_with('/') || path == "." || path.ends_with("/.");
    if is_directory && joined != "/" { format!("{joined}/") } else { joined }
}

fn is_remote(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://") || is_git(source)
}

/// Returns whether BuildKit takes `source` for a git repository.
fn is_git(source: &str) -> bool {
    let path = source.split(['#', '?']).next().unwrap_or(source);
    let web = path.starts_with("http://") || path.starts_with("https://");
    source.starts_with("git://")
        || source.starts_with("ssh://")
        || source.starts_with("git@")
        || source.starts_with("github.com/")
        || (web && path.ends_with(".git"))
}

/// Returns the platform that builds, which is where this program runs.
pub(super) fn build_platform() -> Platform {
    Platform::host()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_absolute_and_keeps_the_slash_that_makes_it_a_directory() {
        for (directory, path, expected) in [
            ("/", "a", "/a"),
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "/x/.", "/x/"),
            ("/w", "..", "/"),
            ("/w", "/", "/"),
            ("/", "", "/"),
        ] {
            assert_eq!(destination(directory, path), expected, "{directory} {path}");
        }
    }

    #[test]
    fn git_sources_are_told_from_other_urls() {
        for git in ["git@github.com:a/b", "https://x/a.git", "https://x/a.git#v1:sub", "git://x/a", "ssh://x/a", "github.com/a/b"]
        {
            assert!(is_git(git), "{git}");
        }
        for other in ["https://x/a.tgz", "http://x/", "a.git", "./git@x", "dir"] {
            assert!(!is_git(other), "{other}");
        }
    }
}
