//! What a package's context holds: git's tree ids where git answers for it, hashes of files where it does not.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::key::{Canonical, Content};
use super::tag::Facts;
use super::{Package, PackageError, SourceState};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::dockerfile::ignore::{self, Ignore};
use crate::git::Commit;
use crate::sys::fs::RootedPath;

/// The sources of a package.
pub(super) struct Sources {
    /// Its own directory, or the hash path.
    pub(super) own: Content,
    /// Its extra sources, in order.
    pub(super) extra: Vec<(PathBuf, Content)>,
    /// How all of them relate to git.
    pub(super) state: SourceState,
    /// The commit of `HEAD`.
    pub(super) commit: Option<Commit>,
}

impl Facts<'_> {
    /// Returns what the package's context holds.
    ///
    /// # Errors
    /// When git cannot answer, or a file cannot be read.
    pub(super) fn sources(&mut self) -> Result<Sources, PackageError> {
        let package = self.package;
        let ignore = ignored(package)?;
        let (own, mut state, commit) = match self.locate(&package.directory)? {
            None => (self.files(&package.directory, &Left::by(&ignore))?, SourceState::OutsideGit, None),
            Some(location) => {
                let scope = self.scope(&location)?;
                let everything = Ignore::default();
                let left = if scope.path == location.path { Left::by(&ignore) } else { Left::by(&everything) };
                let (content, state) = self.content(&scope.root.join(&scope.path), &left)?;
                (content, state, self.ask(|git| git.head(&location))?)
            }
        };
        let mut extra = Vec::new();
        for source in &package.settings.extra_sources {
            let directory = package.source(source);
            let left = Left { ignore: &ignore, target: source.target.as_os_str().as_bytes().to_vec() };
            let (content, of_source) = self.content(&directory, &left)?;
            if state == SourceState::Clean && of_source == SourceState::Dirty {
                state = SourceState::Dirty;
            }
            extra.push((source.target.clone(), content));
        }
        if state == SourceState::Clean && self.overrides.force_dirty {
            state = SourceState::Dirty;
        }
        Ok(Sources { own, extra, state, commit })
    }

    /// Returns the content of one directory of the context, and how it relates to git.
    fn content(&mut self, directory: &Path, left: &Left<'_>) -> Result<(Content, SourceState), PackageError> {
        let Some(location) = self.locate(directory)? else {
            return Ok((self.files(directory, left)?, SourceState::OutsideGit));
        };
        // Another commit than what is checked out has nothing but its tree.
        if self.overrides.hash_commit != "HEAD" {
            return Ok((Content { tree: Some(self.tree(&location)?), files: None }, SourceState::Clean));
        }
        if self.ask(|git| git.is_dirty(&location))? {
            return Ok((self.files(directory, left)?, SourceState::Dirty));
        }
        let tree = Some(self.tree(&location)?);
        // What git ignores is part of the context all the same.
        let ignored = self.ask(|git| git.ignored(&location))?;
        let files = self.read(|| hash(directory, &ignored, left))?;
        Ok((Content { tree, files }, SourceState::Clean))
    }

    fn files(&self, directory: &Path, left: &Left<'_>) -> Result<Content, PackageError> {
        let files = self.read(|| hash(directory, &[Vec::new()], left))?;
        Ok(Content { tree: None, files: Some(files.unwrap_or_default()) })
    }

    fn read<T>(&self, read: impl FnOnce() -> io::Result<T>) -> Result<T, PackageError> {
        read().map_err(|source| PackageError::Sources { package: self.package.shown.clone(), source })
    }
}

/// What is left out of a directory of the context.
struct Left<'a> {
    ignore: &'a Ignore,
    /// Where the directory appears in the context.
    target: Vec<u8>,
}

impl<'a> Left<'a> {
    fn by(ignore: &'a Ignore) -> Self {
        Self { ignore, target: Vec::new() }
    }

    fn out(&self, path: &[u8], is_directory: bool) -> bool {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).map(<[u8]>::to_vec).collect()
        };
        let path = [parts(&self.target), parts(path)].concat().join(&b'/');
        self.ignore.excludes(&path) && !(is_directory && self.ignore.may_keep_below(&path))
    }
}

/// Reads the ignore file of a package's context.
///
/// # Errors
/// Its mistakes, or that it cannot be read.
pub(super) fn ignored(package: &Package) -> Result<Ignore, PackageError> {
    let unreadable = |candidate: &Path, error: &io::Error| {
        let message = format!("the ignore file cannot be read: {}", error.kind());
        PackageError::Mistakes(Diagnostics(vec![Diagnostic::error(&package.shown.join(candidate), message)]))
    };
    for candidate in ignore::candidates(package.dockerfile()) {
        // As the builder reads it: a link that leads out of the package leads nowhere.
        let read = RootedPath::open(&package.directory).and_then(|root| root.read_regular(&candidate, ignore::LIMIT as u64));
        if let Some(text) = read.map_err(|error| unreadable(&candidate, &error))? {
            return Ignore::parse(&package.shown.join(&candidate), &text).map_err(PackageError::Mistakes);
        }
    }
    Ok(Ignore::default())
}

/// Returns a hash of the files and links at and below `starts`, which are relative to `directory`; `None` when there is
/// none. Of the permissions only the execute bit counts, as in git.
fn hash(directory: &Path, starts: &[Vec<u8>], left: &Left<'_>) -> io::Result<Option<String>> {
    let mut found = Vec::new();
    let mut todo: Vec<Vec<u8>> = starts.iter().map(|start| start.strip_suffix(b"/").unwrap_or(start).to_vec()).collect();
    while let Some(path) = todo.pop() {
        let absolute = directory.join(as_path(&path));
        // The directory itself may be a link; nothing below it is followed.
        let meta = if path.is_empty() { fs_err::metadata(&absolute)? } else { fs_err::symlink_metadata(&absolute)? };
        if !path.is_empty() && left.out(&path, meta.is_dir()) {
            continue;
        }
        if !meta.is_dir() {
            found.push((path, meta));
            continue;
        }
        for entry in fs_err::read_dir(&absolute)? {
            let name = entry?.file_name();
            if name != ".git" {
                let parent: &[u8] = if path.is_empty() { b"" } else { b"/" };
                todo.push([&path, parent, name.as_bytes()].concat());
            }
        }
    }
    found.retain(|(_, meta)| meta.is_file() || meta.is_symlink());
    if found.is_empty() {
        return Ok(None);
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut canonical = Canonical::new("pkgbuild files");
    for (path, meta) in found {
        let absolute = directory.join(as_path(&path));
        canonical.bytes(&path);
        if meta.is_symlink() {
            canonical.bytes(b"link");
            canonical.bytes(fs_err::read_link(&absolute)?.as_os_str().as_bytes());
        } else {
            canonical.bytes(if meta.permissions().mode() & 0o100 == 0 { b"file" } else { b"executable" });
            canonical.bytes(&hash_of(fs_err::File::open(&absolute)?)?);
        }
    }
    Ok(Some(canonical.finish()))
}

fn hash_of(mut file: impl io::Read) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
