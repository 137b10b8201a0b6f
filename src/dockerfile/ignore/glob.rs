//! One pattern: `*`, `?`, classes, `**` over any number of directories.

use regex::Regex;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Glob {
    matcher: Matcher,
    /// The leading components without special characters.
    fixed: Vec<String>,
    /// Whether those are all of it.
    literal: bool,
}

#[derive(Clone, Debug)]
enum Matcher {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Regex(Regex),
}

impl Glob {
    /// Compiles `pattern`, or returns `None` when it is not one.
    pub(super) fn compile(pattern: &str) -> Option<Self> {
        if !well_formed(pattern) {
            return None;
        }
        let special = |part: &&str| part.contains(['*', '?', '[', ']', '\\']);
        let fixed: Vec<String> = pattern.split('/').take_while(|part| !special(part)).map(str::to_owned).collect();
        let literal = fixed.len() == pattern.split('/').count();
        Some(Self { matcher: matcher(pattern)?, fixed, literal })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Exact(text) => path == text,
            Matcher::Prefix(text) => path.starts_with(text),
            // `**/x` also means `x` at the root.
            Matcher::Suffix(text) => path.ends_with(text) || text.strip_prefix('/') == Some(path),
            Matcher::Regex(regex) => regex.is_match(path),
        }
    }

    /// Returns whether a path below `directory` may match; `true` when in doubt.
    pub(super) fn may_match_below(&self, directory: &str) -> bool {
        let same_so_far = self.fixed.iter().zip(directory.split('/')).all(|(own, theirs)| own == theirs);
        let ends_below = self.fixed.len() > directory.split('/').count();
        same_so_far && (ends_below || !self.literal)
    }
}

/// Decides how to match and, where only a regular expression will do, writes it as moby does, in Go's syntax.
fn matcher(pattern: &str) -> Option<Matcher> {
    let mut go = String::from("^");
    let mut kind = Kind::Exact;
    let mut rest = pattern.chars().peekable();
    let mut first = true;
    while let Some(c) = rest.next() {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                if rest.peek().is_some() {
                    go.push_str("(.*/)?");
                    kind = Kind::Regex;
                } else if kind == Kind::Exact {
                    kind = Kind::Prefix;
                } else {
                    go.push_str(".*");
                    kind = Kind::Regex;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                go.push_str("[^/]*");
                kind = Kind::Regex;
            }
            '?' => {
                go.push_str("[^/]");
                kind = Kind::Regex;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => go.extend(['\\', c]),
            '\\' => {
                go.push('\\');
                if let Some(escaped) = rest.next() {
                    go.push(escaped);
                    kind = Kind::Regex;
                }
            }
            '[' | ']' => {
                go.push(c);
                kind = Kind::Regex;
            }
            c => go.push(c),
        }
        first = false;
    }
    Some(match kind {
        Kind::Exact => Matcher::Exact(pattern.to_owned()),
        Kind::Prefix => Matcher::Prefix(pattern[..pattern.len() - 2].to_owned()),
        Kind::Suffix => Matcher::Suffix(pattern[2..].to_owned()),
        Kind::Regex => Matcher::Regex(Regex::new(&translated(&format!("{go}$"))?).ok()?),
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Exact,
    Prefix,
    Suffix,
    Regex,
}

/// Writes a regular expression of Go's, of the forms that [`matcher`] yields, in this crate's syntax: classes differ, for
/// here they nest and have set operators.
fn translated(go: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = go.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => out.push_str(&escaped(rest.next()?)?),
            '[' => {
                out.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                class(&mut rest, &mut out)?;
                out.push(']');
            }
            '^' | '$' | '.' | '*' | '(' | ')' | '?' => out.push(c),
            c => out.push_str(&literal(c)),
        }
    }
    Some(out)
}

/// Reads a class up to its `]`; a `]` in first place is a member.
fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> Option<()> {
    let mut first = true;
    loop {
        let c = rest.next()?;
        if c == ']' && !first {
            return Some(());
        }
        first = false;
        if c == '[' && rest.peek() == Some(&':') {
            let ahead: String = rest.clone().collect();
            if let Some(end) = ahead[1..].find(":]") {
                // A class by name, such as `[:alpha:]`, in which this crate agrees with Go.
                let name = &ahead[..end + 3];
                out.push('[');
                out.push_str(name);
                for _ in name.chars() {
                    rest.next();
                }
                continue;
            }
        }
        let low = match c {
            '\\' => match member(rest.next()?)? {
                Member::Set(set) => {
                    out.push_str(set);
                    continue;
                }
                Member::One(c) => c,
            },
            c => c,
        };
        out.push_str(&literal(low));
        let mut ahead = rest.clone();
        if ahead.next() == Some('-') && ahead.peek().is_some_and(|next| *next != ']') {
            rest.next();
            let high = match rest.next()? {
                '\\' => match member(rest.next()?)? {
                    Member::Set(_) => return None,
                    Member::One(c) => c,
                },
                c => c,
            };
            if high < low {
                return None;
            }
            out.push('-');
            out.push_str(&literal(high));
        }
    }
}

enum Member {
    One(char),
    Set(&'static str),
}

/// What a `\` before `c` means to Go's regular expressions: moby hands escapes on, so `\d` is a digit, not a `d`.
fn member(c: char) -> Option<Member> {
    Some(match c {
        'd' => Member::Set("[0-9]"),
        'D' => Member::Set("[^0-9]"),
        's' => Member::Set(r"[\t\n\x0C\r ]"),
        'S' => Member::Set(r"[^\t\n\x0C\r ]"),
        'w' => Member::Set("[0-9A-Za-z_]"),
        'W' => Member::Set("[^0-9A-Za-z_]"),
        'a' => Member::One('\x07'),
        'f' => Member::One('\x0c'),
        'n' => Member::One('\n'),
        'r' => Member::One('\r'),
        't' => Member::One('\t'),
        'v' => Member::One('\x0b'),
        '0' => Member::One('\0'),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Member::One(c),
        _ => return None,
    })
}

fn escaped(c: char) -> Option<String> {
    Some(match member(c)? {
        Member::Set(set) => set.to_owned(),
        Member::One(c) => literal(c),
    })
}

fn literal(c: char) -> String {
    if c.is_ascii_punctuation() { format!("\\x{:02X}", c as u32) } else { c.to_string() }
}

/// Returns whether Go's `filepath.Match` takes `pattern` for one.
fn well_formed(pattern: &str) -> bool {
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' if rest.next().is_none() => return false,
            '[' => {
                rest.next_if_eq(&'^');
                let mut ranges = 0;
                while ranges == 0 || rest.next_if_eq(&']').is_none() {
                    if !class_member(&mut rest) {
                        return false;
                    }
                    if rest.next_if_eq(&'-').is_some() && !class_member(&mut rest) {
                        return false;
                    }
                    ranges += 1;
                }
            }
            _ => {}
        }
    }
    true
}

fn class_member(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> bool {
    let read = match rest.next() {
        None | Some('-' | ']') => false,
        Some('\\') => rest.next().is_some(),
        Some(_) => true,
    };
    // The class must go on, at least with its `]`.
    read && rest.peek().is_some()
}
