//! Paths as texts: without asking the file system, as Go's `path/filepath` cleans them.

use std::path::{Component, Path, PathBuf};

/// Returns `path` without `.`, doubled slashes, and `..` that follows a name; `.` when nothing is left.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => match clean.components().next_back() {
                Some(Component::Normal(_)) => {
                    clean.pop();
                }
                Some(Component::RootDir) => {}
                _ => clean.push(".."),
            },
            other => clean.push(other),
        }
    }
    if clean.as_os_str().is_empty() { PathBuf::from(".") } else { clean }
}

/// Returns `path`, taken from `base` when it is relative, cleaned.
pub(crate) fn absolute(base: &Path, path: &Path) -> PathBuf {
    clean(&base.join(path))
}

/// Returns `path` relative to `base` when it lies there, else as it is: how messages name a file.
pub(crate) fn shown(base: &Path, path: &Path) -> PathBuf {
    match path.strip_prefix(base) {
        Ok(inner) if inner.as_os_str().is_empty() => PathBuf::from("."),
        Ok(inner) => inner.to_owned(),
        Err(_) => path.to_owned(),
    }
}

/// Returns the directories that an absolute `pattern` matches, sorted, without those whose name begins with a dot. Links
/// to directories count. `*`, `?` and `[…]` stay within a name, as in Go's `filepath.Glob`.
pub(crate) fn directories(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let unusable = || format!("`{}` is not a pattern", pattern.display());
    let text = pattern.to_str().ok_or_else(unusable)?;
    // The same pattern in the words of this crate's: there `**` crosses directories and `[!…]` negates.
    let mut own = text.replace("[^", "[!");
    while own.contains("**") {
        own = own.replace("**", "*");
    }
    if own.contains('\\') {
        return Err(unusable());
    }
    let options =
        glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
    let mut found = Vec::new();
    for path in glob::glob_with(&own, options).map_err(|_| unusable())? {
        let path = path.map_err(|error| format!("cannot read `{}`: {}", error.path().display(), error.error()))?;
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns whether a path is meant as a pattern.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs are those of Go's documentation of `filepath.Clean`, by its four rules.
    #[test]
    fn paths_are_cleaned_as_in_go() {
        for (path, expected) in
            [("", "."), ("a//b/./c/..", "a/b"), ("../x", "../x"), ("/..", "/"), ("/../a", "/a"), ("a/../..", ".."), ("./", ".")]
        {
            assert_eq!(clean(Path::new(path)), Path::new(expected), "{path}");
        }
        assert_eq!(absolute(Path::new("/r/p"), Path::new("../q/")), Path::new("/r/q"));
    }
}
