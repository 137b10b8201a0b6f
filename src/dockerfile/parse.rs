//! From statements to typed instructions.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::diagnostic::{Span, nearest};

use super::flags::{self, Flags};
use super::heredoc::Heredoc;
use super::instruction::{
    Add, Argument, Command, CommandLine, Copy, Healthcheck, INSTRUCTIONS, InlineFile, Instruction, KeyValue, MountText, Run,
    RunNetwork, RunSecurity, Transfer, Trigger,
};
use super::lines::Statement;
use super::values::{self, DurationMistake};
use super::words::{self, Json};

/// `FROM`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct From {
    /// Its line.
    pub span: Span,
    /// Its text on one line.
    pub text: String,
    /// The comment lines directly above it, without `#`.
    pub comments: Vec<String>,
    /// The image, stage or named context, unexpanded.
    pub base: String,
    /// The name after `AS`, as written; names are compared without regard to case.
    pub name: Option<String>,
    /// `--platform`, unexpanded.
    pub platform: Option<String>,
}

/// What a statement turned out to be.
pub(super) enum Parsed {
    From(From),
    Instruction(Instruction),
}

/// A mistake in a statement, and what would be right.
pub(super) type Mistake = (String, Option<String>);

type Outcome<T> = Result<T, Vec<Mistake>>;

fn mistake<T>(message: impl Into<String>) -> Outcome<T> {
    Err(vec![(message.into(), None)])
}

fn mistake_with<T>(message: impl Into<String>, help: impl Into<String>) -> Outcome<T> {
    Err(vec![(message.into(), Some(help.into()))])
}

/// Reads a statement.
///
/// # Errors
/// Its mistakes.
pub(super) fn statement(statement: &Statement, escape: char) -> Outcome<Parsed> {
    let word = statement.word.to_ascii_uppercase();
    let Some(name) = INSTRUCTIONS.iter().find(|known| **known == word).copied() else {
        let message = format!("unknown instruction `{}`", statement.word);
        return Err(vec![(message, nearest(&word, INSTRUCTIONS).map(|near| format!("did you mean `{near}`?")))]);
    };
    let known = match name {
        "FROM" => flags::FROM,
        "COPY" => flags::COPY,
        "ADD" => flags::ADD,
        "RUN" => flags::RUN,
        "HEALTHCHECK" => flags::HEALTHCHECK,
        _ => flags::NONE,
    };
    let (flags, mut mistakes) = Flags::read(name, &statement.flags, known);
    let reader = Reader { name, statement, flags, escape };
    let parsed = if name == "FROM" {
        reader.from().map(Parsed::From)
    } else {
        reader.command().map(|command| {
            Parsed::Instruction(Instruction {
                span: statement.span,
                text: statement.text.clone(),
                comments: statement.comments.clone(),
                command,
            })
        })
    };
    match parsed {
        Ok(parsed) if mistakes.is_empty() => Ok(parsed),
        Ok(_) => Err(mistakes),
        Err(more) => {
            mistakes.extend(more);
            Err(mistakes)
        }
    }
}

struct Reader<'a> {
    name: &'static str,
    statement: &'a Statement,
    flags: Flags,
    escape: char,
}

