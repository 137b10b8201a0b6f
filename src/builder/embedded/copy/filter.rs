//! Which paths below a source are copied: `--exclude`, and the patterns of `COPY --parents`.
//!
//! Both are in the language of `.dockerignore`, matched against paths relative to the source, or for `--parents` to what
//! stands before its pivot `/./`. The source itself is not matched, so `--exclude=*.c` does not keep `a.c` from being
//! copied when it is named. Directories that match nothing are made, with the metadata they have, when something below
//! them does.

use crate::dockerfile::Ignore;
use crate::dockerfile::ignore::{Matched, PatternError};

use super::super::tree::{LoopError, Tree, cleaned, join};
use super::wildcard::{has_wildcard, select};

/// What is copied of a directory. The default is everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    include: Option<Ignore>,
    exclude: Ignore,
}

/// One path that is copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Relative to the source; the source itself is empty.
    pub path: Vec<u8>,
    /// Whether it is a directory that only stands on the way to what is copied.
    pub is_way: bool,
}

/// A source of `COPY --parents`, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParentsSource {
    /// What stands before `/./`: a path or pattern of its own; empty for the root.
    base: Vec<u8>,
    /// What is copied, with its directories, of each directory that `base` means.
    pattern: String,
    include: Ignore,
}

impl Filter {
    /// Returns the filter that leaves out what `exclude` says.
    pub fn excluding(exclude: &Ignore) -> Self {
        Self { include: None, exclude: exclude.clone() }
    }

    fn is_empty(&self) -> bool {
        self.include.is_none() && self.exclude.is_empty()
    }

    /// Returns what of `source` is copied, in walk order, `source` itself first. Links are not followed.
    pub fn chosen(&self, tree: &Tree, source: &[u8]) -> Vec<Chosen> {
        let mut choice =
            Choice { filter: self, tree, chosen: vec![Chosen { path: Vec::new(), is_way: false }], ways: Vec::new() };
        let all = self.is_empty();
        choice.below(source, b"", (!all).then(|| (Matched::default(), Matched::default())));
        choice.chosen
    }
}

struct Choice<'a> {
    filter: &'a Filter,
    tree: &'a Tree,
    chosen: Vec<Chosen>,
    /// Directories around the current one of which nothing was chosen yet, relative to the source.
    ways: Vec<Vec<u8>>,
}

impl Choice<'_> {
    /// Chooses of what is in the directory `path`; `matched` is what is known of it, by the patterns that include and
    /// those that exclude, or `None` when all is copied.
    fn below(&mut self, source: &[u8], path: &[u8], matched: Option<(Matched, Matched)>) {
        let tree = self.tree;
        for (name, entry) in tree.children(&joined(source, path)) {
            let child = join(path, name);
            let (included, excluded, matched) = match &matched {
                None => (true, false, None),
                Some((included, excluded)) => {
                    let (is_included, included) = match &self.filter.include {
                        Some(patterns) => patterns.step(&child, included),
                        None => (true, Matched::default()),
                    };
                    let (is_excluded, excluded) = self.filter.exclude.step(&child, excluded);
                    (is_included, is_excluded, Some((included, excluded)))
                }
            };
            let wanted = included && !excluded;
            if wanted {
                let ways = self.ways.drain(..).map(|path| Chosen { path, is_way: true });
                self.chosen.extend(ways);
                self.chosen.push(Chosen { path: child.clone(), is_way: false });
            }
            if !entry.is_directory() || (excluded && !self.filter.exclude.keeps_any()) {
                continue;
            }
            if wanted {
                self.below(source, &child, matched);
            } else {
                let around = self.ways.len();
                self.ways.push(child.clone());
                self.below(source, &child, matched);
                // What was chosen below took the ways with it.
                self.ways.truncate(around);
            }
        }
    }
}

fn joined(source: &[u8], path: &[u8]) -> Vec<u8> {
    if path.is_empty() { source.to_vec() } else { join(source, path) }
}

