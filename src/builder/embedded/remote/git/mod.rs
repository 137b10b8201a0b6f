//! Git repositories: what a branch or tag is now, and the files of a commit, with those of its submodules.
//!
//! Only the commit is fetched, never its history, except from servers that give nothing else.

mod connection;
mod export;
mod keep;
mod modules;
mod objects;
mod packet;
mod protocol;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use git2::Oid;
use tokio_util::sync::CancellationToken;

use super::error::RemoteError;
use super::location::{GitSource, GitUrl};
use super::{RemoteLimits, RemoteProgress, Remotes, hash_of, lock};
use crate::builder::embedded::base::blocking;
use crate::builder::embedded::snapshot::upper::Upper;
use crate::builder::embedded::snapshot::{Snapshot, Snapshots};
use crate::time::SourceDate;

use export::{Blob, Found, What};
use objects::Objects;
use protocol::Conversation;

/// Most repositories that one source is made of.
const MODULES: usize = 1000;

/// Most submodules of submodules.
const DEPTH: usize = 32;

/// A commit as a source names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Commit {
    /// What the reference names: a commit, or a tag object.
    object: Oid,
    /// The commit, if that is known to be another object.
    peeled: Option<Oid>,
    /// The whole name of the reference, unless a commit was named itself.
    reference: Option<String>,
}

impl Commit {
    /// Returns what decides about the files of `source`, but not where they come from.
    pub(super) fn key(&self, source: &GitSource) -> blake3::Hash {
        // A repository that comes along also holds the tag, the name and the address.
        let kept = source
            .keep_git_dir
            .then(|| format!("{} {} {}", self.object, self.reference.as_deref().unwrap_or_default(), source.repository));
        let commit = self.peeled.unwrap_or(self.object).to_string();
        let modules: &[u8] = if source.submodules { b"modules" } else { b"" };
        // Submodules with relative addresses follow the repository's, but are commits, too.
        let parts = [commit.as_bytes(), source.subdirectory.as_bytes(), modules, kept.as_deref().unwrap_or_default().as_bytes()];
        hash_of("pkgbuild.git.v1", &parts)
    }
}

/// Files of one repository among those of a source.
struct Part {
    url: GitUrl,
    objects: Objects,
    commit: Oid,
    /// Where they go.
    at: Vec<u8>,
    files: Vec<Blob>,
}

/// A repository still to be looked at.
struct Todo {
    url: GitUrl,
    object: Oid,
    at: Vec<u8>,
    subdirectory: String,
    depth: usize,
}

impl Remotes {
    /// Says which commit `source` names now.
    pub(super) async fn current_commit(&self, source: &GitSource, cancel: &CancellationToken) -> Result<Commit, RemoteError> {
        let from = source.repository.to_string();
        let oid = |text: &str| {
            let rule = "its objects are named by SHA-256, which is not understood";
            Oid::from_str(text)
                .ok()
                .filter(|_| text.len() == 40)
                .ok_or_else(|| RemoteError::Protocol { from: from.clone(), rule })
        };
        if let Some(commit) = source.commit() {
            return Ok(Commit { object: oid(commit)?, peeled: None, reference: None });
        }
        if let (true, Some(checksum)) = (source.by_commit, &source.checksum) {
            let name = source.reference.as_ref();
            let name = name.map(|name| if name.starts_with("refs/") { name.clone() } else { format!("refs/heads/{name}") });
            return Ok(Commit { object: oid(checksum)?, peeled: None, reference: name });
        }
        // Without a slot of the run: a list of a few references is no download.
        let candidates = candidates(source.reference.as_deref());
        let found = self.web.repeated(cancel, || async {
            Conversation::begin(&self.web, &source.repository).await?.references(&candidates).await
        });
        let found = found.await?;
        let chosen = candidates.iter().find_map(|name| Some((name, found.get(name)?)));
        let (name, reference) = chosen.ok_or_else(|| RemoteError::NoReference {
            from: from.clone(),
            reference: source.reference.clone().unwrap_or_else(|| "HEAD".to_owned()),
        })?;
        let name = reference.target.as_ref().unwrap_or(name).clone();
        let commit = Commit { object: reference.object, peeled: reference.peeled, reference: Some(name) };
        if let Some(expected) = &source.checksum {
            let fits = |oid: Oid| oid.to_string().starts_with(&expected.to_ascii_lowercase());
            if !fits(commit.object) && !commit.peeled.is_some_and(fits) {
                let actual = commit.peeled.unwrap_or(commit.object).to_string();
                let from = source.reference.as_ref().map_or_else(|| from.clone(), |reference| format!("{from}#{reference}"));
                return Err(RemoteError::OtherCommit { from, expected: expected.clone(), actual });
            }
        }
        Ok(commit)
    }

