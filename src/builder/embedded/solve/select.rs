//! Which files of a source a copy reads, for its key.

use crate::builder::embedded::copy::select;
use crate::builder::embedded::tree::{LoopError, Tree, split};

/// Returns a text for each thing that `patterns` mean in `tree`, in order: its base name, which is all that the copy can
/// observe of where it was, and the hash of its content.
///
/// # Errors
/// When a path leads in circles.
pub(super) fn selected(tree: &Tree, patterns: &[String]) -> Result<Vec<Vec<u8>>, LoopError> {
    let mut texts = Vec::new();
    for pattern in patterns {
        let selection = select(tree, pattern.as_bytes())?;
        // An unmatched wildcard is no mistake, an absent path is.
        texts.push(if selection.wildcard { b"wildcard".to_vec() } else { b"path".to_vec() });
        for path in selection.paths {
            let real = tree.resolve(&path)?;
            let hash = tree.hash_of(&real).map_or([0; 32], |id| *id.0.as_bytes());
            texts.push([split(&path).1, b"\0", &hash].concat());
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::embedded::tree::{Entry, Kind};

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
        selected(&tree(files), &patterns).expect("no links")
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
    fn the_same_file_in_another_directory_is_the_same_source() {
        assert_eq!(read(&[("a/x", "1")], &["a/x"]), read(&[("b/x", "1")], &["b/x"]));
        assert_ne!(read(&[("a/x", "1")], &["a/x"]), read(&[("a/y", "1")], &["a/y"]));
        assert_ne!(read(&[("x", "1"), ("y", "1")], &["x", "y"]), read(&[("x", "1"), ("y", "1")], &["y", "x"]));
        assert_ne!(read(&[("x", "1")], &["no"]), read(&[("x", "1")], &["no*"]));
    }
}
