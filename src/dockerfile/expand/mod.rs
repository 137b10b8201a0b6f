//! Expansion of variables, quotes and escapes in a word, by the rules of BuildKit's shell lexer.
//!
//! It looks like `sh` and differs: `$1` and `$@` are consumed and empty, `${x:=y}` is an error, `${x//a/b}` replaces as a
//! regular expression does (so `$0` in the replacement is the match), and a lone `\` at the end vanishes.

mod pattern;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

/// The longest text that an expansion may yield, in bytes: `ENV a=$a$a` repeated must not exhaust memory.
pub const LIMIT: usize = 16 * 1024 * 1024;

/// How deep `${a:-${b:-…}}` may nest.
const DEPTH: usize = 200;

/// How quotes, escapes and unset variables are treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mode {
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// Quotes are ordinary characters.
    pub literal_quotes: bool,
    /// References to variables that are not set stay as written.
    pub keep_unset: bool,
}

impl Mode {
    /// A word of an instruction: quotes are taken off, unset variables are empty.
    pub const WORD: Self = Self { raw_quotes: false, raw_escapes: false, literal_quotes: false, keep_unset: false };
    /// The body of a heredoc: quotes mean nothing. The escape character is always `\` there.
    pub const HEREDOC: Self = Self { literal_quotes: true, ..Self::WORD };
    /// A command shown to people: quotes stay, unset variables stay.
    pub const SHOWN: Self = Self { raw_quotes: true, keep_unset: true, ..Self::WORD };
}

/// Why a word cannot be expanded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExpandError {
    /// A quote is opened and not closed.
    #[error("the {0} quote is never closed")]
    Quote(&'static str),
    /// `${` without its end.
    #[error("`${{` is never closed: `{0}` is missing")]
    Unclosed(char),
    /// `${}`, `${:…}` or `${{`.
    #[error("`${{` must be followed by the name of a variable")]
    NoName,
    /// An operator that does not exist.
    #[error("`{operator}` is no operator of `${{{name}…}}`: known are `:-` `-` `:+` `+` `:?` `?` `#` `##` `%` `%%` `/` `//`")]
    Operator {
        /// The variable.
        name: String,
        /// What was written.
        operator: String,
    },
    /// `${x:?message}` of a variable that is unset or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message of the Dockerfile, or ours.
        message: String,
    },
    /// The pattern of `#`, `%` or `/`.
    #[error("`{0}` is not a pattern: `\\` may only stand before `*`, `?`, `\\`, `/` and `}}`")]
    Pattern(String),
    /// Too much text.
    #[error("the expansion is longer than {LIMIT} bytes")]
    TooLong,
    /// Too many levels.
    #[error("`${{…}}` is nested more than {DEPTH} deep")]
    TooDeep,
}

/// A word after expansion, and which variables it asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Variables that were set.
    pub matched: BTreeSet<String>,
    /// Variables that were not.
    pub unmatched: BTreeSet<String>,
}

/// Looks up the value of a variable.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Returns `word` expanded as one word: its blanks stay.
///
/// # Errors
/// As [`ExpandError`].
pub fn expand_word(word: &str, escape: char, lookup: Lookup<'_>, mode: Mode) -> Result<String, ExpandError> {
    Ok(expand(word, escape, lookup, mode)?.text)
}

/// Returns `word` expanded as one word, with the variables it asked for.
///
/// # Errors
/// As [`ExpandError`].
pub fn expand(word: &str, escape: char, lookup: Lookup<'_>, mode: Mode) -> Result<Expanded, ExpandError> {
    let mut scanner = Scanner::new(word, escape, lookup, mode);
    let (text, _) = scanner.run(None, mode.raw_escapes)?;
    Ok(Expanded { text, matched: scanner.matched, unmatched: scanner.unmatched })
}

/// Returns `text` expanded and then divided at blanks outside of quotes.
///
/// # Errors
/// As [`ExpandError`].
pub fn expand_words(text: &str, escape: char, lookup: Lookup<'_>, mode: Mode) -> Result<Vec<String>, ExpandError> {
    let (_, words) = Scanner::new(text, escape, lookup, mode).run(None, mode.raw_escapes)?;
    Ok(words.finish())
}

/// Words as they are collected; blanks divide them unless they come from quotes or escapes.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    fn plain(&mut self, c: char) {
        if !c.is_whitespace() {
            self.current.push(c);
        } else if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.done.push(self.current);
        }
        self.done
    }
}

struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    escape: char,
    lookup: Lookup<'a>,
    mode: Mode,
    depth: usize,
    /// Bytes produced so far on all levels.
    produced: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl<'a> Scanner<'a> {
    fn new(word: &'a str, escape: char, lookup: Lookup<'a>, mode: Mode) -> Self {
        // Go's scanner drops a byte order mark at the start of its input.
        let rest = word.strip_prefix('\u{feff}').unwrap_or(word).chars().peekable();
        Self { rest, escape, lookup, mode, depth: 0, produced: 0, matched: BTreeSet::new(), unmatched: BTreeSet::new() }
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    fn grow(&mut self, by: usize) -> Result<(), ExpandError> {
        self.produced = self.produced.saturating_add(by);
        if self.produced > LIMIT { Err(ExpandError::TooLong) } else { Ok(()) }
    }

    /// Reads up to `stop`, or to the end when there is none.
    fn run(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Words), ExpandError> {
        let outer = std::mem::replace(&mut self.mode.raw_escapes, raw_escapes);
        self.depth += 1;
        let result = if self.depth > DEPTH { Err(ExpandError::TooDeep) } else { self.run_level(stop) };
        self.depth -= 1;
        self.mode.raw_escapes = outer;
        result
    }

    fn run_level(&mut self, stop: Option<char>) -> Result<(String, Words), ExpandError> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.rest.next();
                return Ok((text, words));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.grow(value.len())?;
                    text.push_str(&value);
                    value.chars().for_each(|c| words.plain(c));
                }
                '<' => {
                    let value = self.heredoc_mark();
                    text.push_str(&value);
                    words.current.push_str(&value);
                }
                '\'' | '"' if !self.mode.literal_quotes => {
                    let value = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    text.push_str(&value);
                    words.current.push_str(&value);
                }
                _ if c == self.escape => {
                    self.rest.next();
                    if self.mode.raw_escapes {
                        text.push(c);
                        words.current.push(c);
                    }
                    let Some(escaped) = self.rest.next() else { break };
                    text.push(escaped);
                    words.current.push(escaped);
                }
                _ => {
                    self.rest.next();
                    text.push(c);
                    words.plain(c);
                }
            }
        }
        match stop {
            Some(stop) => Err(ExpandError::Unclosed(stop)),
            None => Ok((text, words)),
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = String::new();
        self.rest.next();
        let raw = self.mode.raw_quotes;
        if raw {
            text.push('\'');
        }
        loop {
            match self.rest.next() {
                None => return Err(ExpandError::Quote("single")),
                Some('\'') => {
                    if raw {
                        text.push('\'');
                    }
                    return Ok(text);
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = String::new();
        self.rest.next();
        let raw = self.mode.raw_quotes;
        if raw {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(ExpandError::Quote("double")),
                Some('"') => {
                    self.rest.next();
                    if raw {
                        text.push('"');
                    }
                    return Ok(text);
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.grow(value.len())?;
                    text.push_str(&value);
                }
                Some(c) if c == self.escape => {
                    self.rest.next();
                    if self.mode.raw_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(next) if next == '"' || next == '$' || next == self.escape => {
                            self.rest.next();
                            text.push(next);
                        }
                        Some(_) => text.push(c),
                    }
                }
                Some(c) => {
                    self.rest.next();
                    text.push(c);
                }
            }
        }
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.rest.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.get(&name) {
                None if self.mode.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.rest.next();
        match self.peek() {
            None => return Err(ExpandError::Unclosed('}')),
            Some('{' | '}' | ':') => return Err(ExpandError::NoName),
            Some(_) => {}
        }
        let name = self.name();
        match self.rest.next() {
            None => Err(ExpandError::Unclosed('}')),
            Some('}') => Ok(match self.get(&name) {
                None if self.mode.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => {
                let Some(operator) = self.rest.next() else { return Err(ExpandError::Unclosed('}')) };
                self.operator(name, operator, true)
            }
            Some('/') => self.replace(&name),
            Some(operator) => self.operator(name, operator, false),
        }
    }

    fn operator(&mut self, name: String, operator: char, empty_is_unset: bool) -> Result<String, ExpandError> {
        let shown = if empty_is_unset { format!(":{operator}") } else { operator.to_string() };
        let trims = matches!(operator, '#' | '%');
        if !matches!(operator, '-' | '+' | '?' | '#' | '%') || (trims && empty_is_unset) {
            return Err(ExpandError::Operator { name, operator: shown });
        }
        let (word, _) = self.run(Some('}'), trims)?;
        let value = self.get(&name);
        if value.is_none() && self.mode.keep_unset {
            return Ok(format!("${{{name}{shown}{word}}}"));
        }
        let set = value.as_ref().is_some_and(|value| !(empty_is_unset && value.is_empty()));
        match operator {
            '-' if set => Ok(value.unwrap_or_default()),
            '-' => Ok(word),
            '+' if set => Ok(word),
            '+' => Ok(String::new()),
            '?' if set => Ok(value.unwrap_or_default()),
            '?' => {
                let ours = if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                Err(ExpandError::Required { name, message: if word.is_empty() { ours.to_owned() } else { word } })
            }
            _ => {
                let (longest, word) = match word.strip_prefix(operator) {
                    Some(rest) => (true, rest),
                    None => (false, &word[..]),
                };
                pattern::trimmed(&value.unwrap_or_default(), word, operator == '%', longest)
            }
        }
    }

    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.peek() == Some('/');
        if all {
            self.rest.next();
        }
        let (pattern, _) = self.run(Some('/'), true)?;
        let (replacement, _) = self.run(Some('}'), true)?;
        match self.get(name) {
            None if self.mode.keep_unset => Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            value => pattern::replaced(&value.unwrap_or_default(), &pattern, &replacement, all),
        }
    }

    /// Reads a name: letters, digits and `_`; or only digits; or one of sh's special parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if self.peek().is_some_and(is_digit) {
            while let Some(c) = self.rest.next_if(|c| is_digit(*c)) {
                name.push(c);
            }
            return name;
        }
        if let Some(c) = self.rest.next_if(|c| "@*#?-$!".contains(*c)) {
            return c.to_string();
        }
        while let Some(c) = self.rest.next_if(|c| c.is_alphabetic() || is_digit(*c) || *c == '_') {
            name.push(c);
        }
        name
    }

    fn heredoc_mark(&mut self) -> String {
        self.rest.next();
        if self.rest.next_if_eq(&'<').is_none() {
            return "<".to_owned();
        }
        let mut mark = "<<".to_owned();
        while let Some(c) = self.rest.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
            mark.push(c);
        }
        mark
    }

    fn get(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        let seen = if value.is_some() { &mut self.matched } else { &mut self.unmatched };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        value
    }
}

/// Decimal digits of any script, as Go's `unicode.IsDigit`; `is_numeric` would add fractions and Roman numerals.
fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric() && !c.is_alphabetic() && pattern::is_decimal(c))
}
