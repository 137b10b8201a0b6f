//! YAML files as trees in which every value knows its place, so that all mistakes of a file can be told at once.
//!
//! Values are kept as written; what a plain `yes` or `0x10` means depends on what is wanted there, as in go-yaml v3, which
//! linuxkit reads these files with. Only the first document counts. Size, nesting and the number of values (aliases
//! expanded) are bounded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Tag};

use crate::diagnostic::Span;

/// Largest file that is read. The largest build.yml in use has about 4 KiB.
pub(crate) const LARGEST_FILE: u64 = 1 << 20;
/// Most values in a file, those that aliases repeat included.
const MOST_VALUES: usize = 100_000;
/// Deepest nesting, aliases expanded.
const DEEPEST: usize = 100;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it begins.
    pub(crate) span: Span,
    /// What it is; shared where an alias repeats it.
    pub(crate) value: Arc<Value>,
    values: usize,
    depth: usize,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Value {
    /// Text, a number, a boolean, or nothing.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in the order written, merge keys resolved.
    Mapping(Vec<(Node, Node)>),
}

/// A single value.
#[derive(Debug)]
pub(crate) struct Scalar {
    /// As written, quotes and escapes resolved.
    pub(crate) text: String,
    /// Whether it was written without quotes, so that it may be more than text.
    pub(crate) plain: bool,
}

/// Why a text is no YAML that is read here.
#[derive(Debug)]
pub(crate) struct YamlError {
    /// Where.
    pub(crate) span: Span,
    /// What is wrong.
    pub(crate) message: String,
}

impl Node {
    fn new(span: Span, value: Value) -> Result<Self, YamlError> {
        let children: Vec<&Node> = match &value {
            Value::Scalar(_) => Vec::new(),
            Value::Sequence(items) => items.iter().collect(),
            Value::Mapping(entries) => entries.iter().flat_map(|(key, value)| [key, value]).collect(),
        };
        let values = 1 + children.iter().map(|child| child.values).sum::<usize>();
        let depth = 1 + children.iter().map(|child| child.depth).max().unwrap_or(0);
        if values > MOST_VALUES {
            return Err(YamlError::new(span, format!("more than {MOST_VALUES} values, aliases expanded")));
        }
        if depth > DEEPEST {
            return Err(YamlError::new(span, format!("nested more than {DEEPEST} deep")));
        }
        Ok(Self { span, value: Arc::new(value), values, depth })
    }

    /// Returns whether this is nothing: `~`, `null` or an empty value.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&*self.value, Value::Scalar(Scalar { text, plain: true }) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns the text of a scalar that is not null: as written, whatever else it might mean.
    pub(crate) fn text(&self) -> Option<&str> {
        match &*self.value {
            Value::Scalar(scalar) if !self.is_null() => Some(&scalar.text),
            _ => None,
        }
    }

    /// Returns a boolean: `true` and `false`, or a word of YAML 1.1, quoted or not.
    pub(crate) fn boolean(&self) -> Option<bool> {
        let Value::Scalar(scalar) = &*self.value else { return None };
        match scalar.text.as_str() {
            "true" | "True" | "TRUE" if scalar.plain => Some(true),
            "false" | "False" | "FALSE" if scalar.plain => Some(false),
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        }
    }

    /// Returns a whole number.
    pub(crate) fn integer(&self) -> Option<i128> {
        match &*self.value {
            Value::Scalar(Scalar { text, plain: true }) => integer(text),
            _ => None,
        }
    }

    /// Returns the items of a list; nothing is an empty list.
    pub(crate) fn items(&self) -> &[Node] {
        match &*self.value {
            Value::Sequence(items) => items,
            _ => &[],
        }
    }

    /// Returns the entries of a mapping; nothing is an empty mapping.
    pub(crate) fn entries(&self) -> &[(Node, Node)] {
        match &*self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// Returns the value of `key`, unless it is null.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.get_or_null(key).filter(|node| !node.is_null())
    }

    /// Returns the value of `key`, null or not.
    pub(crate) fn get_or_null(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
    }

    /// Returns what this is, for messages.
    pub(crate) fn kind(&self) -> String {
        match &*self.value {
            _ if self.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) if scalar.text.chars().count() > 40 => "a long text".to_owned(),
            Value::Scalar(scalar) => format!("`{}`", scalar.text),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Returns a whole number as go-yaml v3 takes it: decimal, `0x`, `0o` or `0` for octal, `0b`, with `_` between digits.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    let (radix, digits) = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        Some(_) if digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits.as_str()),
    };
    let ok = !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    let number = ok.then(|| i128::from_str_radix(digits, radix).ok()).flatten()?;
    let number = if negative { -number } else { number };
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&number).then_some(number)
}

impl YamlError {
    fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into() }
    }
}

