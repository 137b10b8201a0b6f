//! From text to statements: directives, comments, continuation lines, heredocs; no meaning yet.

use crate::diagnostic::Span;

use super::heredoc::Heredoc;
use super::words;

/// Parser directives: comments in the first lines that steer the parser.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directives {
    /// `# syntax=`: the frontend image that other builders would run; nothing here runs it.
    pub syntax: Option<Directive>,
    /// `# escape=`: `\` or `` ` ``.
    pub escape: char,
    /// `# check=`: which checks are skipped, and whether warnings are errors.
    pub check: Option<Directive>,
}

/// The value of a directive and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directive {
    /// The text after `=`.
    pub value: String,
    /// Its line.
    pub span: Span,
}

/// An instruction before it is understood.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) word: String,
    /// `--name=value`, quotes removed.
    pub(super) flags: Vec<String>,
    /// What follows, trimmed.
    pub(super) arguments: String,
    /// The whole on one line, trimmed.
    pub(super) text: String,
    pub(super) comments: Vec<String>,
    pub(super) heredocs: Vec<Heredoc>,
    pub(super) span: Span,
    /// The last blank line inside of it, which BuildKit will refuse one day.
    pub(super) blank_line: Option<u32>,
}

impl Statement {
    /// Divides one joined line into its parts.
    pub(super) fn from_line(line: &str, escape: char, span: Span) -> Self {
        let text = line.trim();
        let (word, rest) = match text.find(words::is_blank) {
            Some(at) => (&text[..at], text[at..].trim_start_matches(words::is_blank)),
            None => (text, ""),
        };
        let (flags, arguments) = words::flags(rest, escape);
        Self {
            word: word.to_owned(),
            flags,
            arguments: arguments.trim().to_owned(),
            text: text.to_owned(),
            comments: Vec::new(),
            heredocs: Vec::new(),
            span,
            blank_line: None,
        }
    }

    /// Returns whether `<<` announces heredocs in this statement.
    fn takes_heredocs(&self, escape: char) -> bool {
        match &self.word.to_ascii_uppercase()[..] {
            "ADD" | "COPY" | "RUN" => !words::json_array(&self.arguments).is_json(),
            "ONBUILD" => {
                let inner = Self::from_line(&self.arguments, escape, self.span);
                // Inside of ONBUILD another ONBUILD is a mistake, so that this ends.
                !inner.word.eq_ignore_ascii_case("ONBUILD") && inner.takes_heredocs(escape)
            }
            _ => false,
        }
    }
}

/// What is wrong with the text as such, where, and what would be right.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// The statements of a file, its directives, and what is wrong.
pub(super) struct Lexed {
    pub(super) directives: Directives,
    pub(super) statements: Vec<Statement>,
    pub(super) mistakes: Vec<Mistake>,
}

/// Divides a file into statements; goes on after a mistake where the next line has a meaning of its own.
pub(super) fn lex(text: &str) -> Lexed {
    let mut lexer = Lexer {
        lines: text.strip_prefix('\u{feff}').unwrap_or(text).split_inclusive('\n'),
        line: 0,
        directives: Some(Vec::new()),
        out: Lexed {
            directives: Directives { syntax: None, escape: '\\', check: None },
            statements: Vec::new(),
            mistakes: Vec::new(),
        },
    };
    lexer.run();
    lexer.out
}

