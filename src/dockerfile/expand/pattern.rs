//! The patterns of `${x#…}`, `${x%…}` and `${x/…/…}`: `*` and `?`, no classes.

use std::sync::LazyLock;

use regex::Regex;

use super::{ExpandError, LIMIT};

/// Returns `value` without the part at its start, or at its end, that matches `pattern`.
pub(super) fn trimmed(value: &str, pattern: &str, at_end: bool, longest: bool) -> Result<String, ExpandError> {
    if !at_end {
        return trimmed_start(value, pattern, longest);
    }
    // A search for the shortest match at the end is one at the start of the reversed text.
    let reversed: String = value.chars().rev().collect();
    let trimmed = trimmed_start(&reversed, &reversed_pattern(pattern), longest)?;
    Ok(trimmed.chars().rev().collect())
}

fn trimmed_start(value: &str, pattern: &str, longest: bool) -> Result<String, ExpandError> {
    let found = compiled(pattern, longest, true)?.find(value);
    Ok(value[found.map_or(0, |found| found.end())..].to_owned())
}

/// Returns `value` with the first match of `pattern`, or every one, replaced.
pub(super) fn replaced(value: &str, pattern: &str, replacement: &str, all: bool) -> Result<String, ExpandError> {
    let regex = compiled(pattern, true, false)?;
    let mut text = String::new();
    let mut end = 0;
    for found in regex.find_iter(value).take(if all { usize::MAX } else { 1 }) {
        text.push_str(&value[end..found.start()]);
        if all {
            push_template(&mut text, replacement, found.as_str());
        } else {
            text.push_str(replacement);
        }
        end = found.end();
        if text.len() > LIMIT {
            return Err(ExpandError::TooLong);
        }
    }
    text.push_str(&value[end..]);
    Ok(text)
}

/// Appends `template` with `$0` and `${0}` as the match and every other `$name` as nothing, as Go's regular expressions do.
fn push_template(text: &mut String, template: &str, found: &str) {
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            text.push('$');
            rest = after;
            continue;
        }
        let (braced, body) = after.strip_prefix('{').map_or((false, after), |body| (true, body));
        let length = body.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(body.len());
        let (name, tail) = body.split_at(length);
        let tail = if braced { tail.strip_prefix('}') } else { Some(tail) };
        match tail {
            Some(tail) if !name.is_empty() => {
                if name == "0" {
                    text.push_str(found);
                }
                rest = tail;
            }
            _ => {
                text.push('$');
                rest = after;
            }
        }
    }
    text.push_str(rest);
}

fn compiled(pattern: &str, longest: bool, at_start: bool) -> Result<Regex, ExpandError> {
    let error = || ExpandError::Pattern(pattern.to_owned());
    let mut source = String::with_capacity(pattern.len() + 4);
    if at_start {
        source.push('^');
    }
    let mut rest = pattern.strip_prefix('\u{feff}').unwrap_or(pattern).chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' => source.push_str(if longest { ".*" } else { ".*?" }),
            '?' => source.push('.'),
            // `\}` and `\/` escape for `${…}` and mean the character itself.
            '\\' if rest.peek().is_some_and(|next| matches!(next, '}' | '/')) => {}
            '\\' => match rest.next() {
                Some(next @ ('*' | '?' | '\\')) => source.extend(['\\', next]),
                _ => return Err(error()),
            },
            c => source.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&source).map_err(|_| error())
}

/// Returns the pattern from its end to its start, escapes kept before what they escape.
fn reversed_pattern(pattern: &str) -> String {
    let mut parts = Vec::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match (c, rest.clone().next()) {
            ('\\', Some(escaped)) => {
                rest.next();
                parts.push([Some(c), Some(escaped)]);
            }
            _ => parts.push([Some(c), None]),
        }
    }
    parts.into_iter().rev().flatten().flatten().collect()
}

/// Returns whether `c` is a decimal digit of any script (Unicode category Nd).
pub(super) fn is_decimal(c: char) -> bool {
    static DECIMAL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").expect("the pattern is valid"));
    DECIMAL.is_match(c.encode_utf8(&mut [0; 4]))
}
