//! Objects of one repository in the cache: packs as they were fetched, and which commits are there whole.
//!
//! ```text
//! <cache>/pkgbuild/v1/remote/git/<hash>/objects/pack/   packs with their indexes
//! <cache>/pkgbuild/v1/remote/git/<hash>/whole/<object>  the commit's files are in the packs; for a tag object that leads
//!                                                       to one, its name
//! ```
//! There is no configuration, no hook and no work tree; what the user's git is told does not matter here.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use git2::{ErrorCode, Indexer, ObjectType, Odb, Oid, Repository, Tree};

use crate::builder::embedded::remote::error::RemoteError;

/// How many commits that are here are told to a server.
const TOLD: usize = 16;

/// The objects of one repository.
#[derive(Clone, Debug)]
pub(super) struct Objects {
    pub(super) directory: PathBuf,
    /// The repository, for messages.
    pub(super) from: String,
}

impl Objects {
    /// Names the directory; makes nothing.
    pub(super) fn new(directory: PathBuf, from: String) -> Self {
        Self { directory, from }
    }

    fn packs(&self) -> PathBuf {
        self.directory.join("objects/pack")
    }

    fn mark(&self, object: Oid) -> PathBuf {
        self.directory.join("whole").join(object.to_string())
    }

    /// Returns whether all files of a commit, or of what a tag names, are here.
    pub(super) fn has(&self, object: Oid) -> io::Result<bool> {
        fs_err::exists(self.mark(object))
    }

    /// Returns commits that are here whole, newest first, as many as are worth telling.
    pub(super) fn known(&self) -> io::Result<Vec<Oid>> {
        let mut known = Vec::new();
        let entries = match fs_err::read_dir(self.directory.join("whole")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };
        for entry in entries {
            let entry = entry?;
            let Some(object) = entry.file_name().to_str().and_then(|name| Oid::from_str(name).ok()) else { continue };
            let metadata = entry.metadata()?;
            // Servers want to hear of commits only.
            if metadata.len() > 0 {
                continue;
            }
            known.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), object));
        }
        known.sort_by(|a, b| b.cmp(a));
        Ok(known.into_iter().map(|(_, object)| object).take(TOLD).collect())
    }

    /// Takes in a pack, and marks `object`, which it makes whole, with the commit that it names in the end.
    ///
    /// # Errors
    /// When it is no pack, lacks the object, or cannot be written.
    pub(super) fn add(&self, pack: &Path, object: Oid) -> Result<(), RemoteError> {
        fs_err::create_dir_all(self.packs())?;
        fs_err::create_dir_all(self.directory.join("whole"))?;
        let repository = self.open()?;
        let odb = repository.odb().map_err(|error| self.error(error))?;
        // A pack may say what differs from objects that are here; it is completed with those.
        let mut indexer = Indexer::new(Some(&odb), &self.packs(), 0o600, false).map_err(|error| self.error(error))?;
        io::copy(&mut fs_err::File::open(pack)?, &mut indexer)
            .map_err(|source| RemoteError::BrokeOff { from: self.from.clone(), source: source.into() })?;
        indexer.commit().map_err(|source| RemoteError::BrokeOff { from: self.from.clone(), source: source.into() })?;
        let commit = self.commit(&self.open()?, object)?;
        fs_err::write(self.mark(commit), b"")?;
        if object != commit {
            fs_err::write(self.mark(object), commit.to_string())?;
        }
        Ok(())
    }

    /// Opens the objects for reading.
    pub(super) fn open(&self) -> Result<Repository, RemoteError> {
        let open = || {
            let odb = Odb::new()?;
            odb.add_disk_alternate(&self.directory.join("objects").to_string_lossy())?;
            Repository::from_odb(odb)
        };
        open().map_err(|error| self.error(error))
    }

    /// Returns the commit that `object` is, or, being a tag, names in the end.
    ///
    /// # Errors
    /// [`RemoteError::NoCommit`] when it is, or names, something else.
    pub(super) fn commit(&self, repository: &Repository, object: Oid) -> Result<Oid, RemoteError> {
        let missing = || RemoteError::NoCommit { from: self.from.clone(), commit: object.to_string() };
        let found = repository.find_object(object, None).map_err(|error| match error.code() {
            ErrorCode::NotFound => missing(),
            _ => self.error(error),
        })?;
        found.peel(ObjectType::Commit).map(|commit| commit.id()).map_err(|_| missing())
    }

    /// Returns the files of a commit.
    pub(super) fn tree<'r>(&self, repository: &'r Repository, commit: Oid) -> Result<Tree<'r>, RemoteError> {
        repository.find_commit(commit).and_then(|commit| commit.tree()).map_err(|error| self.error(error))
    }

    pub(super) fn error(&self, source: git2::Error) -> RemoteError {
        RemoteError::Objects { from: self.from.clone(), source }
    }

    /// Forgets everything: it turned out to be damaged.
    pub(super) fn forget(&self) -> io::Result<()> {
        // The marks first: what is not marked is fetched again.
        for name in ["whole", "objects"] {
            match fs_err::remove_dir_all(self.directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}