    /// Returns the files of `commit` as a layer.
    pub(super) async fn checkout(
        &self,
        snapshots: &Arc<Snapshots>,
        (source, commit, date): (&GitSource, &Commit, SourceDate),
        (progress, cancel): (RemoteProgress<'_>, &CancellationToken),
    ) -> Result<Snapshot, RemoteError> {
        let mut again = true;
        loop {
            let mut met = Vec::new();
            let result = self.try_checkout(snapshots, (source, commit, date), (progress, cancel), &mut met).await;
            match result {
                Err(RemoteError::Objects { from, source }) if again => {
                    again = false;
                    tracing::warn!(%from, error = %source, "the cache of a repository is damaged and fetched anew");
                    for objects in met {
                        let _lock = self.lock_objects(&objects, cancel).await?;
                        blocking(move || objects.forget()).await?;
                    }
                }
                result => return result,
            }
        }
    }

    async fn try_checkout(
        &self,
        snapshots: &Arc<Snapshots>,
        (source, commit, date): (&GitSource, &Commit, SourceDate),
        (progress, cancel): (RemoteProgress<'_>, &CancellationToken),
        met: &mut Vec<Objects>,
    ) -> Result<Snapshot, RemoteError> {
        let mut todo = vec![Todo {
            url: source.repository.clone(),
            object: commit.object,
            at: Vec::new(),
            subdirectory: source.subdirectory.clone(),
            depth: 0,
        }];
        let mut parts: Vec<Part> = Vec::new();
        while let Some(next) = todo.pop() {
            let objects = self.objects(&next.url);
            met.push(objects.clone());
            self.fetch(&next.url, &objects, next.object, (progress, cancel)).await?;
            if parts.len() >= MODULES || next.depth > DEPTH {
                let rule = "there are too many submodules";
                return Err(RemoteError::Tree { from: objects.from, rule, path: String::from_utf8_lossy(&next.at).into_owned() });
            }
            let (limits, submodules) = (self.limits, source.submodules);
            let (part, more) = blocking(move || look(next, objects, &limits, submodules)).await?;
            parts.extend(part);
            todo.extend(more);
        }
        let (snapshots, source, commit) = (snapshots.clone(), source.clone(), commit.clone());
        blocking(move || layer(&snapshots, &source, &commit, (&parts, date))).await
    }

    fn objects(&self, url: &GitUrl) -> Objects {
        // Whoever may read a repository, its commits are the same.
        let from = url.to_string();
        let name = hash_of("pkgbuild git 1", &[from.as_bytes()]);
        Objects::new(self.home.join("git").join(name.to_hex().as_str()), from)
    }

    async fn lock_objects(&self, objects: &Objects, cancel: &CancellationToken) -> Result<crate::sys::fs::Lock, RemoteError> {
        lock::lock(&self.home.join("locks"), &hash_of("pkgbuild git lock 1", &[objects.from.as_bytes()]), cancel).await
    }

    /// Makes sure that the files of `object` are in the cache.
    async fn fetch(
        &self,
        url: &GitUrl,
        objects: &Objects,
        object: Oid,
        (progress, cancel): (RemoteProgress<'_>, &CancellationToken),
    ) -> Result<(), RemoteError> {
        if objects.has(object)? {
            return Ok(());
        }
        let _slot = self.slots.acquire().await.expect("the slots are never closed");
        let _lock = self.lock_objects(objects, cancel).await?;
        if objects.has(object)? {
            return Ok(());
        }
        let known = objects.known()?;
        let (files, tried) = (&self.home.join("files"), AtomicBool::new(false));
        self.web
            .repeated(cancel, || async {
                // Should what is told be the reason of a failure, nothing is told the next time.
                let known = if tried.swap(true, Ordering::Relaxed) { &[] } else { &known[..] };
                let pack = tempfile::Builder::new().prefix(crate::sys::fs::UNFINISHED).tempfile_in(files)?;
                let mut file = tokio::fs::File::from_std(pack.as_file().try_clone()?);
                let conversation = Conversation::begin(&self.web, url).await?;
                conversation.fetch((object, known), (&mut file, self.limits.pack), progress).await?;
                let objects = objects.clone();
                blocking(move || objects.add(pack.path(), object)).await
            })
            .await
    }
}

/// Returns the whole names that `reference` may mean, the one that is meant first when there are several.
fn candidates(reference: Option<&str>) -> Vec<String> {
    let Some(reference) = reference else { return vec!["HEAD".to_owned()] };
    // Branches before tags, as in BuildKit.
    let rest = |prefix: &str| reference.strip_prefix(prefix).unwrap_or(reference).to_owned();
    let mut names = vec![
        format!("refs/{}", rest("refs/")),
        format!("refs/heads/{}", rest("refs/heads/")),
        format!("refs/tags/{}", rest("refs/tags/")),
    ];
    names.dedup();
    names
}

/// Reads what a repository brings, and which submodules it has.
fn look(next: Todo, objects: Objects, limits: &RemoteLimits, submodules: bool) -> Result<(Option<Part>, Vec<Todo>), RemoteError> {
    let repository = objects.open()?;
    let commit = objects.commit(&repository, next.object)?;
    let root = objects.tree(&repository, commit)?;
    let known = || -> Result<BTreeMap<String, modules::Module>, RemoteError> {
        let Some(entry) = root.get_name(".gitmodules") else { return Ok(BTreeMap::new()) };
        // A link is none; git does not follow it either.
        if entry.filemode_raw() & 0o170_000 != 0o100_000 {
            return Ok(BTreeMap::new());
        }
        let blob = repository.find_blob(entry.id()).map_err(|error| objects.error(error))?;
        if blob.size() > modules::LIMIT {
            let rule = "a file is too large";
            return Err(RemoteError::Tree { from: objects.from.clone(), rule, path: ".gitmodules".to_owned() });
        }
        Ok(modules::parse(&String::from_utf8_lossy(blob.content())))
    };
    let module = |path: &str, commit: Oid, at: Vec<u8>, subdirectory: String| -> Result<Option<Todo>, RemoteError> {
        let wrong = |rule| RemoteError::Submodule { from: objects.from.clone(), path: path.to_owned(), rule };
        let modules = known()?;
        let module = modules.get(path).ok_or_else(|| wrong("has no entry in `.gitmodules`"))?;
        if module.is_left_out {
            return Ok(None);
        }
        let url = module.url.as_deref().ok_or_else(|| wrong("has no address in `.gitmodules`"))?;
        let url = next.url.submodule(url).ok_or_else(|| wrong("has an address that is not fetched from"))?;
        Ok(Some(Todo { url, object: commit, at, subdirectory, depth: next.depth + 1 }))
    };
    let missing = || RemoteError::NoDirectory { from: objects.from.clone(), path: next.subdirectory.clone() };
    let tree = match export::find(&objects, &repository, objects.tree(&repository, commit)?, &next.subdirectory)? {
        Found::Tree(tree) => tree,
        Found::Module { path, commit, rest } => {
            let inner = if submodules { module(&path, commit, next.at.clone(), rest)? } else { None };
            return Ok((None, vec![inner.ok_or_else(missing)?]));
        }
    };
    let files = export::list(&objects, &repository, tree, limits)?;
    let mut more = Vec::new();
    for entry in files.iter().filter(|entry| submodules && entry.what == What::Module) {
        let inner = String::from_utf8_lossy(&entry.path).into_owned();
        let path = if next.subdirectory.is_empty() { inner } else { format!("{}/{inner}", next.subdirectory) };
        let at = if next.at.is_empty() { entry.path.clone() } else { [&next.at[..], b"/", &entry.path].concat() };
        more.extend(module(&path, entry.id, at, String::new())?);
    }
    Ok((Some(Part { url: next.url, objects: objects.clone(), commit, at: next.at, files }), more))
}

/// Writes all parts into a layer.
fn layer(
    snapshots: &Snapshots,
    source: &GitSource,
    commit: &Commit,
    (parts, date): (&[Part], SourceDate),
) -> Result<Snapshot, RemoteError> {
    let mut draft = snapshots.draft(&snapshots.scratch())?;
    let mut upper = Upper::new(&mut draft)?;
    // A submodule's place is made by what it is in.
    let mut ordered: Vec<&Part> = parts.iter().collect();
    ordered.sort_by(|a, b| a.at.cmp(&b.at));
    for part in &ordered {
        export::write(&mut upper, &part.at, (&part.objects, &part.files), date)?;
    }
    if let Some(part) = ordered.first().filter(|part| source.keep_git_dir && part.at.is_empty()) {
        let reference = commit.reference.as_deref().map(|name| (name, commit.object));
        let kept = keep::Kept { url: &part.url, objects: &part.objects, reference, commit: part.commit, files: &part.files };
        keep::write(&mut upper, &kept, date)?;
    }
    upper.finish()?;
    Ok(snapshots.commit(draft)?)
}
