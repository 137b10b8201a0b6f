//! From objects to files: what a commit holds is written straight into a layer. No checkout: attributes, filters and hooks
//! mean nothing, files are as they were committed, with mode 0644 or 0755.

use std::fs::File;
use std::io::{self, Write};

use git2::{ObjectType, Oid, Repository, Tree};

use super::objects::Objects;
use crate::builder::embedded::parallel;
use crate::builder::embedded::remote::RemoteLimits;
use crate::builder::embedded::remote::error::RemoteError;
use crate::builder::embedded::snapshot::upper::Upper;
use crate::builder::embedded::tree::{Entry, Kind, join};
use crate::time::SourceDate;

/// Longest path of a file.
const PATH_LIMIT: usize = 4096;

/// Most files of a commit.
const FILES_LIMIT: usize = 10_000_000;

const MODE_DIRECTORY: i32 = 0o040_000;
const MODE_SYMLINK: i32 = 0o120_000;
const MODE_MODULE: i32 = 0o160_000;

/// A file of a commit.
pub(super) struct Blob {
    /// Path in the commit's directory that is exported.
    pub(super) path: Vec<u8>,
    pub(super) id: Oid,
    pub(super) size: u64,
    pub(super) what: What,
}

/// What an entry of a commit is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Directory,
    File,
    Program,
    Symlink,
    /// A commit of another repository.
    Module,
}

/// Returns everything in `tree`, parents first, in git's order.
///
/// # Errors
/// When a name could lead elsewhere, or there is too much.
pub(super) fn list(
    objects: &Objects,
    repository: &Repository,
    tree: Oid,
    limits: &RemoteLimits,
) -> Result<Vec<Blob>, RemoteError> {
    let wrong = |rule, path: &[u8]| RemoteError::Tree {
        from: objects.from.clone(),
        rule,
        path: String::from_utf8_lossy(path).escape_debug().to_string(),
    };
    let odb = repository.odb().map_err(|error| objects.error(error))?;
    let mut found: Vec<Blob> = Vec::new();
    let mut bytes = 0;
    let mut todo = vec![(Vec::new(), tree)];
    while let Some((directory, id)) = todo.pop() {
        let tree = repository.find_tree(id).map_err(|error| objects.error(error))?;
        let begin = found.len();
        for entry in &tree {
            let name = entry.name_bytes();
            let path = join(&directory, name);
            check_name(name).map_err(|rule| wrong(rule, &path))?;
            if path.len() > PATH_LIMIT {
                return Err(wrong("a path is too long", &path));
            }
            let what = match entry.filemode_raw() {
                MODE_DIRECTORY => What::Directory,
                MODE_SYMLINK => What::Symlink,
                MODE_MODULE => What::Module,
                mode if mode & 0o170_000 == 0o100_000 => {
                    if mode & 0o111 == 0 {
                        What::File
                    } else {
                        What::Program
                    }
                }
                _ => return Err(wrong("no kind of file", &path)),
            };
            let mut size = 0;
            if matches!(what, What::File | What::Program | What::Symlink) {
                let (length, kind) = odb.read_header(entry.id()).map_err(|error| objects.error(error))?;
                size = length as u64;
                let most = if what == What::Symlink { PATH_LIMIT as u64 } else { limits.blob };
                if kind != ObjectType::Blob {
                    return Err(wrong("no file", &path));
                }
                if size > most {
                    return Err(wrong("a file is too large", &path));
                }
                bytes += size;
            }
            found.push(Blob { path, id: entry.id(), size, what });
        }
        if found.len() > FILES_LIMIT || bytes > limits.files {
            return Err(wrong("there is too much in it", &directory));
        }
        let inner = found[begin..].iter().rev().filter(|entry| entry.what == What::Directory);
        todo.extend(inner.map(|entry| (entry.path.clone(), entry.id)));
    }
    // As directories are listed as a whole, a name that comes twice stands among its neighbours.
    found.sort_by(|a, b| a.path.cmp(&b.path));
    if let Some(pair) = found.windows(2).find(|pair| pair[0].path == pair[1].path) {
        return Err(wrong("a name is there twice", &pair[0].path));
    }
    Ok(found)
}

fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" | b"." | b".." => Err("a name means another directory"),
        name if name.contains(&b'/') || name.contains(&0) => Err("a name has a slash in it"),
        name if name.eq_ignore_ascii_case(b".git") => Err("a name is that of a repository's own files"),
        name if name.len() > 255 => Err("a name is too long"),
        _ => Ok(()),
    }
}

