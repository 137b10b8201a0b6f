//! The checks: what builds and is hardly ever meant. BuildKit's rules by BuildKit's names, so that a Dockerfile gets the same
//! verdict from both; the words are ours.
//!
//! | module | owns |
//! |---|---|
//! | [`rule`](Rule) | names and help |
//! | `options` | `# check=` |
//! | `written` | what the text alone shows: cases, names, comments |
//! | `walk` | what an instruction means where it stands: variables, ignored files, what is given twice |
//!
//! Nothing is read. What a base image sets is known only to those who have it: without, a variable that nobody declares is
//! told with that reserve, and the instruction counts as uncertain.

mod options;
mod rule;
#[cfg(test)]
mod tests;
mod walk;
mod written;

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::{Diagnostic, Diagnostics, Severity, Span};

use super::stages::{ImageUse, StageOptions};
use super::{Dockerfile, Ignore};

use options::Options;
pub use rule::Rule;

/// What the checks depend on besides the Dockerfile.
pub struct Surroundings<'a> {
    /// Platform, arguments and target.
    pub options: &'a StageOptions,
    /// The ignore file of the context, if there is one.
    pub ignore: Option<&'a Ignore>,
    /// What base images set, as far as known.
    pub images: &'a BTreeMap<ImageUse, ImageFacts>,
    /// The stages to look into, by their number in the Dockerfile; `None` for all.
    pub stages: Option<&'a BTreeSet<usize>>,
}

/// What a stage inherits from its base image, as far as checks depend on it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImageFacts {
    /// Its environment, as `KEY=value`.
    pub environment: Vec<String>,
    /// Whether it sets a shell.
    pub has_shell: bool,
}

/// What the checks found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// One diagnostic each, sorted by place; errors where the Dockerfile says `error=true`.
    pub found: Vec<Diagnostic>,
    /// Instructions that use a variable which only the base image can have set, and nobody knows whether it does.
    pub uncertain: BTreeSet<Span>,
}

impl Checked {
    /// Returns whether a check found something that the Dockerfile calls an error.
    pub fn stops(&self) -> bool {
        self.found.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }
}

/// Runs the checks.
///
/// # Errors
/// When the directive `check` cannot be read.
pub fn check(dockerfile: &Dockerfile, surroundings: &Surroundings<'_>) -> Result<Checked, Diagnostics> {
    let options = match &dockerfile.directives.check {
        None => Options::default(),
        Some(directive) => Options::parse(&directive.value)
            .map_err(|error| Diagnostics(vec![dockerfile.error(directive.span, error.to_string())]))?,
    };
    let mut findings = Findings { dockerfile, options: &options, found: Vec::new() };
    if let Some(directive) = &dockerfile.directives.check {
        for (name, near) in options.unknown() {
            let warning = dockerfile.warning(directive.span, format!("no check is called `{name}`"));
            findings.found.push(Diagnostic { help: near.map(|near| format!("did you mean `{near}`?")), ..warning });
        }
    }
    written::check(&mut findings);
    let uncertain = walk::check(&mut findings, surroundings);
    let mut found = findings.found;
    found.sort_by(|a, b| (a.span, a.rule, &a.message).cmp(&(b.span, b.rule, &b.message)));
    found.dedup();
    Ok(Checked { found, uncertain })
}

/// What was found so far.
struct Findings<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a Options,
    found: Vec<Diagnostic>,
}

impl Findings<'_> {
    /// Tells of something, unless the directive or the comments of the instruction turn the check off.
    fn tell(&mut self, rule: Rule, (span, comments): (Span, &[String]), message: String) {
        self.tell_with(rule, (span, comments), message, rule.help().to_owned());
    }

    fn tell_with(&mut self, rule: Rule, (span, comments): (Span, &[String]), message: String, help: String) {
        if self.options.with_comments(comments).runs(rule) {
            let mut diagnostic = self.dockerfile.warning(span, message).rule(rule.name()).help(help);
            if self.options.error {
                diagnostic.severity = Severity::Error;
            }
            self.found.push(diagnostic);
        }
    }
}