impl Reader<'_> {
    fn arguments(&self) -> &str {
        &self.statement.arguments
    }

    fn command(&self) -> Outcome<Command> {
        Ok(match self.name {
            "ADD" => Command::Add(Add {
                transfer: self.transfer()?,
                keep_git_dir: self.flags.boolean("keep-git-dir"),
                checksum: self.flags.text("checksum"),
                unpack: self.flags.boolean("unpack"),
            }),
            "ARG" => Command::Arg(self.declarations()?),
            "CMD" => Command::Cmd(self.command_line(self.arguments())?),
            "COPY" => Command::Copy(Copy {
                transfer: self.transfer()?,
                from: self.flags.text("from"),
                parents: self.flags.boolean("parents").unwrap_or(false),
            }),
            "ENTRYPOINT" => Command::Entrypoint(self.command_line(self.arguments())?),
            "ENV" => Command::Env(self.key_values()?),
            "EXPOSE" => {
                let mut ports = words::blank_separated(self.some_argument()?);
                ports.sort();
                Command::Expose(ports)
            }
            "HEALTHCHECK" => Command::Healthcheck(self.healthcheck()?),
            "LABEL" => Command::Label(self.key_values()?),
            "MAINTAINER" => Command::Maintainer(self.one_argument()?),
            "ONBUILD" => Command::Onbuild(self.trigger()?),
            "RUN" => Command::Run(self.run()?),
            "SHELL" => Command::Shell(self.shell()?),
            "STOPSIGNAL" => Command::StopSignal(self.one_argument()?),
            "USER" => Command::User(self.one_argument()?),
            "VOLUME" => Command::Volume(self.volumes()?),
            _ => Command::Workdir(self.one_argument()?),
        })
    }

    fn some_argument(&self) -> Outcome<&str> {
        match self.arguments() {
            "" => mistake(format!("{} needs at least one argument", self.name)),
            some => Ok(some),
        }
    }

    /// The rest of the line is one argument, blanks included.
    fn one_argument(&self) -> Outcome<String> {
        match self.arguments() {
            "" => mistake(format!("{} needs an argument", self.name)),
            one => Ok(one.to_owned()),
        }
    }

    /// Reads a JSON array of strings, or tells that it is an array of something else.
    fn json(&self, text: &str) -> Outcome<Option<Vec<String>>> {
        match words::json_array(text) {
            Json::Strings(strings) => Ok(Some(strings)),
            Json::No => Ok(None),
            Json::OtherArray => mistake_with(
                format!("the JSON array of {} holds something that is no string", self.name),
                "put every element in double quotes",
            ),
        }
    }

    fn command_line(&self, text: &str) -> Outcome<CommandLine> {
        Ok(self.json(text)?.map_or_else(|| CommandLine::Shell(text.to_owned()), CommandLine::Exec))
    }

    /// Reads a JSON array or blank-separated words.
    fn list(&self) -> Outcome<Vec<String>> {
        Ok(self.json(self.arguments())?.unwrap_or_else(|| words::blank_separated(self.arguments())))
    }

    fn from(&self) -> Outcome<From> {
        let words = words::blank_separated(self.arguments());
        let (base, name) = match &words[..] {
            [base] => (base, None),
            [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => (base, Some(name)),
            _ => return mistake_with("FROM takes an image and perhaps a name", "write `FROM image` or `FROM image AS name`"),
        };
        if let Some(name) = name
            && !is_stage_name(&name.to_lowercase())
        {
            return mistake_with(
                format!("`{name}` cannot be the name of a stage"),
                "a name is a letter followed by letters, digits, `-`, `_` and `.`",
            );
        }
        Ok(From {
            span: self.statement.span,
            text: self.statement.text.clone(),
            comments: self.statement.comments.clone(),
            base: base.clone(),
            name: name.cloned(),
            platform: self.flags.text("platform"),
        })
    }

    fn transfer(&self) -> Outcome<Transfer> {
        let mut words = self.list()?;
        let destination = match words.pop() {
            Some(destination) if !words.is_empty() => destination,
            _ => {
                return mistake_with(
                    format!("{} needs a source and a destination", self.name),
                    format!("write `{} source… destination`", self.name),
                );
            }
        };
        if matches!(Heredoc::parse_word(&destination), Ok(Some(_))) {
            return mistake(format!("a heredoc cannot be the destination of {}", self.name));
        }
        let mut transfer = Transfer {
            destination,
            chown: self.flags.text("chown"),
            chmod: self.flags.text("chmod"),
            link: self.flags.boolean("link").unwrap_or(false),
            exclude: self.flags.list("exclude"),
            ..Transfer::default()
        };
        // Of two heredocs with one name the last gives its content to both.
        let contents: BTreeMap<&str, &str> =
            self.statement.heredocs.iter().map(|heredoc| (&heredoc.name[..], &heredoc.content[..])).collect();
        for word in words {
            match Heredoc::parse_word(&word) {
                Ok(Some(heredoc)) => {
                    let content = contents.get(&heredoc.name[..]).copied().unwrap_or_default().to_owned();
                    let heredoc = Heredoc { content, ..heredoc };
                    transfer.inline.push(InlineFile { data: heredoc.text(), name: heredoc.name, expand: heredoc.expand });
                }
                _ => transfer.sources.push(word),
            }
        }
        Ok(transfer)
    }

    fn declarations(&self) -> Outcome<Vec<Argument>> {
        let mut arguments = Vec::new();
        for word in words::quoted_words(self.some_argument()?, self.escape) {
            arguments.push(match word.split_once('=') {
                Some(("", _)) => return mistake("ARG needs a name before `=`"),
                Some((name, value)) => Argument { name: name.to_owned(), default: Some(value.to_owned()) },
                None => Argument { name: word, default: None },
            });
        }
        Ok(arguments)
    }

    fn key_values(&self) -> Outcome<Vec<KeyValue>> {
        let text = self.some_argument()?;
        let words = words::quoted_words(text, self.escape);
        let name = self.name;
        if words.first().is_none_or(|first| !first.contains('=')) {
            // The old form: one name, and the rest of the line is its value.
            let Some((key, value)) = text.split_once(words::is_blank) else {
                return mistake_with(format!("{name} needs a value for `{text}`"), format!("write `{name} {text}=value`"));
            };
            let value = value.trim_start_matches(words::is_blank).to_owned();
            return Ok(vec![KeyValue { key: key.to_owned(), value, legacy: true }]);
        }
        let mut pairs = Vec::new();
        let mut mistakes = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some(("", _)) => mistakes.push((format!("{name} needs a name before `{word}`"), None)),
                Some((key, value)) => pairs.push(KeyValue { key: key.to_owned(), value: value.to_owned(), legacy: false }),
                None => {
                    let help = "every word must be `name=value`: put quotes around a value with blanks";
                    mistakes.push((format!("`{word}` has no `=`"), Some(help.to_owned())));
                }
            }
        }
        if mistakes.is_empty() { Ok(pairs) } else { Err(mistakes) }
    }

    fn healthcheck(&self) -> Outcome<Healthcheck> {
        let text = self.some_argument()?;
        let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim_start();
        match &kind.to_ascii_uppercase()[..] {
            "NONE" if rest.is_empty() => return Ok(Healthcheck::None),
            "NONE" => return mistake("HEALTHCHECK NONE takes no arguments"),
            "CMD" => {}
            _ => return mistake_with(format!("unknown HEALTHCHECK `{kind}`"), "write `HEALTHCHECK CMD …` or `HEALTHCHECK NONE`"),
        }
        let command = self.command_line(rest)?;
        if matches!(&command, CommandLine::Shell(text) if text.is_empty()) || command == CommandLine::Exec(Vec::new()) {
            return mistake("HEALTHCHECK CMD needs a command");
        }
        let retries = self.flags.text("retries").unwrap_or_default();
        let retries = match retries.parse::<i32>() {
            _ if retries.is_empty() => 0,
            Ok(number) if number >= 0 => number.unsigned_abs(),
            _ => return mistake(format!("`{retries}` is no value of `--retries`: it takes a number that is not negative")),
        };
        Ok(Healthcheck::Check {
            command,
            interval: self.duration("interval")?,
            timeout: self.duration("timeout")?,
            start_period: self.duration("start-period")?,
            start_interval: self.duration("start-interval")?,
            retries,
        })
    }

    fn duration(&self, flag: &str) -> Outcome<Duration> {
        let text = self.flags.text(flag).unwrap_or_default();
        if text.is_empty() {
            return Ok(Duration::ZERO);
        }
        values::duration(&text).or_else(|mistaken| match mistaken {
            DurationMistake::NotADuration => {
                mistake_with(format!("`{text}` is no value of `--{flag}`"), "write a duration like `30s` or `1m30s`")
            }
            DurationMistake::TooShort => mistake(format!("`--{flag}={text}` is shorter than a millisecond")),
        })
    }

    fn run(&self) -> Outcome<Run> {
        let mut mistakes = Vec::new();
        let mut mounts = Vec::new();
        for text in self.flags.list("mount") {
            match MountText::parse(&text) {
                Ok(mount) => mounts.push(mount),
                Err(error) => mistakes.push((error.to_string(), None)),
            }
        }
        let network = self.flags.text("network");
        let network = match network.as_deref() {
            None | Some("default") => RunNetwork::Default,
            Some("none") => RunNetwork::None,
            Some("host") => RunNetwork::Host,
            Some(other) => {
                mistakes.push(choice("network", other, &["default", "none", "host"]));
                RunNetwork::Default
            }
        };
        let security = self.flags.text("security");
        let security = match security.as_deref() {
            None | Some("sandbox") => RunSecurity::Sandbox,
            Some("insecure") => RunSecurity::Insecure,
            Some(other) => {
                mistakes.push(choice("security", other, &["sandbox", "insecure"]));
                RunSecurity::Sandbox
            }
        };
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        Ok(Run {
            command: self.command_line(self.arguments())?,
            heredocs: self.statement.heredocs.clone(),
            mounts,
            network,
            security,
            devices: self.flags.list("device"),
        })
    }

    fn shell(&self) -> Outcome<Vec<String>> {
        match self.json(self.arguments())? {
            Some(words) if !words.is_empty() => Ok(words),
            Some(_) => mistake("SHELL needs at least one word"),
            None => mistake_with("SHELL takes a JSON array", r#"write `SHELL ["/bin/sh", "-c"]`"#),
        }
    }

    fn volumes(&self) -> Outcome<Vec<String>> {
        self.some_argument()?;
        let volumes: Vec<String> = self.list()?.iter().map(|volume| volume.trim().to_owned()).collect();
        if volumes.is_empty() || volumes.iter().any(String::is_empty) {
            return mistake("VOLUME needs paths that are not empty");
        }
        Ok(volumes)
    }

    /// An instruction for later builds is read now: one that can never work should not get into an image, where BuildKit
    /// would let it.
    fn trigger(&self) -> Outcome<Trigger> {
        let text = self.some_argument()?;
        let mut inner = Statement::from_line(text, self.escape, self.statement.span);
        inner.heredocs.clone_from(&self.statement.heredocs);
        match &inner.word.to_ascii_uppercase()[..] {
            "ONBUILD" => return mistake("ONBUILD cannot be put inside of ONBUILD"),
            forbidden @ ("FROM" | "MAINTAINER") => return mistake(format!("{forbidden} cannot be put inside of ONBUILD")),
            _ => {}
        }
        let Parsed::Instruction(instruction) = statement(&inner, self.escape)? else {
            return mistake("FROM cannot be put inside of ONBUILD");
        };
        let mut expression = self.statement.text["ONBUILD".len()..].trim_start().to_owned();
        for heredoc in &self.statement.heredocs {
            expression.push('\n');
            expression.push_str(&heredoc.content);
            expression.push_str(&heredoc.name);
        }
        Ok(Trigger { expression, instruction: Box::new(instruction) })
    }
}

fn choice(flag: &str, value: &str, known: &[&'static str]) -> Mistake {
    let list = known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
    (format!("`{value}` is no value of `--{flag}`"), Some(format!("use one of {list}")))
}

/// Returns whether `name`, in lower case, can name a stage.
fn is_stage_name(name: &str) -> bool {
    let rest = name.strip_prefix(|c: char| c.is_ascii_lowercase());
    rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c)))
}
