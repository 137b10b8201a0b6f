//! One repository: chooses who answers (libgit2 or the `git` program) and keeps the answers that serve many packages.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::native::Native;
use super::{Commit, GitError, ObjectId, command, content};

/// The names in one directory of one commit.
pub(super) type Names = HashMap<Vec<u8>, ObjectId>;

/// A repository with a work tree.
pub(super) struct Repository {
    root: PathBuf,
    /// `None` when libgit2 cannot open it but `git` can.
    native: Option<Native>,
    /// The root tree of each revision asked for.
    revisions: HashMap<String, ObjectId>,
    /// `HEAD`'s commit, if there is one, once asked for.
    head: Option<Option<Commit>>,
    /// The names below each tree, by the tree's id: a directory of a thousand packages is parsed once.
    trees: HashMap<ObjectId, Names>,
    status: Option<Status>,
    /// What git ignores in the whole work tree, sorted bytewise, once asked for.
    ignored: Option<Vec<Vec<u8>>>,
}

/// What differs from `HEAD` in the whole work tree.
struct Status {
    /// Changed paths below the root, sorted bytewise; an untracked directory ends in `/`.
    changes: Vec<Vec<u8>>,
    /// Whether `git` found them, because libgit2 would not see what git sees.
    by_command: bool,
}

impl Repository {
    /// Opens the repository whose work tree has its top at `top`; `None` when there is none.
    pub(super) fn open(top: &Path) -> Result<Option<Self>, GitError> {
        let git_directory = top.join(".git");
        match fs_err::symlink_metadata(&git_directory) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(source) => return Err(GitError::Directory { path: git_directory, source }),
            // An empty `.git` directory is left behind by sandboxes that mount over it; git looks further up.
            Ok(found) if found.is_dir() && is_empty(&git_directory) => return Ok(None),
            Ok(_) => {}
        }
        let native = match Native::open(top) {
            Ok(native) => Some(native),
            Err(GitError::NoWorkTree { path }) => return Err(GitError::NoWorkTree { path }),
            // git knows kinds of repositories that libgit2 does not (SHA-256, reftable, new extensions), and more ways of
            // saying that a directory is safe; where git refuses too, libgit2's reason is the better told one.
            Err(error) => match command::top(top) {
                Ok(found) if found == top => None,
                _ => return Err(error),
            },
        };
        Ok(Some(Self {
            root: top.to_owned(),
            native,
            revisions: HashMap::new(),
            head: None,
            trees: HashMap::new(),
            status: None,
            ignored: None,
        }))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn tree(&mut self, path: &Path, revision: &str) -> Result<Option<ObjectId>, GitError> {
        let mut id = self.root_tree(revision)?;
        let mut names = path.iter().peekable();
        while let Some(name) = names.next() {
            if !self.trees.contains_key(&id) {
                let entries = match &self.native {
                    Some(native) => native.names(&id)?,
                    None => Some(command::names(&self.root, &id)?),
                };
                // A file where a directory was expected: nothing is below it.
                let Some(entries) = entries else { return Ok(None) };
                self.trees.insert(id.clone(), entries);
            }
            match self.trees[&id].get(name.as_bytes()) {
                Some(entry) => id = entry.clone(),
                None => return Ok(None),
            }
            if self.native.is_none() && names.peek().is_some() && !command::is_tree(&self.root, &id)? {
                return Ok(None);
            }
        }
        Ok(Some(id))
    }

    fn root_tree(&mut self, revision: &str) -> Result<ObjectId, GitError> {
        if let Some(id) = self.revisions.get(revision) {
            return Ok(id.clone());
        }
        if revision == "HEAD" && self.head()?.is_none() {
            return Err(GitError::NoCommit { path: self.root.clone() });
        }
        let id = match &self.native {
            Some(native) => native.root_tree(revision)?,
            None => command::root_tree(&self.root, revision)?,
        };
        self.revisions.insert(revision.to_owned(), id.clone());
        Ok(id)
    }

