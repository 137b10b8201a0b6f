//! Why git could not answer. Each of these stops a tag from being computed: a tag must never come from not knowing.

use std::io;
use std::path::PathBuf;

/// A question that git could not answer.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The directory itself cannot be reached.
    #[error("cannot find directory `{}`", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The repository belongs to somebody else, and git was not told to trust it.
    #[error("git refuses repository `{}`: it belongs to another user", path.display())]
    Owner {
        /// The repository's top directory.
        path: PathBuf,
    },
    /// The repository's files are damaged or of a kind that is not known.
    #[error("cannot open git repository `{}`", path.display())]
    Open {
        /// The repository's top directory.
        path: PathBuf,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// The directory lies in a repository without a work tree there, such as a bare one.
    #[error("git repository `{}` has no work tree there", path.display())]
    NoWorkTree {
        /// The directory that holds the repository.
        path: PathBuf,
    },
    /// The repository has no commit, so nothing in it has a hash.
    #[error("git repository `{}` has no commit yet", path.display())]
    NoCommit {
        /// The repository's top directory.
        path: PathBuf,
    },
    /// A name that means no commit.
    #[error("`{revision}` names no commit in git repository `{}`", path.display())]
    Revision {
        /// The repository's top directory.
        path: PathBuf,
        /// The name as given.
        revision: String,
    },
    /// A part of the repository cannot be read.
    #[error("cannot read {what} of git repository `{}`", path.display())]
    Read {
        /// The repository's top directory.
        path: PathBuf,
        /// What was read: `the index`, `tree 1234…`.
        what: String,
        /// What libgit2 said.
        #[source]
        source: git2::Error,
    },
    /// A file of the work tree cannot be read.
    #[error("cannot hash the work tree's files")]
    File(#[source] io::Error),
    /// The `git` program is needed here and could not be started.
    #[error("git repository `{}` needs the `git` program, which cannot be started", path.display())]
    Program {
        /// The repository's top directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The `git` program failed.
    #[error("`git {command}` failed in `{}`: {message}", path.display())]
    Command {
        /// Where it ran.
        path: PathBuf,
        /// Its arguments.
        command: String,
        /// The last line it printed to standard error.
        message: String,
    },
}

impl GitError {
    /// Returns a command or setting that would help, where there is one.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Owner { path } => Some(format!(
                "if you trust it, run `git config --global --add safe.directory {}` as the user who builds",
                path.display()
            )),
            Self::NoCommit { .. } => Some("commit the packages first, or give the tag's hash with `--hash`".to_owned()),
            Self::Program { .. } => Some("install git".to_owned()),
            Self::Open { path, .. } | Self::Read { path, .. } => {
                Some(format!("`git -C {} fsck` tells what is wrong with it", path.display()))
            }
            _ => None,
        }
    }
}
