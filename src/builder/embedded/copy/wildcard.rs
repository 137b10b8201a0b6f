//! Which paths of a source a pattern means: Go's `filepath.Match`, as BuildKit applies it to `COPY` and `ADD`.

use super::super::tree::{LoopError, Tree, clean};

/// What a source pattern means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// The paths, in walk order. Without a wildcard it is the one path, whether it exists or not.
    pub paths: Vec<Vec<u8>>,
    /// Whether the pattern has a wildcard: it may then mean nothing.
    pub wildcard: bool,
}

/// Returns the paths of `tree` that `pattern` means. `..` cannot leave the root.
///
/// What matches is not looked into; a `*` matches within one name. Links before the first name with a wildcard are
/// followed.
///
/// # Errors
/// [`LoopError`] when those links lead in circles.
pub fn select(tree: &Tree, pattern: &[u8]) -> Result<Selection, LoopError> {
    let names = clean(pattern);
    let Some(first) = names.iter().position(|name| has_wildcard(name)) else {
        return Ok(Selection { paths: vec![names.join(&b'/')], wildcard: false });
    };
    let base = tree.resolve(&names[..first].join(&b'/'))?;
    let wanted = names[first..].join(&b'/');
    let mut paths = Vec::new();
    let mut skip: Option<Vec<u8>> = None;
    for (path, _) in tree.range(&base).skip(1) {
        if skip.as_ref().is_some_and(|skip| path.starts_with(skip) && path.get(skip.len()) == Some(&b'/')) {
            continue;
        }
        let relative = if base.is_empty() { &path[..] } else { &path[base.len() + 1..] };
        if matches(&wanted, relative) {
            skip = Some(path.clone());
            paths.push(path);
        }
    }
    Ok(Selection { paths, wildcard: true })
}

pub(super) fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Returns whether a source is a path, or a pattern whose classes all end. One that is not can match nothing.
pub fn is_well_formed(pattern: &[u8]) -> bool {
    if !has_wildcard(pattern) {
        return true;
    }
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'\\' if after.is_empty() => return false,
            b'\\' => &after[1..],
            // Which character is asked about does not matter to where the class ends.
            b'[' => match class(after, 0) {
                Some((_, after)) => after,
                None => return false,
            },
            _ => after,
        };
    }
    true
}

/// Returns whether `pattern` matches all of `name`. A malformed pattern matches nothing.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return name.is_empty() };
    match first {
        b'*' => {
            let end = name.iter().position(|byte| *byte == b'/').unwrap_or(name.len());
            (0..=end).any(|taken| matches(rest, &name[taken..]))
        }
        b'?' => name.first().is_some_and(|byte| *byte != b'/') && matches(rest, &name[character(name).1..]),
        b'[' => {
            if name.is_empty() {
                return false;
            }
            let (wanted, length) = character(name);
            class(rest, wanted).is_some_and(|(inside, rest)| inside && matches(rest, &name[length..]))
        }
        b'\\' => rest.split_first().is_some_and(|(literal, rest)| name.first() == Some(literal) && matches(rest, &name[1..])),
        literal => name.first() == Some(literal) && matches(rest, &name[1..]),
    }
}

/// Reads a class after its `[`; returns whether it has `wanted` and what follows the `]`, or `None` when malformed.
fn class(mut pattern: &[u8], wanted: u32) -> Option<(bool, &[u8])> {
    let negated = pattern.first() == Some(&b'^');
    if negated {
        pattern = &pattern[1..];
    }
    let mut inside = false;
    let mut ranges = 0;
    loop {
        if ranges > 0 && pattern.first() == Some(&b']') {
            return Some((inside != negated, &pattern[1..]));
        }
        let low;
        (low, pattern) = class_character(pattern)?;
        let mut high = low;
        if pattern.first() == Some(&b'-') {
            (high, pattern) = class_character(&pattern[1..])?;
        }
        inside |= low <= wanted && wanted <= high;
        ranges += 1;
    }
}

fn class_character(pattern: &[u8]) -> Option<(u32, &[u8])> {
    let pattern = match pattern.first()? {
        b'-' | b']' => return None,
        b'\\' => &pattern[1..],
        _ => pattern,
    };
    if pattern.is_empty() {
        return None;
    }
    let (character, length) = character(pattern);
    Some((character, &pattern[length..]))
}

/// Returns the first character and its length in bytes; a byte that is not UTF-8 counts as U+FFFD, as in Go.
fn character(text: &[u8]) -> (u32, usize) {
    let length = match text[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        byte => return (if byte < 0x80 { u32::from(byte) } else { 0xfffd }, 1),
    };
    match text.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(|text| text.chars().next()) {
        Some(character) => (u32::from(character), length),
        None => (0xfffd, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tree::Entry;
    use super::*;

    #[test]
    fn a_class_that_never_ends_is_no_pattern() {
        for good in ["", "a", "a*", "[a]", "[^a-z]b", "[[]", r"[\]]", r"a\*", r"a\", "a]b", "日[本語]*"] {
            assert!(is_well_formed(good.as_bytes()), "{good}");
        }
        for bad in ["[", "a[b", "[]", "[]a]", "[a-", "[-a]", "[^", "*[", r"*\", r"[a\"] {
            assert!(!is_well_formed(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn patterns_match_as_go_says() {
        // From the documentation of Go's path/filepath.Match and its grammar.
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "z", false),
            ("[]a]", "]", false),
            ("[-]", "-", false),
            ("[x-]", "x", false),
            ("[-x]", "x", false),
            ("[a-b-c]", "a", false),
            ("[", "a", false),
            ("[^bc", "a", false),
            ("*x", "xxx", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_selection_stops_at_what_matches_and_stays_inside() {
        let mut tree = Tree::default();
        for path in ["d/a.c", "d/b.c", "d/b.h", "d/s.c/x.c", "e/f"] {
            tree.put(path.as_bytes(), Entry { kind: super::super::super::tree::Kind::Fifo, ..Entry::directory(0, 0, 0, 0) }, 0);
        }
        let paths = |pattern: &str| {
            let selection = select(&tree, pattern.as_bytes()).expect("no links");
            selection.paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>().join(" ")
        };
        for (pattern, expected) in [
            ("d/*.c", "d/a.c d/b.c d/s.c"),
            ("*", "d e"),
            ("/../*/f", "e/f"),
            ("../../d/./a.c", "d/a.c"),
            ("no/*", ""),
            ("no", "no"),
            (".", ""),
        ] {
            assert_eq!(paths(pattern), expected, "{pattern}");
        }
    }
}
