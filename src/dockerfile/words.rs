//! How the text after an instruction's word is divided: flags, quoted words, blanks, JSON.

/// The blanks that divide words; others, such as a no-break space, are part of a word.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// Divides at blanks; quotes mean nothing.
pub(super) fn blank_separated(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect() }
}

/// Takes the leading `--name=value` words off, without their quotes and escapes; `--` alone ends them.
pub(super) fn flags(text: &str, escape: char) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return (flags, rest);
        }
        let mut word = String::new();
        let mut quote = None;
        let mut chars = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match quote {
                None if c.is_whitespace() => {
                    end = at;
                    break;
                }
                None if c == '\'' || c == '"' => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ if c == escape => {
                    if let Some((_, escaped)) = chars.next() {
                        word.push(escaped);
                    }
                }
                _ => word.push(c),
            }
        }
        rest = &rest[end..];
        if word == "--" {
            return (flags, rest);
        }
        flags.push(word);
    }
}

/// Divides at blanks outside of quotes; quotes and escapes stay in the words.
pub(super) fn quoted_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // At the very end it escapes nothing and vanishes.
            if let Some(escaped) = chars.next() {
                word.get_or_insert_default().extend([c, escaped]);
            }
            continue;
        }
        word.get_or_insert_default().push(c);
    }
    words.extend(word);
    words
}

/// Text that may be a JSON array of strings.
#[derive(Debug, PartialEq)]
pub(super) enum Json {
    /// It is one.
    Strings(Vec<String>),
    /// It is an array of something else.
    OtherArray,
    /// It is no JSON array.
    No,
}

impl Json {
    pub(super) fn is_json(&self) -> bool {
        *self != Self::No
    }
}

/// Reads `text` as a JSON array of strings.
pub(super) fn json_array(text: &str) -> Json {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Json::No;
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Json::No };
    let strings: Option<Vec<String>> = values
        .into_iter()
        .map(|value| match value {
            serde_json::Value::String(text) => Some(text),
            _ => None,
        })
        .collect();
    strings.map_or(Json::OtherArray, Json::Strings)
}
