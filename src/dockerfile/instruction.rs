//! The instructions of a Dockerfile as typed values, as written: nothing here is expanded yet.

use std::time::Duration;

use crate::diagnostic::Span;

use super::heredoc::Heredoc;

/// One instruction and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Its lines, heredocs included.
    pub span: Span,
    /// Its text on one line, continuations joined, without the bodies of heredocs.
    pub text: String,
    /// The comment lines directly above it, without `#`.
    pub comments: Vec<String>,
    /// What it says.
    pub command: Command,
}

/// What an instruction says. `FROM` is not among them: it opens a [`StageSource`](super::StageSource).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// `ADD`
    Add(Add),
    /// `ARG`, which may declare several.
    Arg(Vec<Argument>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<KeyValue>),
    /// `EXPOSE`: port specifications as written, sorted; after expansion one `port/protocol` each.
    Expose(Vec<String>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<KeyValue>),
    /// `MAINTAINER`
    Maintainer(String),
    /// `ONBUILD`
    Onbuild(Trigger),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    StopSignal(String),
    /// `USER`
    User(String),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `WORKDIR`
    Workdir(String),
}

impl Command {
    /// Returns the instruction's word in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// The word of every instruction, in capitals and sorted.
pub const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A name with its value, from `ENV` or `LABEL`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// The name.
    pub key: String,
    /// The value, with its quotes until it is expanded.
    pub value: String,
    /// Whether it was written in the old form `key value`.
    pub legacy: bool,
}

/// One build argument that `ARG` declares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Argument {
    /// The name; never expanded.
    pub name: String,
    /// The default, with its quotes until it is expanded.
    pub default: Option<String>,
}

/// A command of `RUN`, `CMD`, `ENTRYPOINT` or `HEALTHCHECK`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CommandLine {
    /// Text for the shell in force, never expanded by the builder.
    Shell(String),
    /// The words themselves, from a JSON array; may be empty.
    Exec(Vec<String>),
}

impl CommandLine {
    /// Returns the words to execute, through `shell` for the shell form.
    pub fn argv(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Exec(words) => words.clone(),
            Self::Shell(text) => shell.iter().cloned().chain([text.clone()]).collect(),
        }
    }
}

/// A file whose content stands in the Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InlineFile {
    /// Its name, the heredoc's word.
    pub name: String,
    /// Its content, tabs already removed for `<<-`.
    pub data: String,
    /// Whether variables in it are expanded.
    pub expand: bool,
}

/// What `COPY` and `ADD` share.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transfer {
    /// Paths, patterns or URLs, in order.
    pub sources: Vec<String>,
    /// Heredocs; they follow the sources.
    pub inline: Vec<InlineFile>,
    /// Where to; a trailing slash is significant.
    pub destination: String,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`
    pub chmod: Option<String>,
    /// `--link`
    pub link: bool,
    /// `--exclude`: patterns in the language of `.dockerignore`, never expanded.
    pub exclude: Vec<String>,
}

/// `COPY`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Copy {
    /// What and where to.
    pub transfer: Transfer,
    /// `--from`: a stage's name or index, a named context or an image; never expanded.
    pub from: Option<String>,
    /// `--parents`
    pub parents: bool,
}

/// `ADD`
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Add {
    /// What and where to.
    pub transfer: Transfer,
    /// `--keep-git-dir`; `None` leaves it to the URL.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`
    pub checksum: Option<String>,
    /// `--unpack`; `None` unpacks local archives only.
    pub unpack: Option<bool>,
}

/// `RUN`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// The command as written after the flags, with its heredoc words.
    pub command: CommandLine,
    /// Heredocs, in order; only the shell form has them.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order, as written.
    pub mounts: Vec<MountText>,
    /// `--network`
    pub network: RunNetwork,
    /// `--security`
    pub security: RunSecurity,
    /// `--device`, in order, as written.
    pub devices: Vec<String>,
}

/// What a `RUN` executes once its heredocs are put in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunBody {
    /// The words themselves.
    Exec(Vec<String>),
    /// Text for the shell in force.
    Shell(String),
    /// A script with a `#!` line: to be put, mode 0755, at `/dev/pipes/<name>`, which the shell in force then executes.
    Script {
        /// The heredoc's word.
        name: String,
        /// The script.
        data: String,
    },
}

/// The directory in which a script of a `RUN` heredoc stands while it runs.
pub const SCRIPT_DIRECTORY: &str = "/dev/pipes";

impl RunBody {
    /// Returns the words to execute, through `shell` unless the exec form was used.
    pub fn argv(&self, shell: &[String]) -> Vec<String> {
        match self {
            Self::Exec(words) => words.clone(),
            Self::Shell(text) => shell.iter().cloned().chain([text.clone()]).collect(),
            Self::Script { name, .. } => shell.iter().cloned().chain([format!("{SCRIPT_DIRECTORY}/{name}")]).collect(),
        }
    }
}

impl Run {
    /// Returns what is executed: a lone heredoc is the script itself, several are given back to the shell as written.
    pub fn body(&self) -> RunBody {
        let text = match &self.command {
            CommandLine::Exec(words) => return RunBody::Exec(words.clone()),
            CommandLine::Shell(text) => text,
        };
        let Some(first) = self.heredocs.first() else { return RunBody::Shell(text.clone()) };
        if !matches!(Heredoc::parse_word(text), Ok(Some(_))) {
            let mut script = text.clone();
            for heredoc in &self.heredocs {
                script.push('\n');
                script.push_str(&heredoc.content);
                script.push_str(&heredoc.name);
            }
            return RunBody::Shell(script);
        }
        let data = first.text();
        if data.starts_with("#!") { RunBody::Script { name: first.name.clone(), data } } else { RunBody::Shell(data) }
    }
}

/// A `--mount` as written: its values may hold variables, so [`super::mount::Mount::parse`] reads it when the step is
/// reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountText {
    /// The comma-separated options.
    pub text: String,
    /// `from`, which is never expanded.
    pub from: Option<String>,
}

/// `RUN --network`
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum RunNetwork {
    /// What the build was asked for.
    #[default]
    Default,
    /// None but loopback.
    None,
    /// The machine's own.
    Host,
}

/// `RUN --security`
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum RunSecurity {
    /// Confined as every step.
    #[default]
    Sandbox,
    /// With the builder's own rights.
    Insecure,
}

/// `HEALTHCHECK`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Healthcheck {
    /// `NONE`: removes an inherited one.
    None,
    /// `CMD`
    Check {
        /// The command.
        command: CommandLine,
        /// `--interval`; zero for the default, as the others.
        interval: Duration,
        /// `--timeout`
        timeout: Duration,
        /// `--start-period`
        start_period: Duration,
        /// `--start-interval`
        start_interval: Duration,
        /// `--retries`
        retries: u32,
    },
}

/// `ONBUILD`: an instruction for the builds that start from this image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trigger {
    /// The text that goes into the image config, heredocs included.
    pub expression: String,
    /// The same, parsed.
    pub instruction: Box<Instruction>,
}
