//! What a file's keys may hold, as data: one table per file is what the reader checks against, what the JSON Schema is made
//! from, and what the documented example is held to.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::yaml::{Node, Value};
use crate::diagnostic::{Diagnostic, Diagnostics, Span, nearest};

/// What a value may be. Null is always allowed and means the default.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Any single value, taken as text.
    Text,
    /// Text that is one of these words.
    Word(&'static [&'static str]),
    /// A boolean, in YAML 1.1's words too.
    Bool,
    /// A whole number in this range.
    Integer(i128, i128),
    /// Anything.
    Any,
    /// A list.
    List(&'static Shape),
    /// A mapping with keys of the user's choice.
    Map(&'static Shape),
    /// A mapping with these keys.
    Record(&'static [Field]),
    /// One value, or a list of them.
    OneOrMore(&'static Shape),
}

/// A key of a record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// The key in YAML.
    pub(crate) key: &'static str,
    /// What it holds.
    pub(crate) shape: Shape,
    /// The key in the JSON of an image label; empty where none is made.
    pub(crate) json: &'static str,
    /// When it appears in that JSON.
    pub(crate) presence: Presence,
    /// One line for people.
    pub(crate) doc: &'static str,
}

/// When a field appears in the JSON that Go's `encoding/json` would write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    /// When it was given, even if empty: a pointer with `omitempty`.
    Given,
    /// When it is not empty, zero or false: a value with `omitempty`.
    NotEmpty,
    /// Always.
    Always,
}

impl Field {
    /// Returns a documented key.
    pub(crate) const fn new(key: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self { key, shape, json: "", presence: Presence::Given, doc }
    }
}

/// Most mistakes told about one file.
const MOST_TOLD: usize = 50;

/// A file being read, and the mistakes found in it so far.
#[derive(Debug)]
pub(crate) struct Findings<'a> {
    file: &'a Path,
    text: &'a str,
    found: Vec<Diagnostic>,
    more: usize,
}

impl<'a> Findings<'a> {
    /// Returns no findings about `file`, as messages name it, with the content `text`.
    pub(crate) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, found: Vec::new(), more: 0 }
    }

    /// Adds a mistake at `span`.
    pub(crate) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.add(span, message.into(), None);
    }

    /// Adds a mistake at `span`, and what would be right.
    pub(crate) fn error_with_help(&mut self, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.add(span, message.into(), Some(help.into()));
    }

    fn add(&mut self, span: Span, message: String, help: Option<String>) {
        if self.found.len() == MOST_TOLD {
            self.more += 1;
            return;
        }
        let diagnostic = Diagnostic::error(self.file, message).at(span, self.text);
        self.found.push(match help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        });
    }

    /// Adds a mistake about the file as a whole.
    pub(crate) fn error_in_file(&mut self, message: impl Into<String>, help: impl Into<String>) {
        self.found.push(Diagnostic::error(self.file, message).help(help));
    }

    /// Adds what was found elsewhere in the same file.
    pub(crate) fn join(&mut self, other: Findings<'_>) {
        self.found.extend(other.found);
        self.more += other.more;
    }

    /// Returns whether nothing was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns what was found, in the order of the file.
    pub(crate) fn finish(mut self) -> Diagnostics {
        self.found.sort_by_key(|diagnostic| diagnostic.span);
        if self.more > 0 {
            self.found.push(Diagnostic::error(self.file, format!("{} more mistakes are not shown", self.more)));
        }
        Diagnostics(self.found)
    }
}

/// Compares `node` with `shape` and adds every mistake; `name` is how messages call the value.
pub(crate) fn check(node: &Node, shape: &Shape, name: &str, findings: &mut Findings<'_>) {
    if node.is_null() {
        return;
    }
    let mut wrong = |wanted: &str| {
        let message = match name {
            "" => format!("the file must hold {wanted}, not {}", node.kind()),
            _ => format!("`{name}` must be {wanted}, not {}", node.kind()),
        };
        findings.error(node.span, message);
    };
    match (shape, &*node.value) {
        (Shape::Any, _) | (Shape::Text, Value::Scalar(_)) => {}
        (Shape::Text, _) => wrong("text"),
        (Shape::Word(words), Value::Scalar(scalar)) => {
            if !words.contains(&scalar.text.as_str()) {
                let list = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ");
                wrong(&list);
            }
        }
        (Shape::Word(_), _) => wrong("text"),
        (Shape::Bool, _) if node.boolean().is_some() => {}
        (Shape::Bool, _) => wrong("`true` or `false`"),
        (Shape::Integer(low, high), _) => match node.integer() {
            Some(number) if (*low..=*high).contains(&number) => {}
            Some(_) => wrong(&format!("a whole number from {low} to {high}")),
            None => wrong("a whole number"),
        },
        (Shape::List(item), Value::Sequence(items)) => {
            for (at, child) in items.iter().enumerate() {
                check(child, item, &format!("{name}[{at}]"), findings);
            }
        }
        (Shape::List(_), _) => {
            wrong("a list");
            help_with_list(node, findings);
        }
        (Shape::OneOrMore(item), Value::Sequence(items)) => {
            for (at, child) in items.iter().enumerate() {
                check(child, item, &format!("{name}[{at}]"), findings);
            }
        }
        (Shape::OneOrMore(item), _) => check(node, item, name, findings),
        (Shape::Map(shape), Value::Mapping(entries)) => {
            check_keys(entries, findings);
            for (key, value) in entries {
                check(value, shape, &dotted(name, key.text().unwrap_or_default()), findings);
            }
        }
        (Shape::Record(fields), Value::Mapping(entries)) => {
            check_keys(entries, findings);
            let mut seen = HashSet::new();
            for (key, value) in entries {
                // What is wrong with a repeated key was told at its first place.
                let Some(word) = key.text().filter(|word| seen.insert(*word)) else { continue };
                match fields.iter().find(|field| field.key == word) {
                    Some(field) => check(value, &field.shape, &dotted(name, word), findings),
                    None => unknown_key(key, word, name, fields, findings),
                }
            }
        }
        (Shape::Map(_) | Shape::Record(_), _) => wrong("a mapping of keys to values"),
    }
}

fn help_with_list(node: &Node, findings: &mut Findings<'_>) {
    if let (Some(text), Some(last)) = (node.text(), findings.found.last_mut())
        && text.len() < 80
        && last.help.is_none()
    {
        last.help = Some(format!("write `[{text}]`"));
    }
}

fn dotted(name: &str, key: &str) -> String {
    if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") }
}

fn unknown_key(key: &Node, word: &str, name: &str, fields: &[Field], findings: &mut Findings<'_>) {
    let message = match name {
        "" => format!("unknown key `{word}`"),
        _ => format!("unknown key `{word}` in `{name}`"),
    };
    match nearest(word, fields.iter().map(|field| field.key)) {
        Some(meant) => findings.error_with_help(key.span, message, format!("did you mean `{meant}`?")),
        None => {
            let keys = fields.iter().map(|field| format!("`{}`", field.key)).collect::<Vec<_>>().join(", ");
            findings.error_with_help(key.span, message, format!("the keys are {keys}"));
        }
    }
}

/// Tells of keys that are no text, and of those given twice.
fn check_keys(entries: &[(Node, Node)], findings: &mut Findings<'_>) {
    let mut seen = HashMap::new();
    for (key, _) in entries {
        match key.text() {
            None => findings.error(key.span, format!("a key must be text, not {}", key.kind())),
            Some(word) => {
                if let Some(first) = seen.insert(word, key.span.line) {
                    findings.error(key.span, format!("key `{word}` is already given in line {first}"));
                }
            }
        }
    }
}
