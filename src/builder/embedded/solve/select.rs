//! Which files of a source a copy reads, for its key.

use crate::builder::embedded::copy::{Chosen, Filter, ParentsSource, select};
use crate::builder::embedded::tree::{Entry, LoopError, Tree, join, split};
use crate::dockerfile::Ignore;

/// Returns a text for each thing that `patterns` mean in `tree`, in order: its base name, which is all that the copy can
/// observe of where it was, and the hash of its content, or of each path that `exclude` does not leave out of it.
///
/// # Errors
/// When a path leads in circles.
pub(super) fn selected(tree: &Tree, patterns: &[String], exclude: &Ignore) -> Result<Vec<Vec<u8>>, LoopError> {
    let mut texts = Vec::new();
    for pattern in patterns {
        let selection = select(tree, pattern.as_bytes())?;
        // An unmatched wildcard is no mistake, an absent path is.
        texts.push(if selection.wildcard { b"wildcard".to_vec() } else { b"path".to_vec() });
        for path in selection.paths {
            let real = tree.resolve(&path)?;
            let name = split(&path).1;
            if exclude.is_empty() {
                let hash = tree.hash_of(&real).map_or([0; 32], |id| *id.0.as_bytes());
                texts.push([name, b"\0", &hash].concat());
            } else {
                texts.push(name.to_vec());
                chosen(tree, &real, &Filter::excluding(exclude), &mut texts);
            }
        }
    }
    Ok(texts)
}

/// Returns a text for each thing that `sources` of `COPY --parents` mean in `tree`, in order: its path as it is copied, and
/// the hash of its content.
///
/// # Errors
/// When a path leads in circles.
pub(super) fn selected_with_parents(tree: &Tree, sources: &[ParentsSource], exclude: &Ignore) -> Result<Vec<Vec<u8>>, LoopError> {
    let mut texts = Vec::new();
    for source in sources {
        texts.push(if source.required().is_some() { b"path".to_vec() } else { b"wildcard".to_vec() });
        for directory in source.directories(tree)? {
            texts.push(b"directory".to_vec());
            chosen(tree, &directory, &source.filter(exclude), &mut texts);
        }
    }
    Ok(texts)
}

/// Adds what `filter` leaves of `source`: paths with their own hashes.
fn chosen(tree: &Tree, source: &[u8], filter: &Filter, texts: &mut Vec<Vec<u8>>) {
    let is_directory = tree.get(source).is_some_and(Entry::is_directory);
    for Chosen { path, is_way } in filter.chosen(tree, source) {
        let full = if path.is_empty() { source.to_vec() } else { join(source, &path) };
        // Of the source directory itself nothing but its content is copied.
        let of_source = path.is_empty() && is_directory;
        let hash = tree.own_hash_of(&full).filter(|_| !of_source).map_or([0; 32], |id| *id.0.as_bytes());
        texts.push([&path[..], b"\0", if is_way { b"w" } else { b"c" }, &hash].concat());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::embedded::tree::Kind;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, data) in files {
            let kind = Kind::File { size: data.len() as u64, hash: blake3::hash(data.as_bytes()) };
            tree.put(path.as_bytes(), Entry { kind, ..Entry::directory(0o644, 0, 0, 0) }, 0);
        }
        tree
    }

    fn read(files: &[(&str, &str)], patterns: &[&str]) -> Vec<Vec<u8>> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        selected(&tree(files), &patterns, &Ignore::default()).expect("no links")
    }

    #[test]
    fn files_that_no_pattern_matches_are_not_read() {
        let before = read(&[("a/x.c", "1"), ("a/y.h", "2"), ("b", "3")], &["a/*.c"]);
        assert_eq!(read(&[("a/x.c", "1"), ("a/y.h", "other"), ("b", "other")], &["a/*.c"]), before);
        assert_ne!(read(&[("a/x.c", "other"), ("a/y.h", "2")], &["a/*.c"]), before);
        assert_ne!(read(&[("a/x.c", "1"), ("a/z.c", "1")], &["a/*.c"]), before);
        assert_ne!(read(&[("a/z.c", "1")], &["a/*.c"]), before);
    }

    #[test]
    fn files_that_are_left_out_are_not_read() {
        let read = |files: &[(&str, &str)], exclude: &[&str]| {
            let exclude = Ignore::from_patterns(exclude.iter().copied()).expect("patterns");
            let parents = [ParentsSource::parse("./d/s*").expect("a pattern")];
            let tree = tree(files);
            [selected(&tree, &["d".to_owned()], &exclude), selected_with_parents(&tree, &parents, &exclude)]
                .map(|texts| texts.expect("no links"))
        };
        let files = [("d/a.c", "1"), ("d/s/b.c", "2"), ("d/s/c.h", "3")];
        let before = read(&files, &["**/*.c", "!d/s/b.c"]);
        let changed = |at: usize, exclude: &[&str]| {
            let mut files = files;
            files[at].1 = "changed";
            read(&files, exclude)
        };
        assert_eq!(changed(0, &["**/*.c", "!d/s/b.c"]), before, "left out of both");
        assert_eq!(changed(1, &["**/*.c", "!d/s/b.c"])[0], before[0], "left out below `d`");
        assert_ne!(changed(1, &["**/*.c", "!d/s/b.c"])[1], before[1]);
        assert_ne!(changed(2, &["**/*.c", "!d/s/b.c"])[0], before[0]);
        assert_ne!(read(&files, &["**/*.c"])[1], before[1]);
        assert_ne!(read(&files, &[])[0], before[0]);
        // Other patterns with the same result are the same files.
        assert_eq!(read(&files, &["*.c", "s/*.c", "d/a.c"])[0], read(&files, &["**/*.c"])[0]);
        // A directory is part of a path that is copied.
        let moved = [("d/a.c", "1"), ("d/s2/b.c", "2"), ("d/s2/c.h", "3")];
        assert_ne!(read(&moved, &[])[1], read(&files, &[])[1]);
    }

    #[test]
    fn the_same_file_in_another_directory_is_the_same_source() {
        assert_eq!(read(&[("a/x", "1")], &["a/x"]), read(&[("b/x", "1")], &["b/x"]));
        assert_ne!(read(&[("a/x", "1")], &["a/x"]), read(&[("a/y", "1")], &["a/y"]));
        assert_ne!(read(&[("x", "1"), ("y", "1")], &["x", "y"]), read(&[("x", "1"), ("y", "1")], &["y", "x"]));
        assert_ne!(read(&[("x", "1")], &["no"]), read(&[("x", "1")], &["no*"]));
    }
}
