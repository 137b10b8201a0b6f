//! The same questions asked of the `git` program, for repositories that libgit2 cannot read as git does.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::content::{bytes, split};
use super::repository::{Files, Names, as_path};
use super::{Commit, GitError, ObjectId};
use crate::sys::process;

/// Runs git in `directory` and returns what it printed, or the last line of its complaint.
fn git(directory: &Path, arguments: &[&OsStr]) -> Result<Vec<u8>, GitError> {
    let mut all = vec![OsStr::new("-C"), directory.as_os_str()];
    all.extend_from_slice(arguments);
    // Optional locks would rewrite the user's index under a running editor or another build.
    let environment = [("GIT_OPTIONAL_LOCKS", "0"), ("LC_ALL", "C")];
    let output =
        process::run("git", &all, &environment).map_err(|source| GitError::Program { path: directory.to_owned(), source })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let message = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim().to_owned();
    let command = arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
    Err(GitError::Command { path: directory.to_owned(), command, message })
}

fn ask(directory: &Path, arguments: &[&str]) -> Result<Vec<u8>, GitError> {
    git(directory, &arguments.iter().map(OsStr::new).collect::<Vec<_>>())
}

fn line(output: Vec<u8>) -> String {
    String::from_utf8_lossy(&output).trim().to_owned()
}

/// Returns the top of the work tree that `directory` lies in.
pub(super) fn top(directory: &Path) -> Result<PathBuf, GitError> {
    let output = ask(directory, &["rev-parse", "--show-toplevel"])?;
    Ok(as_path(output.strip_suffix(b"\n").unwrap_or(&output)).to_owned())
}

pub(super) fn root_tree(root: &Path, revision: &str) -> Result<ObjectId, GitError> {
    let spec = format!("{revision}^{{tree}}");
    match ask(root, &["rev-parse", "--verify", "--quiet", "--end-of-options", &spec]) {
        Ok(output) => Ok(ObjectId(line(output))),
        Err(GitError::Command { .. }) => Err(GitError::Revision { path: root.to_owned(), revision: revision.to_owned() }),
        Err(error) => Err(error),
    }
}

/// Returns the names in the tree `id`.
pub(super) fn names(root: &Path, id: &ObjectId) -> Result<Names, GitError> {
    let output = ask(root, &["ls-tree", "-z", id.as_str()])?;
    // Each is `<mode> SP <type> SP <id> TAB <name>`.
    let entry = |record: &Vec<u8>| {
        let tab = record.iter().position(|byte| *byte == b'\t')?;
        let id = std::str::from_utf8(&record[..tab]).ok()?.rsplit(' ').next()?.to_owned();
        Some((record[tab + 1..].to_vec(), ObjectId(id)))
    };
    Ok(split(&output).iter().filter_map(entry).collect())
}

pub(super) fn is_tree(root: &Path, id: &ObjectId) -> Result<bool, GitError> {
    Ok(line(ask(root, &["cat-file", "-t", id.as_str()])?) == "tree")
}

/// Returns what differs from `HEAD` and what is neither tracked nor ignored, with the two commands that linuxkit uses.
pub(super) fn changes(root: &Path) -> Result<Vec<Vec<u8>>, GitError> {
    let mut changes = split(&ask(root, &["diff", "--no-ext-diff", "--no-renames", "--name-only", "-z", "HEAD", "--"])?);
    changes.extend(split(&ask(root, &["ls-files", "-z", "--exclude-standard", "--others"])?));
    Ok(changes)
}

/// Returns the paths that are ignored; a directory of nothing else as a whole.
pub(super) fn ignored(root: &Path) -> Result<Vec<Vec<u8>>, GitError> {
    Ok(split(&ask(root, &["ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"])?))
}

pub(super) fn files(root: &Path, path: &Path) -> Result<Files, GitError> {
    let directory = root.join(path);
    let tracked = split(&ask(&directory, &["ls-files", "-z"])?);
    let untracked = split(&ask(&directory, &["ls-files", "-z", "--exclude-standard", "--others"])?);
    Ok(Files { tracked, untracked })
}

pub(super) fn quotes_paths(root: &Path) -> Result<bool, GitError> {
    Ok(line(ask(root, &["config", "--type=bool", "--default=true", "--get", "core.quotePath"])?) != "false")
}

const COMMIT_FORMAT: &str = "--format=%H %h %ct";

fn commit(output: Vec<u8>) -> Option<Commit> {
    let text = line(output);
    let mut words = text.split(' ');
    let (id, short) = (ObjectId(words.next()?.to_owned()), words.next()?.to_owned());
    Some(Commit { id, short, time: words.next()?.parse().ok()? })
}

pub(super) fn head(root: &Path) -> Result<Option<Commit>, GitError> {
    match ask(root, &["rev-parse", "--verify", "--quiet", "HEAD"]) {
        Err(GitError::Command { .. }) => {
            // Without a commit `HEAD` is the name of a branch that does not exist; anything else is damage.
            ask(root, &["symbolic-ref", "HEAD"])?;
            return Ok(None);
        }
        result => result.map(drop)?,
    }
    ask(root, &["show", "--no-patch", "--abbrev=12", COMMIT_FORMAT, "HEAD"]).map(commit)
}

pub(super) fn tags_at_head(root: &Path) -> Result<Vec<String>, GitError> {
    let output = ask(root, &["tag", "--list", "--points-at", "HEAD"])?;
    let mut tags: Vec<String> = String::from_utf8_lossy(&output).lines().map(str::to_owned).collect();
    tags.sort_unstable();
    Ok(tags)
}

pub(super) fn last_change(root: &Path, path: &Path) -> Result<Option<Commit>, GitError> {
    let mut spec = OsString::from(":(top,literal)");
    spec.push(as_path(bytes(path)));
    let arguments = ["log", "-1", "--abbrev=12", COMMIT_FORMAT, "HEAD", "--"];
    let mut arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
    if !path.as_os_str().is_empty() {
        arguments.push(&spec);
    }
    git(root, &arguments).map(commit)
}