/// Returns the object of `directory` in `tree`, or the submodule that it is in, with the rest of the way.
///
/// # Errors
/// When there is no such directory; links are none.
pub(super) fn find(objects: &Objects, repository: &Repository, tree: Tree<'_>, directory: &str) -> Result<Found, RemoteError> {
    let missing = || RemoteError::NoDirectory { from: objects.from.clone(), path: directory.to_owned() };
    let mut id = tree.id();
    let mut names = directory.split('/').filter(|name| !name.is_empty());
    let mut way = Vec::new();
    while let Some(name) = names.next() {
        let tree = repository.find_tree(id).map_err(|error| objects.error(error))?;
        let entry = tree.get_name(name).ok_or_else(missing)?;
        way.push(name);
        id = entry.id();
        match entry.filemode_raw() {
            MODE_DIRECTORY => {}
            MODE_MODULE => {
                let rest = names.collect::<Vec<_>>().join("/");
                return Ok(Found::Module { path: way.join("/"), commit: id, rest });
            }
            _ => return Err(missing()),
        }
    }
    Ok(Found::Tree(id))
}

/// Where a directory of a commit is.
pub(super) enum Found {
    Tree(Oid),
    Module { path: String, commit: Oid, rest: String },
}

/// Writes everything of `entries` below `at` of the draft.
///
/// # Errors
/// When objects cannot be read or files not be written.
pub(super) fn write(
    upper: &mut Upper<'_>,
    at: &[u8],
    (objects, entries): (&Objects, &[Blob]),
    date: SourceDate,
) -> Result<(), RemoteError> {
    let directory = Entry::directory(0o755, 0, 0, date.0);
    let repository = objects.open()?;
    let place = |path: &[u8]| if at.is_empty() { path.to_vec() } else { join(at, path) };
    upper.ensure_directory(at, &directory)?;
    for entry in entries {
        match entry.what {
            What::Directory | What::Module => upper.directory(&place(&entry.path), &directory)?,
            What::Symlink => {
                let blob = repository.find_blob(entry.id).map_err(|error| objects.error(error))?;
                let target = blob.content().to_vec();
                if target.is_empty() || target.contains(&0) {
                    let path = String::from_utf8_lossy(&entry.path).into_owned();
                    return Err(RemoteError::Tree { from: objects.from.clone(), rule: "a link leads nowhere", path });
                }
                let link = Entry { kind: Kind::Symlink { target }, mode: 0o777, ..directory.clone() };
                upper.special(&place(&entry.path), &link)?;
            }
            What::File | What::Program => {}
        }
    }
    let files: Vec<&Blob> = entries.iter().filter(|entry| matches!(entry.what, What::File | What::Program)).collect();
    // Objects are read through a handle for each part: one cannot be shared among threads.
    let parts: Vec<&[&Blob]> = files.chunks(files.len().div_ceil(parallel::threads() * 4).max(1)).collect();
    let upper = &*upper;
    parallel::map(&parts, |part| {
        let repository = objects.open()?;
        for file in *part {
            let blob = repository.find_blob(file.id).map_err(|error| objects.error(error))?;
            let mode = if file.what == What::Program { 0o755 } else { 0o644 };
            // Only metadata counts here; the commit of the draft reads the data.
            let kind = Kind::File { size: file.size, hash: blake3::hash(b"") };
            let entry = Entry { kind, mode, ..directory.clone() };
            upper.write_file(&place(&file.path), &entry, |mut out: &File| out.write_all(blob.content()))?;
        }
        Ok::<_, RemoteError>(())
    })?;
    Ok(())
}

/// Puts one file of our own making.
///
/// # Errors
/// When it cannot be written.
pub(super) fn put(
    upper: &mut Upper<'_>,
    path: &str,
    date: SourceDate,
    fill: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), RemoteError> {
    let directory = Entry::directory(0o755, 0, 0, date.0);
    if let Some((parent, _)) = path.rsplit_once('/') {
        upper.ensure_directory(parent.as_bytes(), &directory)?;
    }
    let kind = Kind::File { size: 0, hash: blake3::hash(b"") };
    upper.write_file(path.as_bytes(), &Entry { kind, mode: 0o644, ..directory }, fill)?;
    Ok(())
}
