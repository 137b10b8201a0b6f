//! The line that an instruction leaves in an image's history.

use std::fmt::Write as _;
use std::time::Duration;

use super::instruction::{Command, CommandLine, Healthcheck, KeyValue, Transfer};
use super::values;

/// What an instruction's line shows beside its own words.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The shell in force.
    pub shell: &'a [String],
    /// The arguments declared so far, with their values: [`super::Scope::arguments`].
    pub arguments: &'a [(String, Option<String>)],
    /// The working directory after the instruction.
    pub working_directory: &'a str,
}

impl Command {
    /// Returns the `created_by` of an instruction that is already expanded, in BuildKit's form, or `None` for one that
    /// leaves no line.
    ///
    /// `ARG` shows the values that [`Shown::arguments`] holds after it.
    pub fn created_by(&self, shown: &Shown<'_>) -> Option<String> {
        let name = self.name();
        Some(match self {
            Self::Onbuild(_) => return None,
            Self::Run(run) => {
                let mut words = Vec::new();
                if !shown.arguments.is_empty() {
                    words.push(format!("|{}", shown.arguments.len()));
                    words.extend(
                        shown.arguments.iter().map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or_default())),
                    );
                }
                words.extend(run.body().argv(shown.shell));
                format!("{name} {} # buildkit", words.join(" "))
            }
            Self::Copy(copy) => transfer(name, copy.parents, &copy.transfer),
            Self::Add(add) => transfer(name, false, &add.transfer),
            Self::Env(pairs) | Self::Label(pairs) => key_values(name, pairs),
            Self::Arg(arguments) => {
                let argument = |argument: &super::instruction::Argument| {
                    let value =
                        shown.arguments.iter().find(|(name, _)| *name == argument.name).and_then(|(_, value)| value.as_ref());
                    value.map_or_else(|| argument.name.clone(), |value| format!("{}={value}", argument.name))
                };
                format!("{name} {}", arguments.iter().map(argument).collect::<Vec<_>>().join(" "))
            }
            Self::Workdir(_) => format!("{name} {}", shown.working_directory),
            Self::User(text) | Self::StopSignal(text) | Self::Maintainer(text) => format!("{name} {text}"),
            Self::Cmd(line) | Self::Entrypoint(line) => {
                let words = line.argv(shown.shell);
                format!("{name} [{}]", words.iter().map(|word| values::quoted(word)).collect::<Vec<_>>().join(" "))
            }
            Self::Expose(words) | Self::Volume(words) | Self::Shell(words) => format!("{name} [{}]", words.join(" ")),
            Self::Healthcheck(check) => format!("{name} {}", healthcheck(check)),
        })
    }
}

fn key_values(name: &str, pairs: &[KeyValue]) -> String {
    let mut text = name.to_owned();
    for pair in pairs {
        write!(text, " {}={}", pair.key, pair.value).expect("writing to a string cannot fail");
    }
    text
}

fn transfer(name: &str, parents: bool, transfer: &Transfer) -> String {
    let mut words = vec![name.to_owned()];
    words.extend(parents.then(|| "--parents".to_owned()));
    words.extend(transfer.chown.as_ref().map(|chown| format!("--chown={chown}")));
    words.extend(transfer.chmod.as_ref().map(|chmod| format!("--chmod={chmod}")));
    words.extend(transfer.sources.iter().cloned());
    words.extend(transfer.inline.iter().map(|file| format!("<<{}", file.name)));
    words.push(transfer.destination.clone());
    format!("{} # buildkit", words.join(" "))
}

fn healthcheck(check: &Healthcheck) -> String {
    let (test, durations, retries) = match check {
        Healthcheck::None => (vec!["NONE".to_owned()], [Duration::ZERO; 4], 0),
        Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => {
            let mut test = Vec::new();
            match command {
                CommandLine::Shell(text) => test.extend(["CMD-SHELL".to_owned(), text.clone()]),
                CommandLine::Exec(words) => {
                    test.push("CMD".to_owned());
                    test.extend(words.iter().cloned());
                }
            }
            (test, [*interval, *timeout, *start_period, *start_interval], *retries)
        }
    };
    let [interval, timeout, start_period, start_interval] = durations.map(values::duration_text);
    format!(
        "{{Test:[{}] Interval:{interval} Timeout:{timeout} StartPeriod:{start_period} StartInterval:{start_interval} Retries:{retries}}}",
        test.join(" ")
    )
}