impl ParentsSource {
    /// Takes a source of `COPY --parents` apart.
    ///
    /// # Errors
    /// When it is no pattern.
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        let (base, pattern) = source.split_once("/./").unwrap_or(("", source));
        let pattern = String::from_utf8_lossy(&cleaned(pattern.as_bytes())).into_owned();
        let include = Ignore::from_patterns([&*pattern])?;
        Ok(Self { base: base.as_bytes().to_vec(), pattern, include })
    }

    /// Returns the directories of `tree` to copy from.
    ///
    /// # Errors
    /// When links lead in circles.
    pub fn directories(&self, tree: &Tree) -> Result<Vec<Vec<u8>>, LoopError> {
        let mut directories = Vec::new();
        for path in select(tree, &self.base)?.paths {
            let real = tree.resolve(&path)?;
            if tree.get(&real).is_some_and(super::super::tree::Entry::is_directory) {
                directories.push(real);
            }
        }
        Ok(directories)
    }

    /// Returns what is copied of each directory, less what `exclude` leaves out.
    pub fn filter(&self, exclude: &Ignore) -> Filter {
        Filter { include: Some(self.include.clone()), exclude: exclude.clone() }
    }

    /// Returns the source as one could write it.
    pub fn text(&self) -> String {
        let base = String::from_utf8_lossy(&self.base);
        if base.is_empty() { self.pattern.clone() } else { format!("{base}/./{}", self.pattern) }
    }

    /// Returns the path that must be there, or `None` when wildcards allow that nothing is.
    pub fn required(&self) -> Option<Vec<u8>> {
        let wild = |text: &[u8]| text.split(|byte| *byte == b'/').any(has_wildcard);
        let literal = !wild(&self.base) && !wild(self.pattern.as_bytes());
        literal.then(|| join(&cleaned(&self.base), self.pattern.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tree::{Entry, Kind};
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        for path in ["a.txt", "b.c", "d/m.txt", "d/n.c", "d/s/o.txt", "d/s/p.c", "d/t/q.txt"] {
            tree.put(path.as_bytes(), Entry { kind: Kind::Fifo, ..Entry::directory(0, 0, 0, 0) }, 0);
        }
        tree
    }

    fn shown(chosen: &[Chosen]) -> String {
        let one = |chosen: &Chosen| format!("{}{}", if chosen.is_way { "+" } else { "" }, String::from_utf8_lossy(&chosen.path));
        chosen[1..].iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_excluded_is_left_out_unless_a_later_pattern_keeps_it() {
        // As a BuildKit of November 2026 copies `d` with these patterns.
        for (patterns, expected) in [
            (&[][..], "m.txt n.c s s/o.txt s/p.c t t/q.txt"),
            (&["*.txt"], "n.c s s/o.txt s/p.c t t/q.txt"),
            (&["**/*.txt"], "n.c s s/p.c t"),
            (&["s", "!s/p.c"], "m.txt n.c +s s/p.c t t/q.txt"),
            (&["*", "!s/p.c"], "+s s/p.c"),
            (&["*"], ""),
            (&["!m.txt"], "m.txt n.c s s/o.txt s/p.c t t/q.txt"),
            (&["/m.txt"], "m.txt n.c s s/o.txt s/p.c t t/q.txt"),
            (&["s/"], "m.txt n.c t t/q.txt"),
            (&[""], "m.txt n.c s s/o.txt s/p.c t t/q.txt"),
        ] {
            let ignore = Ignore::from_patterns(patterns.iter().copied()).expect("patterns");
            assert_eq!(shown(&Filter::excluding(&ignore).chosen(&tree(), b"d")), expected, "{patterns:?}");
        }
        assert!(Ignore::from_patterns(["["]).is_err() && Ignore::from_patterns(["!"]).is_err());
    }

    #[test]
    fn parents_are_kept_from_the_pivot_on() {
        for (source, exclude, expected) in [
            ("d/s/p.c", "", "+d +d/s d/s/p.c"),
            ("d/./s/p.c", "", "+s s/p.c"),
            ("./d/./s/p.c", "", "+s s/p.c"),
            ("/d/./*/*.txt", "", "+s s/o.txt +t t/q.txt"),
            ("d/s", "", "+d d/s d/s/o.txt d/s/p.c"),
            ("d/s/", "", "+d d/s d/s/o.txt d/s/p.c"),
            ("**/q.txt", "", "+d +d/t d/t/q.txt"),
            ("../d/s", "**/*.txt", "+d d/s d/s/p.c"),
            ("d/s", "*.txt", "+d d/s d/s/o.txt d/s/p.c"),
            ("no*", "", ""),
            ("d/n*", "", "+d d/n.c"),
            (".", "", ""),
        ] {
            let source = ParentsSource::parse(source).expect("a pattern");
            let exclude = Ignore::from_patterns([exclude]).expect("patterns");
            let directories = source.directories(&tree()).expect("no links");
            assert_eq!(directories.len(), 1, "{source:?}");
            let chosen = source.filter(&exclude).chosen(&tree(), &directories[0]);
            assert_eq!(shown(&chosen), expected, "{source:?}");
        }
    }

    #[test]
    fn a_source_without_wildcards_must_be_there() {
        for (source, required) in
            [("d/s", Some("d/s")), ("d/./../s", Some("d/s")), ("d*/./s", None), ("d/**", None), ("x/\\*", Some("x/\\*"))]
        {
            let actual = ParentsSource::parse(source).expect("a pattern").required();
            assert_eq!(actual.as_deref(), required.map(str::as_bytes), "{source}");
        }
    }
}
