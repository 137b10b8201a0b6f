//! The questions asked of libgit2.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use git2::{ErrorCode, IndexEntryExtendedFlag, ObjectType, Oid, RepositoryOpenFlags, Status, StatusOptions, StatusShow};

use super::repository::{Files, Names, as_path, below};
use super::{Commit, GitError, ObjectId};

/// A repository opened with libgit2.
pub(super) struct Native {
    repository: git2::Repository,
    root: PathBuf,
}

const GITLINK: u32 = 0o160_000;

impl Native {
    pub(super) fn open(top: &Path) -> Result<Self, GitError> {
        let no_ceilings: [&Path; 0] = [];
        let repository = git2::Repository::open_ext(top, RepositoryOpenFlags::NO_SEARCH, no_ceilings).map_err(|source| {
            match source.code() {
                ErrorCode::Owner => GitError::Owner { path: top.to_owned() },
                _ => GitError::Open { path: top.to_owned(), source },
            }
        })?;
        let here = repository.workdir().and_then(|tree| fs_err::canonicalize(tree).ok());
        if here.as_deref() != Some(top) {
            return Err(GitError::NoWorkTree { path: top.to_owned() });
        }
        let native = Self { repository, root: top.to_owned() };
        // A split index, for one, is only found out about by reading it.
        native.index()?;
        Ok(native)
    }

    fn error(&self, what: impl Into<String>) -> impl FnOnce(git2::Error) -> GitError {
        let (path, what) = (self.root.clone(), what.into());
        move |source| GitError::Read { path, what, source }
    }

    fn index(&self) -> Result<git2::Index, GitError> {
        self.repository.index().map_err(self.error("the index"))
    }

    pub(super) fn root_tree(&self, revision: &str) -> Result<ObjectId, GitError> {
        let object = self.repository.revparse_single(revision).map_err(|source| match source.code() {
            ErrorCode::NotFound | ErrorCode::InvalidSpec | ErrorCode::Ambiguous => {
                GitError::Revision { path: self.root.clone(), revision: revision.to_owned() }
            }
            _ => self.error(format!("`{revision}`"))(source),
        })?;
        let tree = object.peel(ObjectType::Tree).map_err(self.error(format!("the tree of `{revision}`")))?;
        Ok(ObjectId(tree.id().to_string()))
    }

    /// Returns the names in the tree `id`, or `None` when that object is no tree.
    pub(super) fn names(&self, id: &ObjectId) -> Result<Option<Names>, GitError> {
        let error = || self.error(format!("tree {id}"));
        let oid = Oid::from_str(id.as_str()).map_err(error())?;
        let object = match self.repository.find_object(oid, None) {
            Ok(object) => object,
            // The id of a submodule's commit, which is in the submodule's repository.
            Err(source) if source.code() == ErrorCode::NotFound && self.is_gitlink(oid)? => return Ok(None),
            Err(source) => return Err(error()(source)),
        };
        let Some(tree) = object.as_tree() else { return Ok(None) };
        Ok(Some(tree.iter().map(|entry| (entry.name_bytes().to_vec(), ObjectId(entry.id().to_string()))).collect()))
    }

    fn is_gitlink(&self, oid: Oid) -> Result<bool, GitError> {
        Ok(self.index()?.iter().any(|entry| entry.mode == GITLINK && entry.id == oid))
    }

