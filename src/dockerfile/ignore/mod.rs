//! `.dockerignore`: which paths of the context are left out, by the rules of moby's pattern matcher as a walk applies them.
//!
//! The last pattern that matches a path decides; a pattern that matches a directory matches everything below it. `COPY
//! --exclude` uses the same language.

mod glob;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Diagnostics, Span};

use super::values::clean_path;
use glob::Glob;

/// The largest ignore file that is read, in bytes.
pub const LIMIT: usize = 1024 * 1024;

/// The name of the ignore file at the root of the context.
pub const DEFAULT_NAME: &str = ".dockerignore";

/// Returns the ignore files to look for below the context's root, the one that decides first: the first that exists is
/// used alone.
pub fn candidates(dockerfile_in_context: &Path) -> [PathBuf; 2] {
    let mut own = dockerfile_in_context.as_os_str().to_owned();
    own.push(DEFAULT_NAME);
    [PathBuf::from(own), PathBuf::from(DEFAULT_NAME)]
}

/// Why a pattern cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// `!` without a pattern.
    #[error("`!` needs a pattern after it")]
    NothingToInclude,
    /// A class that is empty or not closed, or a `\` with nothing to escape.
    #[error("`{0}` is not a pattern: a `[` needs a class and its `]`, a `\\` a character after it")]
    Syntax(String),
}

/// Patterns in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug)]
struct Pattern {
    /// Cleaned, without `!`.
    text: String,
    /// Written with `!`: what it matches is kept.
    keeps: bool,
    glob: Glob,
}

impl PartialEq for Pattern {
    /// The glob follows from the text.
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.keeps) == (&other.text, other.keeps)
    }
}

impl Eq for Pattern {}

/// What is known of a directory while a walk is inside it: which patterns match it or a parent of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Matched(Option<Vec<bool>>);

impl Ignore {
    /// Reads an ignore file; `file` is its name for messages.
    ///
    /// # Errors
    /// All mistakes of the file, each with its line.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Diagnostics> {
        if bytes.len() > LIMIT {
            let message = format!("the file is larger than {LIMIT} bytes");
            return Err(Diagnostics(vec![Diagnostic::error(file, message)]));
        }
        let text = String::from_utf8_lossy(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes));
        let mut ignore = Self::default();
        let mut mistakes = Vec::new();
        for (n, line) in text.lines().enumerate() {
            // Only a `#` in the first column makes a comment; after a blank it is part of a name.
            let pattern = if line.starts_with('#') { "" } else { line.trim() };
            if pattern.is_empty() {
                continue;
            }
            if let Err(error) = ignore.push(&normalized(pattern)) {
                let line = u32::try_from(n + 1).unwrap_or(u32::MAX);
                mistakes.push(Diagnostic::error(file, error.to_string()).at(Span::at(line, 1), &text));
            }
        }
        if mistakes.is_empty() { Ok(ignore) } else { Err(Diagnostics(mistakes)) }
    }

    /// Returns the patterns of `--exclude`, which are taken as they stand.
    ///
    /// # Errors
    /// The first that is no pattern.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let mut ignore = Self::default();
        for pattern in patterns {
            ignore.push(pattern)?;
        }
        Ok(ignore)
    }

    fn push(&mut self, pattern: &str) -> Result<(), PatternError> {
        let pattern = pattern.trim();
        if pattern.is_empty() {
            return Ok(());
        }
        let cleaned = clean_path(pattern);
        let (keeps, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::NothingToInclude),
            Some(text) => (true, text),
            None => (false, &cleaned[..]),
        };
        let glob = Glob::compile(text).ok_or_else(|| PatternError::Syntax(text.to_owned()))?;
        self.patterns.push(Pattern { text: text.to_owned(), keeps, glob });
        Ok(())
    }

    /// Returns whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Returns whether a pattern takes back what others leave out.
    pub fn keeps_any(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.keeps)
    }

    /// Returns the patterns as they are applied: cleaned, in order. Two equal lists leave out the same paths.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        self.patterns.iter().map(|pattern| format!("{}{}", if pattern.keeps { "!" } else { "" }, pattern.text))
    }

    /// Returns whether `path`, relative to the root and divided by `/`, is left out.
    ///
    /// The root itself (`""` or `.`) never is. For a whole tree [`Ignore::step`] is faster.
    pub fn excludes(&self, path: &[u8]) -> bool {
        if path.is_empty() || path == b"." {
            return false;
        }
        let mut matched = Matched::default();
        let mut excluded = false;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            (excluded, matched) = self.step(&path[..end], &matched);
        }
        excluded
    }

    /// Returns whether `path` is left out, given what is known of its parent directory, and what is then known of itself.
    ///
    /// The parent of the root's entries is `Matched::default()`. A directory that is left out can still hold entries that
    /// are kept: see [`Ignore::may_keep_below`].
    pub fn step(&self, path: &[u8], parent: &Matched) -> (bool, Matched) {
        let text = String::from_utf8_lossy(path);
        let mut excluded = false;
        let mut own = vec![false; self.patterns.len()];
        for (n, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.0.as_ref().is_some_and(|parent| parent[n]);
            // A pattern that could not change the answer is not tried, and then does not count for what lies below. This
            // is observable, so it is kept.
            own[n] = inherited || (pattern.keeps == excluded && pattern.glob.matches(&text));
            if own[n] {
                excluded = !pattern.keeps;
            }
        }
        (excluded, Matched(Some(own)))
    }

    /// Returns whether something below `directory`, which is left out, may be kept; a walk may skip it otherwise.
    pub fn may_keep_below(&self, directory: &[u8]) -> bool {
        let directory = String::from_utf8_lossy(directory);
        self.patterns.iter().filter(|pattern| pattern.keeps).any(|pattern| pattern.glob.may_match_below(&directory))
    }
}

/// Makes a pattern of an ignore file relative to the root, minding `!`.
fn normalized(pattern: &str) -> String {
    let (mark, pattern) = pattern.strip_prefix('!').map_or(("", pattern), |rest| ("!", rest.trim()));
    if pattern.is_empty() {
        return mark.to_owned();
    }
    let cleaned = clean_path(pattern);
    let relative = if cleaned.len() > 1 { cleaned.strip_prefix('/').unwrap_or(&cleaned) } else { &cleaned };
    format!("{mark}{relative}")
}
