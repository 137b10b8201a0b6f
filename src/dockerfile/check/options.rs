//! `# check=skip=A,B;error=true;experimental=all`: which checks run, and whether what they find stops a build.

use std::collections::BTreeSet;

use crate::diagnostic::nearest;

use super::Rule;

/// BuildKit's name for a check that needs the image itself, and that the resolution of images does here.
const ELSEWHERE: &str = "InvalidBaseImagePlatform";

/// Which checks run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Options {
    skip: Named,
    experimental: Named,
    /// Whether what is found stops a build.
    pub(super) error: bool,
}

/// Some checks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Named {
    all: bool,
    names: BTreeSet<String>,
}

impl Named {
    fn read(value: &str) -> Self {
        match value.trim() {
            "all" => Self { all: true, names: BTreeSet::new() },
            names => Self { all: false, names: names.split(',').map(|name| name.trim().to_owned()).collect() },
        }
    }

    fn has(&self, rule: Rule) -> bool {
        self.all || self.names.contains(rule.name())
    }

    fn add(&mut self, other: Self) {
        self.all |= other.all;
        self.names.extend(other.names);
    }
}

/// Why the options of checks cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum OptionsError {
    #[error("`{0}` is no option of `check`: there are `skip=…`, `error=…` and `experimental=…`, divided by `;`")]
    Unknown(String),
    #[error("`error={0}` must be `error=true` or `error=false`")]
    Error(String),
}

impl Options {
    /// Reads the value of the directive, up to its first blank: a remark may follow.
    pub(super) fn parse(value: &str) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        let value = value.trim_start().split(' ').next().unwrap_or_default();
        if value.is_empty() {
            return Ok(options);
        }
        for part in value.split(';') {
            let unknown = || OptionsError::Unknown(part.trim().to_owned());
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            match name.trim() {
                "skip" => options.skip = Named::read(value),
                "experimental" => options.experimental = Named::read(value),
                "error" => {
                    options.error = match value.trim() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        other => return Err(OptionsError::Error(other.to_owned())),
                    };
                }
                _ => return Err(unknown()),
            }
        }
        Ok(options)
    }

    /// Returns the options for an instruction with these comments above it, of which the first `check=` counts; one that
    /// cannot be read does not. `error` is not theirs to say.
    pub(super) fn with_comments(&self, comments: &[String]) -> Self {
        let value = comments.iter().find_map(|comment| {
            let (name, value) = comment.split_once('=')?;
            name.trim_end().eq_ignore_ascii_case("check").then(|| value.trim_start())
        });
        let mut merged = self.clone();
        if let Some(Ok(own)) = value.map(Self::parse) {
            merged.skip.add(own.skip);
            merged.experimental.add(own.experimental);
        }
        merged
    }

    /// Returns whether a check runs.
    pub(super) fn runs(&self, rule: Rule) -> bool {
        if rule.is_experimental() { self.experimental.has(rule) } else { !self.skip.has(rule) }
    }

    /// Returns the names that no check has, each with the nearest that exists.
    pub(super) fn unknown(&self) -> Vec<(&str, Option<&'static str>)> {
        let known = || Rule::ALL.iter().map(|rule| rule.name()).chain([ELSEWHERE]);
        let names = self.skip.names.iter().chain(&self.experimental.names).map(String::as_str);
        names
            .filter(|name| !name.is_empty() && !known().any(|known| known == *name))
            .map(|name| (name, nearest(name, known())))
            .collect()
    }
}