    /// Returns whether libgit2's status would differ from git's: it does not run filters, takes files that a sparse
    /// checkout left out for deleted, and looks into submodules in its own way.
    pub(super) fn differs_from_git(&self) -> Result<bool, GitError> {
        let config = self.repository.config().map_err(self.error("the configuration"))?;
        if config.get_bool("core.sparseCheckout").unwrap_or(false) {
            return Ok(true);
        }
        let mut attributes = vec![self.repository.commondir().join("info/attributes")];
        for entry in self.index()?.iter() {
            let flags = IndexEntryExtendedFlag::from_bits_truncate(entry.flags_extended);
            if entry.mode == GITLINK || flags.contains(IndexEntryExtendedFlag::SKIP_WORKTREE) {
                return Ok(true);
            }
            if entry.path.ends_with(b".gitattributes") {
                attributes.push(self.root.join(as_path(&entry.path)));
            }
        }
        if let Ok(path) = config.get_path("core.attributesFile") {
            attributes.push(path);
        }
        // Attributes that convert content in ways libgit2 does not know.
        let converts = |text: &[u8]| {
            [&b"filter="[..], b"working-tree-encoding="].iter().any(|word| text.windows(word.len()).any(|part| part == *word))
        };
        Ok(attributes.iter().any(|path| fs_err::read(path).is_ok_and(|text| converts(&text))))
    }

    /// Returns the paths that differ from `HEAD` or are neither tracked nor ignored, unsorted.
    pub(super) fn changes(&self) -> Result<Vec<Vec<u8>>, GitError> {
        let mut options = StatusOptions::new();
        options.include_untracked(true).exclude_submodules(true).include_unmodified(false);
        let error = || self.error("the status");
        let statuses = self.repository.statuses(Some(&mut options)).map_err(error())?;
        let mut changes = Vec::with_capacity(statuses.len());
        for entry in statuses.iter() {
            if self.differs_from_head(entry.path_bytes(), entry.status())? {
                changes.push(entry.path_bytes().to_vec());
            }
        }
        Ok(changes)
    }

    /// Returns the paths that are ignored, unsorted; a directory of nothing else as a whole.
    pub(super) fn ignored(&self) -> Result<Vec<Vec<u8>>, GitError> {
        let mut options = StatusOptions::new();
        options.show(StatusShow::Workdir).include_ignored(true).exclude_submodules(true).include_unmodified(false);
        let statuses = self.repository.statuses(Some(&mut options)).map_err(self.error("the status"))?;
        Ok(statuses.iter().filter(|entry| entry.status().is_ignored()).map(|entry| entry.path_bytes().to_vec()).collect())
    }

    /// Tells from a path's status against `HEAD` and against the index how the work tree relates to `HEAD`: what was staged
    /// and then taken back in the work tree is no difference.
    fn differs_from_head(&self, path: &[u8], status: Status) -> Result<bool, GitError> {
        let staged = Status::INDEX_MODIFIED | Status::INDEX_TYPECHANGE;
        let unstaged = Status::WT_MODIFIED | Status::WT_TYPECHANGE;
        if status.is_ignored() || status.is_empty() {
            return Ok(false);
        }
        if status.contains(Status::INDEX_NEW) && status.contains(Status::WT_DELETED) {
            return Ok(false);
        }
        if !(status.intersects(staged) && status.intersects(unstaged)) {
            return Ok(true);
        }
        let error = || self.error(format!("`{}`", String::from_utf8_lossy(path)));
        let head = self.repository.head().and_then(|head| head.peel_to_tree()).map_err(error())?;
        let mut options = git2::DiffOptions::new();
        options.pathspec(as_path(path)).disable_pathspec_match(true);
        let diff = self.repository.diff_tree_to_workdir(Some(&head), Some(&mut options)).map_err(error())?;
        Ok(diff.deltas().len() > 0)
    }

    pub(super) fn files(&self, path: &Path) -> Result<Files, GitError> {
        let tracked = self.index()?.iter().filter_map(|entry| below(&entry.path, path).map(<[u8]>::to_vec)).collect();
        let mut options = StatusOptions::new();
        options.include_untracked(true).recurse_untracked_dirs(true).exclude_submodules(true);
        if !path.as_os_str().is_empty() {
            options.pathspec(path).disable_pathspec_match(true);
        }
        let statuses = self.repository.statuses(Some(&mut options)).map_err(self.error("the status"))?;
        let untracked: BTreeSet<Vec<u8>> = statuses
            .iter()
            .filter(|entry| entry.status().is_wt_new())
            .filter_map(|entry| below(entry.path_bytes(), path).map(<[u8]>::to_vec))
            .collect();
        Ok(Files { tracked, untracked: untracked.into_iter().collect() })
    }