    pub(super) fn is_dirty(&mut self, path: &Path) -> Result<bool, GitError> {
        if self.head()?.is_none() {
            return Ok(true);
        }
        let changes = &self.status()?.changes;
        let path = path.as_os_str().as_bytes();
        if path.is_empty() {
            return Ok(!changes.is_empty());
        }
        let below = [path, b"/"].concat();
        let has = |name: &[u8]| changes.binary_search_by(|change| change.as_slice().cmp(name)).is_ok();
        let first = changes.partition_point(|change| change.as_slice() < below.as_slice());
        let inside = changes.get(first).is_some_and(|change| change.starts_with(&below));
        // `pkg/` as a whole is untracked when nothing in it was ever added.
        let in_untracked = below.iter().enumerate().any(|(at, byte)| *byte == b'/' && has(&below[..=at]));
        Ok(inside || has(path) || in_untracked)
    }

    fn status(&mut self) -> Result<&Status, GitError> {
        if self.status.is_none() {
            let by_command = match &self.native {
                Some(native) => native.differs_from_git()?,
                None => true,
            };
            let mut changes = match &self.native {
                Some(native) if !by_command => native.changes()?,
                _ => command::changes(&self.root)?,
            };
            changes.sort_unstable();
            changes.dedup();
            self.status = Some(Status { changes, by_command });
        }
        Ok(self.status.as_ref().expect("set above"))
    }

    pub(super) fn ignored(&mut self, path: &Path) -> Result<Vec<Vec<u8>>, GitError> {
        if self.ignored.is_none() {
            let by_command = self.status()?.by_command;
            let mut ignored = match &self.native {
                Some(native) if !by_command => native.ignored()?,
                _ => command::ignored(&self.root)?,
            };
            ignored.sort_unstable();
            self.ignored = Some(ignored);
        }
        let all = self.ignored.as_ref().expect("set above");
        let directory = [path.as_os_str().as_bytes(), b"/"].concat();
        let whole = |ignored: &[u8]| !path.as_os_str().is_empty() && ignored.ends_with(b"/") && directory.starts_with(ignored);
        if all.iter().any(|ignored| whole(ignored)) {
            return Ok(vec![Vec::new()]);
        }
        Ok(all.iter().filter_map(|ignored| below(ignored, path)).map(<[u8]>::to_vec).collect())
    }

    pub(super) fn content_hash(&mut self, path: &Path) -> Result<String, GitError> {
        let by_command = match self.head()? {
            Some(_) => self.status()?.by_command,
            None => self.native.is_none(),
        };
        let (files, quote_path) = match &self.native {
            Some(native) if !by_command => (native.files(path)?, native.quotes_paths()?),
            _ => (command::files(&self.root, path)?, command::quotes_paths(&self.root)?),
        };
        content::hash(&self.root.join(path), &files, quote_path)
    }

    pub(super) fn head(&mut self) -> Result<Option<Commit>, GitError> {
        if self.head.is_none() {
            self.head = Some(match &self.native {
                Some(native) => native.head()?,
                None => command::head(&self.root)?,
            });
        }
        Ok(self.head.clone().expect("set above"))
    }

    pub(super) fn tags_at_head(&mut self) -> Result<Vec<String>, GitError> {
        match &self.native {
            Some(native) => native.tags_at_head(),
            None => command::tags_at_head(&self.root),
        }
    }

    pub(super) fn last_change(&mut self, path: &Path) -> Result<Option<Commit>, GitError> {
        match &self.native {
            Some(native) => native.last_change(path),
            None => command::last_change(&self.root, path),
        }
    }
}

/// The files that are hashed for a dirty package, relative to its directory.
pub(super) struct Files {
    /// In the index, in its order, once per stage.
    pub(super) tracked: Vec<Vec<u8>>,
    /// Neither tracked nor ignored, sorted bytewise.
    pub(super) untracked: Vec<Vec<u8>>,
}

/// Returns `path` below `directory`, relative to it.
pub(super) fn below<'a>(path: &'a [u8], directory: &Path) -> Option<&'a [u8]> {
    match directory.as_os_str().as_bytes() {
        b"" => Some(path),
        directory => path.strip_prefix(directory)?.strip_prefix(b"/"),
    }
}

/// Returns bytes from git as a path.
pub(super) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn is_empty(directory: &Path) -> bool {
    fs_err::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
