//! Facts from git: tree ids, what differs from `HEAD`, commits and tags. Each repository is opened once per run and asked
//! for its whole status once, however many packages it holds.
//!
//! libgit2 answers, except where it is known to differ from git (sparse checkouts, split indexes, clean filters,
//! submodules, SHA-256 and reftable repositories): there the `git` program is asked the same questions. Where neither can
//! answer, that is an error and never "not in git".

mod command;
mod content;
mod error;
mod native;
mod repository;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

pub use error::GitError;
use repository::Repository;

/// The id of a git object in lower-case hex: 40 digits, or 64 in a SHA-256 repository.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId(String);

impl ObjectId {
    /// Returns the id as hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A commit, as far as builds ask about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// Its id.
    pub id: ObjectId,
    /// The first digits of its id: twelve, or more when twelve would mean several objects.
    pub short: String,
    /// When it was committed, in seconds since 1970.
    pub time: i64,
}

/// A directory in a repository's work tree.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Location {
    repository: usize,
    /// The repository's top directory, without symbolic links.
    pub root: PathBuf,
    /// The directory below `root`, without symbolic links; empty for `root` itself.
    pub path: PathBuf,
}

/// All repositories of a run, each opened at first use.
#[derive(Default)]
pub struct Repositories {
    opened: Vec<Repository>,
    /// Directory to the repository whose top it is, or `None` when it is no repository's top.
    tops: HashMap<PathBuf, Option<usize>>,
    /// Directory to its path without symbolic links, for those that hold packages.
    parents: HashMap<PathBuf, PathBuf>,
}

impl fmt::Debug for Repositories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.opened.iter().map(Repository::root)).finish()
    }
}

impl Repositories {
    /// Returns an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns where `directory` lies in git, or `None` when neither it nor any directory above it is a repository.
    /// Symbolic links are followed first, so that a work tree reached through one is the same work tree.
    ///
    /// # Errors
    /// When the directory or its repository cannot be read, or git refuses the repository.
    pub fn locate(&mut self, directory: &Path) -> Result<Option<Location>, GitError> {
        let real = self.real(directory).map_err(|source| GitError::Directory { path: directory.to_owned(), source })?;
        for top in real.ancestors() {
            let repository = match self.tops.get(top) {
                Some(known) => *known,
                None => {
                    let opened = Repository::open(top)?;
                    let index = opened.map(|repository| {
                        self.opened.push(repository);
                        self.opened.len() - 1
                    });
                    self.tops.insert(top.to_owned(), index);
                    index
                }
            };
            if let Some(repository) = repository {
                let path = real.strip_prefix(top).expect("an ancestor is a prefix").to_owned();
                return Ok(Some(Location { repository, root: top.to_owned(), path }));
            }
        }
        Ok(None)
    }

    /// Returns the path without symbolic links. The thousand packages of one directory resolve that once.
    fn real(&mut self, directory: &Path) -> io::Result<PathBuf> {
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
            return fs_err::canonicalize(directory);
        };
        if parent.as_os_str().is_empty() || !fs_err::symlink_metadata(directory)?.is_dir() {
            return fs_err::canonicalize(directory);
        }
        if let Some(known) = self.parents.get(parent) {
            return Ok(known.join(name));
        }
        let real = fs_err::canonicalize(parent)?;
        self.parents.insert(parent.to_owned(), real.clone());
        Ok(real.join(name))
    }

    /// Returns the id of what `location` holds in the commit that `revision` names (`HEAD`, a branch, an id), or `None`
    /// when that commit has nothing there.
    ///
    /// # Errors
    /// When there is no such commit, or an object cannot be read.
    pub fn tree(&mut self, location: &Location, revision: &str) -> Result<Option<ObjectId>, GitError> {
        self.opened[location.repository].tree(&location.path, revision)
    }

    /// Returns whether the work tree differs from `HEAD` at or below `location`, as `git diff HEAD` sees it, or has a file
    /// there that is neither tracked nor ignored. A repository without a commit is dirty everywhere.
    ///
    /// # Errors
    /// When the index or the work tree cannot be read.
    pub fn is_dirty(&mut self, location: &Location) -> Result<bool, GitError> {
        self.opened[location.repository].is_dirty(&location.path)
    }

    /// Returns what git ignores at or below `location`, relative to it: a whole directory ends in `/`, and the empty path is
    /// everything. What is tracked is never ignored.
    ///
    /// # Errors
    /// When the index or the work tree cannot be read.
    pub fn ignored(&mut self, location: &Location) -> Result<Vec<Vec<u8>>, GitError> {
        self.opened[location.repository].ignored(&location.path)
    }

    /// Returns linuxkit's hash of the contents below `location`, in hex: SHA-256 over the bytes of the tracked and the
    /// untracked files, without names, modes or lengths.
    ///
    /// # Errors
    /// When the index or a file cannot be read.
    pub fn content_hash(&mut self, location: &Location) -> Result<String, GitError> {
        self.opened[location.repository].content_hash(&location.path)
    }

    /// Returns the commit `HEAD` names, or `None` when the repository has no commit yet.
    ///
    /// # Errors
    /// When `HEAD` or its commit cannot be read.
    pub fn head(&mut self, location: &Location) -> Result<Option<Commit>, GitError> {
        self.opened[location.repository].head()
    }

    /// Returns the names of the tags that point at `HEAD`, sorted.
    ///
    /// # Errors
    /// When the references cannot be read.
    pub fn tags_at_head(&mut self, location: &Location) -> Result<Vec<String>, GitError> {
        self.opened[location.repository].tags_at_head()
    }

    /// Returns the last commit that changed something at or below `location`, as `git log -1 -- <path>` finds it, or `None`
    /// when no commit did.
    ///
    /// # Errors
    /// When history cannot be read.
    pub fn last_change(&mut self, location: &Location) -> Result<Option<Commit>, GitError> {
        self.opened[location.repository].last_change(&location.path)
    }
}

#[cfg(test)]
pub(crate) mod tests;
