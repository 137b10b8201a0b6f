//! What an instruction means where it stands: every stage is walked with the variables in force.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Span, nearest};
use crate::dockerfile::expand::{Expanded, Mode, expand, expand_words};
use crate::dockerfile::instruction::{Command, CommandLine, Instruction};
use crate::dockerfile::mount::Mount;
use crate::dockerfile::scope::{Globals, NOT_IN_ENVIRONMENT, Scope};
use crate::dockerfile::stages::ImageUse;
use crate::dockerfile::{From, StageSource, values};
use crate::oci::Platform;

use super::{Findings, ImageFacts, Rule, Surroundings};

/// Words that make a name look like that of a secret, when they stand first or last or between two `_`.
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "passwd", "password", "pword", "secret", "token"];

/// Words that make it look harmless again.
const HARMLESS: [&str; 3] = ["file", "public", "version"];

/// Patterns that leave nothing of the context.
const EVERYTHING: [&str; 3] = ["*", "**", "**/*"];

/// Looks into the stages and returns the instructions that nobody can be certain of.
pub(super) fn check<'f>(findings: &'f mut Findings<'_>, surroundings: &'f Surroundings<'f>) -> BTreeSet<Span> {
    let dockerfile = findings.dockerfile;
    let options = surroundings.options;
    let last = dockerfile.stages.last().and_then(|stage| stage.from.name.as_deref()).unwrap_or_default();
    let target = options.target.clone().unwrap_or_else(|| last.to_lowercase());
    let mut globals = Globals::new(&options.args, &options.build_platform, &options.platform, &target);
    let mut declared = BTreeSet::new();
    for instruction in &dockerfile.arguments {
        let Command::Arg(arguments) = &instruction.command else { continue };
        for argument in arguments {
            declared.insert(argument.name.clone());
            // What cannot be expanded is told as a mistake.
            let _ = globals.declare(argument, dockerfile.directives.escape);
        }
    }
    let mut walk =
        Walk { findings, surroundings, globals, declared, done: Vec::new(), names: BTreeMap::new(), uncertain: BTreeSet::new() };
    for (number, stage) in dockerfile.stages.iter().enumerate() {
        walk.stage(number, stage);
    }
    walk.uncertain
}

struct Walk<'a, 'f> {
    findings: &'f mut Findings<'a>,
    surroundings: &'f Surroundings<'f>,
    globals: Globals,
    /// The arguments before the first `FROM`, those without a value too.
    declared: BTreeSet<String>,
    done: Vec<State>,
    names: BTreeMap<String, usize>,
    uncertain: BTreeSet<Span>,
}

/// What holds between two instructions of a stage.
#[derive(Clone, Default)]
struct State {
    scope: Scope,
    /// What the image itself has, which a stage that starts from this one sees again.
    environment: Vec<String>,
    /// Whether all of the environment is known.
    certain: bool,
    /// Whether a value was made of one that is not known.
    doubtful: bool,
    has_shell: bool,
    has_directory: bool,
}

/// The instructions of which a stage needs one.
#[derive(Default)]
struct Once {
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
}

/// An instruction where it stands.
struct Place<'a> {
    span: Span,
    comments: &'a [String],
}

impl<'a> Place<'a> {
    fn of(&self) -> (Span, &'a [String]) {
        (self.span, self.comments)
    }
}

impl Walk<'_, '_> {
    fn escape(&self) -> char {
        self.findings.dockerfile.directives.escape
    }

    fn stage(&mut self, number: usize, stage: &StageSource) {
        let looked_into = self.surroundings.stages.is_none_or(|stages| stages.contains(&number));
        let mut state = self.base(&stage.from);
        let mut once = Once::default();
        for instruction in &stage.instructions {
            // Stages that are not needed are walked too: their names may be.
            if looked_into {
                self.instruction(instruction, &mut state, &mut once);
            }
        }
        if let Some(name) = &stage.from.name {
            self.names.insert(name.to_lowercase(), number);
        }
        self.done.push(state);
    }

    fn base(&mut self, from: &From) -> State {
        let place = (from.span, &from.comments[..]);
        let base = self.expand_from(&from.base);
        if let Some(base) = &base {
            self.undeclared(base, place);
        }
        let platform = from.platform.as_ref().and_then(|platform| Some((platform, self.expand_from(platform)?)));
        if let Some((written, platform)) = &platform {
            self.undeclared(platform, place);
            self.platform(written, platform, from);
        }
        let Some(base) = base else { return State::default() };
        if let Some(base) = self.names.get(&base.text.to_lowercase()) {
            let base = &self.done[*base];
            return State { scope: base.scope.inherited(base.environment.iter().map(String::as_str)), ..base.clone() };
        }
        let platform = platform.and_then(|(_, platform)| platform.text.parse::<Platform>().ok());
        let facts = if base.text == "scratch" {
            Some(ImageFacts::default())
        } else {
            let platform = platform.unwrap_or_else(|| self.surroundings.options.platform.clone());
            self.surroundings.images.get(&ImageUse { reference: base.text, platform }).cloned()
        };
        let certain = facts.is_some();
        let ImageFacts { mut environment, has_shell } = facts.unwrap_or_default();
        if !environment.iter().any(|variable| variable.starts_with("PATH=")) {
            environment.push("PATH=".to_owned());
        }
        let scope = Scope::new(environment.iter().map(String::as_str));
        State { scope, environment, certain, has_shell, ..State::default() }
    }