struct Lexer<'a> {
    lines: std::str::SplitInclusive<'a, char>,
    /// The number of the line last read.
    line: u32,
    /// The directives seen, while more of them may come.
    directives: Option<Vec<String>>,
    out: Lexed,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let line = self.lines.next()?;
        self.line = self.line.saturating_add(1);
        Some(line)
    }

    fn mistake(&mut self, span: Span, message: String, help: Option<&str>) {
        self.out.mistakes.push(Mistake { span, message, help: help.map(str::to_owned) });
    }

    fn run(&mut self) {
        let mut comments: Vec<String> = Vec::new();
        while let Some(raw) = self.next() {
            let line = without_end(raw).trim_start();
            let is_directive = self.directive(line);
            if let Some(comment) = line.strip_prefix('#') {
                match comment.trim() {
                    _ if is_directive => {}
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            let (first, mut ended) = self.continued(line);
            if ended && first.is_empty() {
                continue;
            }
            let indent = raw.chars().take_while(|c| c.is_whitespace()).count();
            let start = Span::at(self.line, u32::try_from(indent).unwrap_or(0) + 1);
            let mut joined = first.to_owned();
            let mut blank_line = None;
            while !ended {
                let Some(raw) = self.next() else { break };
                let line = without_end(raw);
                match line.trim_start() {
                    "" => blank_line = Some(self.line),
                    comment if comment.starts_with('#') => {}
                    _ => {
                        let part;
                        (part, ended) = self.continued(line);
                        joined.push_str(part);
                    }
                }
            }
            let escape = self.out.directives.escape;
            let mut statement = Statement::from_line(&joined, escape, Span { end_line: self.line, ..start });
            statement.comments = std::mem::take(&mut comments);
            statement.blank_line = blank_line;
            if joined.contains("<<") && statement.takes_heredocs(escape) {
                self.heredocs(&mut statement, &joined);
            }
            self.out.statements.push(statement);
        }
    }

    fn heredocs(&mut self, statement: &mut Statement, joined: &str) {
        let announced = match Heredoc::announced_by(joined) {
            Ok(announced) => announced,
            Err(error) => return self.mistake(statement.span, format!("the word of a heredoc cannot be read: {error}"), None),
        };
        'heredocs: for mut heredoc in announced {
            loop {
                let Some(raw) = self.next() else {
                    let message = format!("the heredoc `{}` never ends", heredoc.name);
                    let help = "the word must stand alone on a line, without blanks before it (tabs may be with `<<-`)";
                    self.mistake(statement.span, message, Some(help));
                    break 'heredocs;
                };
                let line = raw.trim_end_matches(['\r', '\n']);
                let line = if heredoc.chomp { line.trim_start_matches('\t') } else { line };
                if line == heredoc.name {
                    break;
                }
                heredoc.content.push_str(raw);
            }
            statement.heredocs.push(heredoc);
        }
        statement.span.end_line = self.line;
    }

    /// Returns the line without its continuation mark, and whether it had none: an escape character at the end, unless
    /// another stands before it.
    fn continued<'l>(&self, line: &'l str) -> (&'l str, bool) {
        let escape = self.out.directives.escape;
        match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
            Some(part) if !part.ends_with(escape) => (part, false),
            _ => (line, true),
        }
    }

    /// Reads `line` as a directive if directives may still come, and returns whether it was one.
    fn directive(&mut self, line: &str) -> bool {
        let Some(seen) = &mut self.directives else { return false };
        let parsed = line.strip_prefix('#').and_then(|rest| {
            let (name, value) = rest.trim_start().split_once('=')?;
            let (name, value) = (name.trim_end().to_ascii_lowercase(), value.trim());
            (matches!(&name[..], "syntax" | "escape" | "check") && !value.is_empty()).then(|| (name, value.to_owned()))
        });
        let Some((name, value)) = parsed else {
            self.directives = None;
            return false;
        };
        let span = Span::at(self.line, 1);
        if seen.contains(&name) {
            self.mistake(span, format!("the directive `{name}` is given twice"), None);
            return true;
        }
        seen.push(name.clone());
        match (&name[..], &value[..]) {
            ("escape", "\\") => {}
            ("escape", "`") => self.out.directives.escape = '`',
            ("escape", other) => {
                self.mistake(span, format!("`{other}` cannot be the escape character"), Some("use `\\` or a backtick"));
            }
            ("syntax", _) => self.out.directives.syntax = Some(Directive { value, span }),
            _ => self.out.directives.check = Some(Directive { value, span }),
        }
        true
    }
}

fn without_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}
