//! Whether what a builder made is what a case says.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::case::Case;
use crate::image::Image;
use crate::listing;

/// What a case says of one of the builders.
pub struct Expected<'a> {
    files: Option<&'a str>,
    config: BTreeMap<&'a str, &'a Value>,
    history: Option<&'a [String]>,
    error: Option<&'a str>,
}

impl<'a> Expected<'a> {
    /// Returns what pkgbuild must give.
    pub fn of_pkgbuild(case: &'a Case) -> Self {
        Self {
            files: case.files.as_deref(),
            config: case.config.iter().map(|(name, value)| (name.as_str(), value)).collect(),
            history: case.history.as_deref(),
            error: case.fails.as_ref().map(|failure| failure.pkgbuild.as_str()),
        }
    }

    /// Returns what BuildKit must give, the history only when `history` is set.
    pub fn of_buildkit(case: &'a Case, history: bool) -> Self {
        let mut expected = Self::of_pkgbuild(case);
        expected.error = case.fails.as_ref().and_then(|failure| failure.buildkit.as_deref());
        if let Some(other) = &case.buildkit {
            expected.files = other.files.as_deref().or(expected.files);
            expected.history = other.history.as_deref().or(expected.history);
            expected.error = other.error.as_deref().or(expected.error);
            expected.config.extend(other.config.iter().map(|(name, value)| (name.as_str(), value)));
        }
        expected.history = expected.history.filter(|_| history);
        expected
    }

    /// Returns one line for each thing that is not as the case says.
    pub fn judge(&self, result: &Result<Image, String>, bases: &[Image]) -> Vec<String> {
        match (result, self.error) {
            (Err(text), Some(pattern)) => {
                if says(text, pattern) {
                    Vec::new()
                } else {
                    vec![format!("fails otherwise: {}", text.trim())]
                }
            }
            (Err(text), None) => vec![format!("fails: {}", text.trim())],
            (Ok(image), Some(_)) => vec![format!("builds:\n{}", show(image, bases))],
            (Ok(image), None) => self.differences(image, bases),
        }
    }

    fn differences(&self, image: &Image, bases: &[Image]) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(files) = self.files {
            lines.extend(differences(&listing::split(files), &image.changes(bases)));
            if !lines.is_empty() {
                lines.push(format!("has:\n{}", show(image, bases)));
            }
        }
        for (name, expected) in &self.config {
            let found = image.config.get(*name).unwrap_or(&Value::Null);
            if found != *expected {
                lines.push(format!("{name} is {found}, not {expected}"));
            }
        }
        if let Some(expected) = self.history {
            lines.extend(history_differences(expected, own_history(image, bases)));
        }
        lines
    }
}

/// Whether the pieces of a pattern, which ellipses separate, are in a text in their order.
fn says(text: &str, pattern: &str) -> bool {
    let mut rest = text;
    pattern.split('…').all(|piece| {
        let found = rest.find(piece);
        rest = found.map_or("", |at| &rest[at + piece.len()..]);
        found.is_some()
    })
}

/// Returns one line for each thing in which two builders differ, leaving out the parts that a case says they differ in.
/// The history counts only when `history` is set.
pub fn compare(case: &Case, ours: &Image, theirs: &Image, bases: &[Image], history: bool) -> Vec<String> {
    let other = case.buildkit.as_ref();
    let mut lines = Vec::new();
    if other.is_none_or(|other| other.files.is_none()) {
        lines.extend(differences(&theirs.changes(bases), &ours.changes(bases)));
    }
    let names = ours.config.keys().chain(theirs.config.keys());
    let mut names: Vec<_> = names.filter(|name| other.is_none_or(|other| !other.config.contains_key(*name))).collect();
    names.sort();
    names.dedup();
    for name in names {
        let [found, expected] = [ours, theirs].map(|image| image.config.get(name).unwrap_or(&Value::Null));
        if found != expected {
            lines.push(format!("{name} is {found}, in BuildKit {expected}"));
        }
    }
    if history && other.is_none_or(|other| other.history.is_none()) {
        lines.extend(history_differences(own_history(theirs, bases), own_history(ours, bases)));
    }
    lines
}

fn history_differences(expected: &[String], found: &[String]) -> Vec<String> {
    let count = expected.len().max(found.len());
    let line = |lines: &[String], at: usize| lines.get(at).map_or("nothing".to_owned(), |line| format!("`{line}`"));
    (0..count)
        .filter(|at| expected.get(*at) != found.get(*at))
        .map(|at| format!("line {} of the history is {}, not {}", at + 1, line(found, at), line(expected, at)))
        .collect()
}

fn own_history<'a>(image: &'a Image, bases: &[Image]) -> &'a [String] {
    let inherited = image.base(bases).map_or(0, |base| base.history.len());
    image.history.get(inherited..).unwrap_or_default()
}

fn differences(expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, line) in expected {
        match found.get(path) {
            Some(other) if other == line => {}
            Some(other) => lines.push(format!("{path} is {other}, not {line}")),
            None => lines.push(format!("{path} is missing ({line})")),
        }
    }
    lines.extend(
        found.iter().filter(|(path, _)| !expected.contains_key(*path)).map(|(path, line)| format!("{path} is there: {line}")),
    );
    lines
}

/// Shows an image as a case would state it.
fn show(image: &Image, bases: &[Image]) -> String {
    let mut text = "    files: |\n".to_owned();
    for (path, line) in image.changes(bases) {
        let _ = writeln!(text, "      {path} {line}");
    }
    text
}