    fn expand_from(&self, text: &str) -> Option<Expanded> {
        expand(text, self.escape(), &|name| self.globals.get(name), Mode::WORD).ok()
    }

    fn undeclared(&mut self, expanded: &Expanded, place: (Span, &[String])) {
        for name in expanded.unmatched.iter().filter(|name| !self.declared.contains(*name)) {
            let message = format!("no ARG before the first FROM declares `{name}`");
            let known = self.globals.names().chain(self.declared.iter().map(String::as_str));
            let help = nearest(name, known)
                .map_or_else(|| Rule::UndefinedArgInFrom.help().to_owned(), |near| format!("did you mean `{near}`?"));
            self.findings.tell_with(Rule::UndefinedArgInFrom, place, message, help);
        }
    }

    fn platform(&mut self, written: &str, expanded: &Expanded, from: &From) {
        let place = (from.span, &from.comments[..]);
        let only = |name: &str| expanded.matched.iter().eq([name]) && expanded.unmatched.is_empty();
        if only("TARGETPLATFORM") && self.globals.get("TARGETPLATFORM").as_ref() == Some(&expanded.text) {
            let message = format!("`--platform={written}` changes nothing");
            self.findings.tell(Rule::RedundantTargetPlatform, place, message);
        }
        if expanded.matched.is_empty()
            && expanded.unmatched.is_empty()
            && let Ok(platform) = expanded.text.parse::<Platform>()
        {
            let name = from.name.as_deref().unwrap_or_default().to_lowercase();
            if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
                let message = format!("`--platform={}` is the same for whatever platform is built", expanded.text);
                self.findings.tell(Rule::FromPlatformFlagConstDisallowed, place, message);
            }
        }
    }

    fn instruction(&mut self, instruction: &Instruction, state: &mut State, once: &mut Once) {
        let place = Place { span: instruction.span, comments: &instruction.comments };
        let escape = self.escape();
        let missed = RefCell::new(BTreeSet::new());
        let scope = state.scope.clone();
        let lookup = |name: &str| {
            let value = scope.get(name);
            if value.is_none() {
                missed.borrow_mut().insert(name.to_owned());
            }
            value
        };
        match &instruction.command {
            Command::Arg(arguments) => {
                for argument in arguments {
                    self.secret("ARG", &argument.name, &place);
                    let given = self.surroundings.options.args.contains_key(&argument.name);
                    if let Some(default) = argument.default.as_ref().filter(|_| !given) {
                        let scope = state.scope.clone();
                        if let Ok(expanded) = expand(default, escape, &|name| scope.get(name), Mode::WORD) {
                            self.doubt(&expanded.unmatched, instruction, state);
                            self.undefined(expanded.unmatched, &place, state);
                        }
                    }
                    // What cannot be expanded is told as a mistake.
                    let _ = state.scope.declare(argument, &self.globals, escape);
                }
                return;
            }
            Command::Run(run) => {
                for mount in &run.mounts {
                    // A mistake in it is told by those who build it.
                    let _ = Mount::parse(mount, escape, &lookup);
                }
            }
            Command::Expose(ports) => {
                self.expose(ports, &lookup, &place);
                // Of ports BuildKit tells no variable.
                self.doubt(&missed.take(), instruction, state);
            }
            command => {
                if let Ok(command) = command.expand(escape, &lookup) {
                    self.expanded(&command, &place, state, once);
                }
            }
        }
        self.doubt(&missed.borrow(), instruction, state);
        self.undefined(missed.into_inner(), &place, state);
    }

    /// Notes whether it cannot be known what an instruction says.
    fn doubt(&mut self, missed: &BTreeSet<String>, instruction: &Instruction, state: &mut State) {
        if !state.certain && (!missed.is_empty() || state.doubtful && instruction.text.contains('$')) {
            self.uncertain.insert(instruction.span);
            state.doubtful |= matches!(instruction.command, Command::Arg(_) | Command::Env(_));
        }
    }

    fn expanded(&mut self, command: &Command, place: &Place<'_>, state: &mut State, once: &mut Once) {
        match command {
            Command::Env(pairs) | Command::Label(pairs) => {
                for pair in pairs {
                    if pair.legacy {
                        let message = format!("{} in the old form, without `=`", command.name());
                        self.findings.tell(Rule::LegacyKeyValueFormat, place.of(), message);
                    }
                    if matches!(command, Command::Env(_)) {
                        self.secret("ENV", &pair.key, place);
                        state.scope.set(&pair.key, &pair.value);
                        state.environment.push(format!("{}={}", pair.key, pair.value));
                    }
                }
            }
            Command::Workdir(path) => {
                if !state.has_directory && !path.starts_with('/') {
                    let message = format!("`{path}` is relative to whatever directory the base image has");
                    self.findings.tell(Rule::WorkdirRelativePath, place.of(), message);
                }
                state.has_directory = true;
            }
            Command::Cmd(line) => {
                self.once(&mut once.cmd, "CMD", place);
                self.through_shell(line, "CMD", state, place);
            }
            Command::Entrypoint(line) => {
                self.once(&mut once.entrypoint, "ENTRYPOINT", place);
                self.through_shell(line, "ENTRYPOINT", state, place);
            }
            Command::Healthcheck(_) => self.once(&mut once.healthcheck, "HEALTHCHECK", place),
            Command::Shell(_) => state.has_shell = true,
            Command::Copy(copy) if copy.from.is_none() => self.ignored("COPY", &copy.transfer.sources, place),
            Command::Add(add) => self.ignored("ADD", &add.transfer.sources, place),
            _ => {}
        }
    }

    fn undefined(&mut self, missed: BTreeSet<String>, place: &Place<'_>, state: &State) {
        let arguments = state.scope.arguments();
        for name in missed {
            if NOT_IN_ENVIRONMENT.contains(&&name[..]) {
                continue;
            }
            if arguments.iter().any(|(argument, _)| *argument == name) {
                continue;
            }
            let known = state.scope.environment().iter().map(|(key, _)| &key[..]);
            let help = nearest(&name, known)
                .map_or_else(|| Rule::UndefinedVar.help().to_owned(), |near| format!("did you mean `${near}`?"));
            let help = if state.certain { help } else { format!("{help} (unless the base image sets it)") };
            self.findings.tell_with(Rule::UndefinedVar, place.of(), format!("`${name}` has no value here"), help);
        }
    }

    fn secret(&mut self, instruction: &str, name: &str, place: &Place<'_>) {
        let lower = name.to_ascii_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
        if has(&SECRET) && !has(&HARMLESS) {
            let message = format!("{instruction} `{name}` looks like a secret");
            self.findings.tell(Rule::SecretsUsedInArgOrEnv, place.of(), message);
        }
    }

    /// It is the earlier one that is in vain, so that is the place.
    fn once(&mut self, seen: &mut Option<Span>, name: &str, place: &Place<'_>) {
        if let Some(earlier) = seen.replace(place.span) {
            let message = format!("another {name} of the same stage follows");
            self.findings.tell(Rule::MultipleInstructionsDisallowed, (earlier, place.comments), message);
        }
    }

    fn through_shell(&mut self, line: &CommandLine, name: &str, state: &State, place: &Place<'_>) {
        // With a SHELL of one's own it is on purpose.
        if matches!(line, CommandLine::Shell(_)) && !state.has_shell {
            self.findings.tell(Rule::JsonArgsRecommended, place.of(), format!("{name} goes through a shell"));
        }
    }

    fn expose(&mut self, ports: &[String], lookup: &dyn Fn(&str) -> Option<String>, place: &Place<'_>) {
        let words = ports.iter().filter_map(|port| expand_words(port, self.escape(), lookup, Mode::WORD).ok()).flatten();
        for port in words.collect::<Vec<_>>() {
            let (host, container) = port.rsplit_once(':').unwrap_or(("", &port));
            let (number, protocol) = container.split_once('/').unwrap_or((container, ""));
            let lower = protocol.to_ascii_lowercase();
            if number.is_empty() || !matches!(&lower[..], "" | "tcp" | "udp" | "sctp") {
                continue;
            }
            if protocol != lower {
                let message = format!("the protocol of `{port}` is not in lower case");
                self.findings.tell(Rule::ExposeProtoCasing, place.of(), message);
            }
            if host.contains(|c| c != ':') {
                let message = format!("`{port}` names more than a port of the container");
                self.findings.tell(Rule::ExposeInvalidFormat, place.of(), message);
            }
        }
    }

    fn ignored(&mut self, instruction: &str, sources: &[String], place: &Place<'_>) {
        // Where patterns take back what others leave out, a directory may be left out and have files.
        let Some(ignore) = self.surroundings.ignore.filter(|ignore| !ignore.keeps_any()) else { return };
        for source in sources {
            if source.contains("://") || source.starts_with("git@") {
                continue;
            }
            let path = values::clean_path(source);
            let path = path.trim_start_matches('/');
            let left_out = if matches!(path, "" | ".") {
                ignore.patterns().any(|pattern| EVERYTHING.contains(&&pattern[..]))
            } else {
                ignore.excludes(path.as_bytes())
            };
            if left_out {
                let message = format!("{instruction} of `{source}`, which the ignore file leaves out");
                self.findings.tell(Rule::CopyIgnoredFile, place.of(), message);
            }
        }
    }
}