    pub(super) fn quotes_paths(&self) -> Result<bool, GitError> {
        let config = self.repository.config().map_err(self.error("the configuration"))?;
        Ok(config.get_bool("core.quotePath").unwrap_or(true))
    }

    pub(super) fn head(&self) -> Result<Option<Commit>, GitError> {
        let head = match self.repository.head() {
            Ok(head) => head,
            Err(source) if source.code() == ErrorCode::UnbornBranch => return Ok(None),
            Err(source) => return Err(self.error("`HEAD`")(source)),
        };
        let commit = head.peel_to_commit().map_err(self.error("the commit of `HEAD`"))?;
        self.commit(&commit).map(Some)
    }

    fn commit(&self, commit: &git2::Commit<'_>) -> Result<Commit, GitError> {
        let id = commit.id().to_string();
        let odb = self.repository.odb().map_err(self.error("the objects"))?;
        let unique = |digits: &usize| {
            let mut prefix = id[..*digits].to_owned();
            prefix.extend(std::iter::repeat_n('0', id.len() - digits));
            Oid::from_str(&prefix).and_then(|prefix| odb.exists_prefix(prefix, *digits)).is_ok()
        };
        let digits = (12..id.len()).find(unique).unwrap_or(id.len());
        Ok(Commit { short: id[..digits].to_owned(), id: ObjectId(id), time: commit.time().seconds() })
    }

    pub(super) fn tags_at_head(&self) -> Result<Vec<String>, GitError> {
        let Some(head) = self.head()? else { return Ok(Vec::new()) };
        let error = || self.error("the tags");
        let mut tags = Vec::new();
        for reference in self.repository.references_glob("refs/tags/*").map_err(error())? {
            let reference = reference.map_err(error())?;
            // A tag of a tree or a blob points at no commit.
            let points_at = reference.peel_to_commit().ok().map(|commit| commit.id().to_string());
            if points_at.as_deref() == Some(head.id.as_str()) {
                let name = String::from_utf8_lossy(reference.name_bytes()).into_owned();
                tags.push(name.strip_prefix("refs/tags/").unwrap_or(&name).to_owned());
            }
        }
        tags.sort_unstable();
        Ok(tags)
    }

    /// Follows history as `git log` simplifies it: where a parent has the same content at `path`, only that parent counts.
    pub(super) fn last_change(&self, path: &Path) -> Result<Option<Commit>, GitError> {
        let error = || self.error("history");
        let at = |commit: &git2::Commit<'_>| -> Result<Option<Oid>, GitError> {
            let tree = commit.tree().map_err(error())?;
            if path.as_os_str().is_empty() {
                return Ok(Some(tree.id()));
            }
            match tree.get_path(path) {
                Ok(entry) => Ok(Some(entry.id())),
                Err(source) if source.code() == ErrorCode::NotFound => Ok(None),
                Err(source) => Err(error()(source)),
            }
        };
        let Some(head) = self.head()? else { return Ok(None) };
        let oid = Oid::from_str(head.id.as_str()).map_err(error())?;
        let mut commit = self.repository.find_commit(oid).map_err(error())?;
        let mut content = at(&commit)?;
        loop {
            let mut same = None;
            for parent in commit.parents() {
                if at(&parent)? == content {
                    same = Some(parent);
                    break;
                }
            }
            match same {
                Some(parent) => commit = parent,
                None if commit.parent_count() == 0 && content.is_none() => return Ok(None),
                None => return self.commit(&commit).map(Some),
            }
            content = at(&commit)?;
        }
    }
}
