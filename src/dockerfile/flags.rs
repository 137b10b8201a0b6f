//! The flags of an instruction: which exist, what they take.

use crate::diagnostic::nearest;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Takes {
    /// Nothing, or `true` or `false`.
    Boolean,
    /// One value, once.
    Text,
    /// One value each time.
    List,
}

/// The flags of one instruction.
pub(super) type Known = &'static [(&'static str, Takes)];

pub(super) const NONE: Known = &[];
pub(super) const FROM: Known = &[("platform", Takes::Text)];
pub(super) const COPY: Known = &[
    ("chmod", Takes::Text),
    ("chown", Takes::Text),
    ("exclude", Takes::List),
    ("from", Takes::Text),
    ("link", Takes::Boolean),
    ("parents", Takes::Boolean),
];
pub(super) const ADD: Known = &[
    ("checksum", Takes::Text),
    ("chmod", Takes::Text),
    ("chown", Takes::Text),
    ("exclude", Takes::List),
    ("keep-git-dir", Takes::Boolean),
    ("link", Takes::Boolean),
    ("unpack", Takes::Boolean),
];
pub(super) const RUN: Known =
    &[("device", Takes::List), ("mount", Takes::List), ("network", Takes::Text), ("security", Takes::Text)];
pub(super) const HEALTHCHECK: Known = &[
    ("interval", Takes::Text),
    ("retries", Takes::Text),
    ("start-interval", Takes::Text),
    ("start-period", Takes::Text),
    ("timeout", Takes::Text),
];

/// The flags that were given.
pub(super) struct Flags(Vec<(&'static str, String)>);

/// A mistake in a flag and what would be right.
pub(super) type FlagMistake = (String, Option<String>);

impl Flags {
    /// Reads `words`, each beginning with `--`, and tells every mistake.
    pub(super) fn read(instruction: &str, words: &[String], known: Known) -> (Self, Vec<FlagMistake>) {
        let mut given: Vec<(&'static str, String)> = Vec::new();
        let mut mistakes = Vec::new();
        for word in words {
            let (flag, value) = word.split_once('=').map_or((&word[..], None), |(flag, value)| (flag, Some(value)));
            let name = flag.strip_prefix("--").unwrap_or(flag);
            let Some((name, takes)) = known.iter().find(|(known, _)| *known == name).copied() else {
                mistakes.push(unknown(instruction, flag, name, known));
                continue;
            };
            if takes != Takes::List && given.iter().any(|(other, _)| *other == name) {
                mistakes.push((format!("the flag `{flag}` is given twice"), None));
                continue;
            }
            match (takes, value.map(str::to_ascii_lowercase).as_deref(), value) {
                (Takes::Boolean, None | Some("true"), _) => given.push((name, "true".to_owned())),
                (Takes::Boolean, Some("false"), _) => given.push((name, "false".to_owned())),
                (Takes::Boolean, Some(_), value) => {
                    let message = format!("`{}` is no value of the flag `{flag}`", value.unwrap_or_default());
                    mistakes.push((message, Some(format!("write `{flag}`, `{flag}=true` or `{flag}=false`"))));
                }
                (_, _, Some(value)) => given.push((name, value.to_owned())),
                (_, _, None) => mistakes.push((format!("the flag `{flag}` needs a value"), Some(format!("write `{flag}=…`")))),
            }
        }
        (Self(given), mistakes)
    }

    /// Returns the value of a flag; an empty one counts as none, as BuildKit has it.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let found = self.0.iter().find(|(given, value)| *given == name && !value.is_empty());
        found.map(|(_, value)| value.clone())
    }

    /// Returns the value of a boolean flag, or `None` if it was not given.
    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        self.0.iter().find(|(given, _)| *given == name).map(|(_, value)| value == "true")
    }

    /// Returns all values of a flag, in order.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(given, _)| *given == name).map(|(_, value)| value.clone()).collect()
    }
}

fn unknown(instruction: &str, flag: &str, name: &str, known: Known) -> FlagMistake {
    let names = || known.iter().map(|(name, _)| *name);
    let help = match nearest(name, names()) {
        Some(nearest) => format!("did you mean `--{nearest}`?"),
        None if known.is_empty() => format!("{instruction} takes no flags"),
        None => format!("{instruction} takes {}", names().map(|name| format!("`--{name}`")).collect::<Vec<_>>().join(", ")),
    };
    (format!("unknown flag `{flag}` of {instruction}"), Some(help))
}
