//! Dockerfiles: from bytes to typed instructions, and from those to the graph of stages for one platform.
//!
//! Nothing here touches the disk, the network or an image. BuildKit's frontend is the reference for the language; where
//! this is stricter on purpose, the place says so.
//!
//! | step | from | to |
//! |---|---|---|
//! | [`Dockerfile::parse`] | bytes | stages of [`Instruction`]s, as written |
//! | [`Stages::resolve`] | those, a platform, arguments | what has to be built, from what, with which images |
//! | [`Scope`], [`Command::expand`] | an instruction, the variables in force | the instruction with its final words |
//! | [`Command::created_by`] | that | its line in the image's history |
//! | [`check::check`] | the Dockerfile, a platform, arguments | what builds and is hardly ever meant |
//! | [`Ignore::parse`] | `.dockerignore` | which paths of the context exist |

pub mod check;
pub mod expand;
mod expanded;
mod flags;
pub mod heredoc;
mod history;
pub mod ignore;
pub mod instruction;
mod lines;
pub mod mount;
mod parse;
pub mod scope;
pub mod stages;
#[cfg(test)]
mod tests;
mod values;
mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Diagnostics, Span};

pub use expanded::CommandError;
pub use heredoc::Heredoc;
pub use history::Shown;
pub use ignore::Ignore;
pub use instruction::{Command, CommandLine, Instruction};
pub use lines::{Directive, Directives};
pub use mount::{Mount, MountKind};
pub use parse::From;
pub use scope::{Globals, Scope};
pub use stages::{ImageUse, Input, NamedContext, Stage, StageOptions, Stages, Step, images};

/// The largest Dockerfile that is read, in bytes.
pub const LIMIT: usize = 16 * 1024 * 1024;

/// How many mistakes of one file are told: finding the line of each takes time, and nobody reads more.
const TOLD: usize = 100;

/// A Dockerfile as written.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// Its name for messages.
    pub path: PathBuf,
    /// Its text, for messages.
    pub text: String,
    /// What its first lines ask of the parser.
    pub directives: Directives,
    /// The `ARG` instructions before the first `FROM`.
    pub arguments: Vec<Instruction>,
    /// The stages, in order; at least one.
    pub stages: Vec<StageSource>,
    /// What is worth saying and stops nothing.
    pub warnings: Diagnostics,
}

/// A stage as written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StageSource {
    /// What it starts from.
    pub from: From,
    /// What it does.
    pub instructions: Vec<Instruction>,
}