/// Returns the first document of `text`, or `None` when there is none.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, YamlError> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    // As libyaml, which go-yaml is a translation of.
    options.block_scalar_eof_without_line_feed = true;
    options.emit_unresolved_aliases = true;
    let mut reader = Reader { parser: Parser::new_from_str_with_options(text, options), anchors: HashMap::new() };
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(None),
            (Event::DocumentStart(..), _) => {
                let (event, span) = reader.next()?;
                return reader.node(event, span, 0).map(Some);
            }
            _ => {}
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, serde_saphyr::granit_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place(span.start.line(), span.start.col()))),
            Some(Err(error)) => {
                let marker = error.marker();
                Err(YamlError::new(place(marker.line(), marker.col()), format!("not valid YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Span::at(1, 1))),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, YamlError> {
        if depth > DEEPEST {
            return Err(YamlError::new(span, format!("nested more than {DEEPEST} deep")));
        }
        let (anchor, value) = match event {
            Event::Alias(id) => {
                let missing = || YamlError::new(span, "an anchor that contains itself");
                return self.anchors.get(&id).cloned().ok_or_else(missing);
            }
            Event::UnresolvedAlias(name) => {
                return Err(YamlError::new(span, format!("alias `*{name}` has no anchor `&{name}` before it")));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = plain(tag.as_deref(), style, span)?;
                (anchor, Value::Scalar(Scalar { text: text.into_owned(), plain }))
            }
            Event::SequenceStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "seq", span)?;
                let mut items = Vec::new();
                let mut values = 0;
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    items.push(self.counted(event, span, depth + 1, &mut values)?);
                }
                (anchor, Value::Sequence(items))
            }
            Event::MappingStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "map", span)?;
                let mut entries = Vec::new();
                let mut values = 0;
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::MappingEnd {
                        break;
                    }
                    let key = self.counted(event, span, depth + 1, &mut values)?;
                    let (event, span) = self.next()?;
                    entries.push((key, self.counted(event, span, depth + 1, &mut values)?));
                }
                (anchor, Value::Mapping(merge(entries)?))
            }
            _ => return Err(YamlError::new(span, "not valid YAML: a value was expected")),
        };
        let node = Node::new(span, value)?;
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Reads a child, and stops before its parent grows too large to be built.
    fn counted(&mut self, event: Event<'a>, span: Span, depth: usize, values: &mut usize) -> Result<Node, YamlError> {
        let node = self.node(event, span, depth)?;
        *values += node.values;
        if *values > MOST_VALUES {
            return Err(YamlError::new(span, format!("more than {MOST_VALUES} values, aliases expanded")));
        }
        Ok(node)
    }
}

fn place(line: usize, column: usize) -> Span {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    // Lines count from 1 and columns from 0 in the parser.
    Span::at(number(line).max(1), number(column).saturating_add(1))
}

/// Returns whether a scalar may be more than text. Only YAML's own tags mean something here.
fn plain(tag: Option<&Tag>, style: ScalarStyle, span: Span) -> Result<bool, YamlError> {
    let Some(tag) = tag else { return Ok(style == ScalarStyle::Plain) };
    match tag.core_suffix() {
        Some("str") => Ok(false),
        Some("int" | "bool" | "float" | "null") => Ok(true),
        _ if tag.original() == "!" => Ok(false),
        _ => Err(YamlError::new(span, format!("the tag `{}` means nothing here", tag.original()))),
    }
}

fn collection_tag(tag: Option<&Tag>, own: &str, span: Span) -> Result<(), YamlError> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(own) && tag.original() != "!" => {
            Err(YamlError::new(span, format!("the tag `{}` means nothing here", tag.original())))
        }
        _ => Ok(()),
    }
}

/// Resolves `<<` (YAML 1.1, "Merge Key"): the mapping's own keys win, then those of the first that is merged.
fn merge(entries: Vec<(Node, Node)>) -> Result<Vec<(Node, Node)>, YamlError> {
    let is_merge = |key: &Node| matches!(&*key.value, Value::Scalar(Scalar { text, plain: true }) if text == "<<");
    if !entries.iter().any(|(key, _)| is_merge(key)) {
        return Ok(entries);
    }
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| is_merge(key));
    let mut names: HashSet<String> = own.iter().filter_map(|(key, _)| key.text().map(str::to_owned)).collect();
    for (_, merged) in merges {
        let sources = match &*merged.value {
            Value::Sequence(items) => items.clone(),
            _ => vec![merged.clone()],
        };
        for source in sources {
            let Value::Mapping(more) = &*source.value else {
                return Err(YamlError::new(source.span, "`<<` merges mappings only"));
            };
            for (key, value) in more {
                if names.insert(key.text().unwrap_or_default().to_owned()) {
                    own.push((key.clone(), value.clone()));
                }
            }
        }
    }
    Ok(own)
}
