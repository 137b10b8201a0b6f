//! Mistakes in files that people write: where, what, the line itself, and what would be right; and what can be done about
//! errors in general.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a text file; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Span {
    /// First line.
    pub line: u32,
    /// First column on that line.
    pub column: u32,
    /// Last line, equal to `line` for most.
    pub end_line: u32,
}

impl Span {
    /// Returns the place at `line` and `column`.
    pub fn at(line: u32, column: u32) -> Self {
        Self { line, column, end_line: line }
    }

    /// Returns the lines from `line` to `end_line`.
    pub fn lines(line: u32, end_line: u32) -> Self {
        Self { line, column: 1, end_line }
    }
}

/// How much a diagnostic matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// Worth saying; changes no outcome.
    Warning,
    /// The file cannot be used.
    Error,
}

/// One mistake in one file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// Whether it stops.
    pub severity: Severity,
    /// The file, as the user named it or relative to where they are.
    pub file: PathBuf,
    /// Where in the file; `None` when the whole file is meant.
    pub span: Option<Span>,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// The source line at `span.line`, without its line end.
    pub source: Option<String>,
    /// What would be right, for example the nearest valid key.
    pub help: Option<String>,
    /// The name of the check that found it, where files can turn checks off by name.
    pub rule: Option<&'static str>,
}

impl Diagnostic {
    /// Returns an error about `file` as a whole.
    pub fn error(file: &Path, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.to_owned(),
            span: None,
            message: message.into(),
            source: None,
            help: None,
            rule: None,
        }
    }

    /// Returns a warning about `file` as a whole.
    pub fn warning(file: &Path, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, message) }
    }

    /// Adds the place, and the line there from the file's `text`.
    pub fn at(mut self, span: Span, text: &str) -> Self {
        self.source = text.lines().nth(span.line.saturating_sub(1) as usize).map(str::to_owned);
        self.span = Some(span);
        self
    }

    /// Adds the name of the check that found it.
    pub fn rule(mut self, rule: &'static str) -> Self {
        self.rule = Some(rule);
        self
    }

    /// Adds what would be right.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Longest part of a source line that is shown: a line of a megabyte must not fill the terminal.
const SHOWN: usize = 160;

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(span) = self.span {
            write!(f, ":{}:{}", span.line, span.column)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(rule) = self.rule {
            write!(f, " [{rule}]")?;
        }
        if let (Some(span), Some(source)) = (self.span, &self.source) {
            let shown: String =
                source.chars().take(SHOWN).map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
            let cut = if source.chars().nth(SHOWN).is_some() { "…" } else { "" };
            let gutter = span.line.to_string();
            write!(f, "\n  {gutter} | {shown}{cut}")?;
            let column = span.column.saturating_sub(1) as usize;
            if column < SHOWN {
                // Tabs are kept so that the marker stands under its character at any tab width.
                let lead: String = source.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                write!(f, "\n  {:width$} | {lead}^", "", width = gutter.len())?;
            }
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help: {help}")?;
        }
        Ok(())
    }
}

/// All mistakes found in one run; never empty when it is an error.
#[derive(Clone, PartialEq, Eq, Debug, Default, thiserror::Error)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, diagnostic) in self.0.iter().enumerate() {
            write!(f, "{}{diagnostic}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// What can be done about an error, decided once, where its status was seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ErrorClass {
    /// May pass when repeated: timeouts, 429, 5xx.
    Retryable,
    /// Credentials are missing or not sufficient.
    Denied,
    /// Stored bytes are not what they should be, or the disk is full.
    Damaged,
    /// Somebody else's write is in the way.
    Conflict,
    /// Repeating cannot help.
    Permanent,
}

/// Returns the candidate nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let word = fold(word);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &fold(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_shows_file_place_line_marker_and_help() {
        let text = "image: a\narchs: [amd64]\n";
        let shown = Diagnostic::error(Path::new("pkg/a/build.yml"), "unknown key `archs`")
            .at(Span::at(2, 1), text)
            .help("did you mean `arches`?")
            .to_string();
        assert_eq!(
            shown,
            "pkg/a/build.yml:2:1: unknown key `archs`\n  2 | archs: [amd64]\n    | ^\n  help: did you mean `arches`?"
        );
    }

    #[test]
    fn the_nearest_key_is_near() {
        let keys = ["image", "arches", "extra-sources", "buildArgs"];
        assert_eq!(nearest("archs", keys), Some("arches"));
        assert_eq!(nearest("extraSources", keys), Some("extra-sources"));
        assert_eq!(nearest("build-args", keys), Some("buildArgs"));
        assert_eq!(nearest("security_opt", keys), None);
    }
}