impl Dockerfile {
    /// Parses a Dockerfile; `path` is its name for messages.
    ///
    /// # Errors
    /// All mistakes of the file, each with its line.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Diagnostics> {
        if bytes.len() > LIMIT {
            return Err(Diagnostics(vec![Diagnostic::error(path, format!("the Dockerfile is larger than {LIMIT} bytes"))]));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| not_text(path, bytes, error.valid_up_to()))?;
        let mut report = Report { path, text, mistakes: Vec::new() };
        let lexed = lines::lex(text);
        lexed.mistakes.into_iter().for_each(|mistake| report.tell(mistake.span, mistake.message, mistake.help));
        let mut dockerfile = Self {
            path: path.to_owned(),
            text: text.to_owned(),
            directives: lexed.directives,
            arguments: Vec::new(),
            stages: Vec::new(),
            warnings: Diagnostics::default(),
        };
        let mut any_from = false;
        for statement in &lexed.statements {
            if report.is_full() {
                break;
            }
            any_from |= statement.word.eq_ignore_ascii_case("FROM");
            if let Some(line) = statement.blank_line
                && dockerfile.warnings.0.len() < TOLD
            {
                let warning = Diagnostic::warning(path, "a blank line inside of an instruction").at(Span::at(line, 1), text);
                dockerfile.warnings.0.push(warning.help("remove it, or start its line with `#`"));
            }
            match parse::statement(statement, dockerfile.directives.escape) {
                Err(found) => found.into_iter().for_each(|(message, help)| report.tell(statement.span, message, help)),
                Ok(parse::Parsed::From(from)) => dockerfile.stages.push(StageSource { from, instructions: Vec::new() }),
                Ok(parse::Parsed::Instruction(instruction)) => match dockerfile.stages.last_mut() {
                    Some(stage) => stage.instructions.push(instruction),
                    // After a FROM that is itself a mistake nothing can be said about where this belongs.
                    None if any_from => {}
                    None if matches!(instruction.command, Command::Arg(_)) => dockerfile.arguments.push(instruction),
                    None => {
                        let message = format!("{} stands before the first FROM", instruction.command.name());
                        report.tell(instruction.span, message, Some("only ARG may stand there".to_owned()));
                    }
                },
            }
        }
        let mut mistakes = report.mistakes;
        if lexed.statements.is_empty() {
            mistakes.push(Diagnostic::error(path, "the Dockerfile has no instructions"));
        } else if !any_from && mistakes.len() < TOLD {
            mistakes.push(Diagnostic::error(path, "the Dockerfile has no FROM, so there is nothing to build"));
        }
        if mistakes.is_empty() {
            return Ok(dockerfile);
        }
        mistakes.sort_by_key(|mistake| mistake.span);
        Err(Diagnostics(mistakes))
    }

    /// Parses one instruction that stands alone, such as an `ONBUILD` trigger of a base image.
    ///
    /// # Errors
    /// When it is not exactly one instruction, or a wrong one; `span` is where the messages say it is.
    pub fn parse_instruction(&self, text: &str, span: Span) -> Result<Instruction, Diagnostics> {
        let lexed = lines::lex(text);
        let mut mistakes: Vec<(String, Option<String>)> =
            lexed.mistakes.into_iter().map(|mistake| (mistake.message, mistake.help)).collect();
        if let [statement] = &lexed.statements[..] {
            match parse::statement(statement, lexed.directives.escape) {
                Ok(parse::Parsed::Instruction(instruction)) if mistakes.is_empty() => {
                    return Ok(Instruction { span, ..instruction });
                }
                Ok(_) => mistakes.push(("only one instruction that is no FROM can stand here".to_owned(), None)),
                Err(found) => mistakes.extend(found),
            }
        } else {
            mistakes.push(("exactly one instruction must stand here".to_owned(), None));
        }
        let diagnostic = |(message, help)| Diagnostic { help, ..self.error(span, format!("in `{text}`: {message}")) };
        Err(Diagnostics(mistakes.into_iter().map(diagnostic).collect()))
    }

    /// Returns an error at `span` of this file.
    pub fn error(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(&self.path, message).at(span, &self.text)
    }

    /// Returns a warning at `span` of this file.
    pub fn warning(&self, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic::warning(&self.path, message).at(span, &self.text)
    }

    /// Returns the lines of `span` for messages, without their line ends.
    pub fn lines(&self, span: Span) -> Vec<String> {
        let count = span.end_line.saturating_sub(span.line) as usize + 1;
        self.text.lines().skip(span.line.saturating_sub(1) as usize).take(count).map(str::to_owned).collect()
    }

    /// Returns the name of every argument that some `ARG` declares, in triggers too.
    pub fn declared_arguments(&self) -> BTreeSet<&str> {
        fn declared(command: &Command) -> &[instruction::Argument] {
            match command {
                Command::Arg(arguments) => arguments,
                Command::Onbuild(trigger) => declared(&trigger.instruction.command),
                _ => &[],
            }
        }
        let instructions = self.arguments.iter().chain(self.stages.iter().flat_map(|stage| &stage.instructions));
        instructions.flat_map(|instruction| declared(&instruction.command)).map(|argument| &argument.name[..]).collect()
    }

    /// Returns those of the `given` arguments that nothing declares and that have no meaning of their own: a typing mistake
    /// of whoever gave them.
    pub fn unused_arguments<'a>(&self, given: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let declared = self.declared_arguments();
        given.into_iter().filter(|name| !declared.contains(name) && !scope::is_predefined(name)).collect()
    }
}

/// The mistakes of a file as they are found.
struct Report<'a> {
    path: &'a Path,
    text: &'a str,
    mistakes: Vec<Diagnostic>,
}

impl Report<'_> {
    fn tell(&mut self, span: Span, message: String, help: Option<String>) {
        if !self.is_full() {
            let diagnostic = Diagnostic::error(self.path, message).at(span, self.text);
            self.mistakes.push(Diagnostic { help, ..diagnostic });
        }
    }

    fn is_full(&self) -> bool {
        self.mistakes.len() >= TOLD
    }
}

fn not_text(path: &Path, bytes: &[u8], at: usize) -> Diagnostics {
    let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
    let line = u32::try_from(line).unwrap_or(u32::MAX);
    let diagnostic =
        Diagnostic::error(path, "the Dockerfile is not UTF-8 text").at(Span::at(line, 1), &String::from_utf8_lossy(bytes));
    Diagnostics(vec![diagnostic])
}
