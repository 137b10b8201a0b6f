//! `COPY` and `ADD`.

use crate::builder::embedded::copy::{ModeChange, ParentsSource, is_well_formed};
use crate::builder::embedded::image::join_directory;
use crate::builder::embedded::passwd;
use crate::builder::embedded::solve::op::{CopyFrom, CopyOperation, CopyPart, CopyWhat, Operation};
use crate::builder::embedded::solve::plan::Root;
use crate::dockerfile::instruction::{Add, Copy, Transfer};
use crate::dockerfile::{Ignore, stages};

use super::{Lowering, Refusal, StageState, not_yet, refuse, refuse_with, told};

impl Lowering<'_> {
    pub(super) fn copy(&self, copy: &Copy, step: &stages::Step, state: &StageState) -> Result<(Operation, Vec<Root>), Refusal> {
        for source in &copy.transfer.sources {
            if is_remote(source) {
                return refuse_with(format!("COPY takes no URL: `{source}`"), "use ADD");
            }
        }
        let (from, inputs) = match step.inputs.first().and_then(Option::as_ref) {
            Some(input) => (CopyFrom::Input(0), vec![self.root(input)]),
            None => (CopyFrom::Context, Vec::new()),
        };
        let what = if copy.parents {
            let sources = copy.transfer.sources.iter().map(|source| ParentsSource::parse(source)).collect::<Result<_, _>>();
            CopyWhat::Parents { from, sources: sources.map_err(|error| told(&error))? }
        } else {
            CopyWhat::Patterns { from, patterns: copy.transfer.sources.clone() }
        };
        Ok((self.transfer(&copy.transfer, CopyPart { what, unpack: false }, state)?, inputs))
    }

    pub(super) fn add(&self, add: &Add, state: &StageState) -> Result<(Operation, Vec<Root>), Refusal> {
        for source in &add.transfer.sources {
            if is_git(source) {
                return not_yet(&format!("`ADD` of a git repository (`{source}`)"));
            }
            if is_remote(source) {
                return not_yet(&format!("`ADD` of a URL (`{source}`)"));
            }
        }
        if add.checksum.is_some() {
            return refuse("`--checksum` needs a source that is a URL or a git repository");
        }
        if add.keep_git_dir.is_some() {
            return not_yet("`ADD --keep-git-dir`");
        }
        let what = CopyWhat::Patterns { from: CopyFrom::Context, patterns: add.transfer.sources.clone() };
        let part = CopyPart { what, unpack: add.unpack.unwrap_or(true) };
        Ok((self.transfer(&add.transfer, part, state)?, Vec::new()))
    }

    /// Returns the copy of `files`, if the instruction has any sources, and of its heredocs.
    fn transfer(&self, transfer: &Transfer, files: CopyPart, state: &StageState) -> Result<Operation, Refusal> {
        if transfer.link
            && transfer.chmod.is_none()
            && let Some(owner) = transfer.chown.as_ref().filter(|owner| !passwd::is_numeric(owner))
        {
            let message = format!("`--link` does not look at the image, so `--chown={owner}` cannot be told");
            return refuse_with(message, "give numbers, or leave `--link` out");
        }
        if let Some(source) = transfer.sources.iter().find(|source| !is_well_formed(source.as_bytes())) {
            return refuse_with(format!("`{source}` is not a pattern: a `[` in it is never closed"), "`[[]` means a bracket");
        }
        let exclude = Ignore::from_patterns(transfer.exclude.iter().map(String::as_str));
        let exclude = exclude.map_err(|error| told(&error))?;
        if let Some(mode) = &transfer.chmod {
            ModeChange::parse(mode).map_err(|error| told(&error))?;
        }
        let mut inline = Vec::new();
        for file in &transfer.inline {
            if file.name.contains('/') || matches!(&file.name[..], "." | "..") {
                return refuse(format!("`{}` cannot be the name of a file", file.name));
            }
            inline.push((file.name.clone(), file.data.clone().into_bytes()));
        }
        let mut parts = Vec::new();
        if !transfer.sources.is_empty() {
            parts.push(files);
        }
        if !inline.is_empty() {
            parts.push(CopyPart { what: CopyWhat::Inline(inline), unpack: false });
        }
        Ok(Operation::Copy(CopyOperation {
            parts,
            exclude,
            destination: destination(state.image.working_directory(), &transfer.destination),
            owner: transfer.chown.clone(),
            mode: transfer.chmod.clone(),
            date: self.request.source_date,
        }))
    }
}

/// Returns a destination with the working directory in front when it is relative; a slash at its end stays, and `.` is a
/// directory.
fn destination(directory: &str, path: &str) -> String {
    let joined = join_directory(directory, path);
    let is_directory = path.is_empty() || path.ends_with('/') || path == "." || path.ends_with("/.");
    if is_directory && joined != "/" { format!("{joined}/") } else { joined }
}

fn is_remote(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://") || is_git(source)
}

/// Returns whether BuildKit takes `source` for a git repository.
fn is_git(source: &str) -> bool {
    let path = source.split(['#', '?']).next().unwrap_or(source);
    let web = path.starts_with("http://") || path.starts_with("https://");
    source.starts_with("git://")
        || source.starts_with("ssh://")
        || source.starts_with("git@")
        || source.starts_with("github.com/")
        || (web && path.ends_with(".git"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_absolute_and_keeps_the_slash_that_makes_it_a_directory() {
        for (directory, path, expected) in [
            ("/", "a", "/a"),
            ("/w", "a", "/w/a"),
            ("/w", "a/", "/w/a/"),
            ("/w", ".", "/w/"),
            ("/w", "./", "/w/"),
            ("/w", "/x/.", "/x/"),
            ("/w", "..", "/"),
            ("/w", "/", "/"),
            ("/", "", "/"),
        ] {
            assert_eq!(destination(directory, path), expected, "{directory} {path}");
        }
    }

    #[test]
    fn git_sources_are_told_from_other_urls() {
        for git in ["git@github.com:a/b", "https://x/a.git", "https://x/a.git#v1:sub", "git://x/a", "ssh://x/a", "github.com/a/b"]
        {
            assert!(is_git(git), "{git}");
        }
        for other in ["https://x/a.tgz", "http://x/", "a.git", "./git@x", "dir"] {
            assert!(!is_git(other), "{other}");
        }
    }
}
