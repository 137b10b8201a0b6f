//! Sources of `ADD` that lie elsewhere: files by URL and git repositories, fetched by pkgbuild itself and not by a step.
//!
//! ```text
//! resolve    says what a source is now: a digest or a commit. Once in a run, so all platforms get the same.
//! snapshot   gives its files as one layer on nothing, fetching what is not in the cache.
//! ```
//! What names its content, by a checksum or a commit, is resolved without asking anybody.
//!
//! ```text
//! <cache>/pkgbuild/v1/remote/files/<algorithm>/<2 hex>/<hex>   a downloaded file, by its digest
//! <cache>/pkgbuild/v1/remote/urls/<hash>                       what a URL gave last: JSON of digest, ETag, Last-Modified
//! <cache>/pkgbuild/v1/remote/git/<hash>/objects                objects of a repository, by its address
//! <cache>/pkgbuild/v1/remote/layers/<hash>                     the layer of a source, by content and time
//! <cache>/pkgbuild/v1/remote/locks/<hash>                      held while something of that name is fetched
//! ```

mod address;
mod error;
mod git;
mod http;
mod location;
mod lock;
mod web;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::base::blocking;
use super::snapshot::{Snapshot, Snapshots};
use super::tree::LayerId;
use crate::oci::Digest;
use crate::registry::{RegistryError, RetryPolicy};
use crate::sys::fs::{AtomicFile, UNFINISHED};
use crate::time::SourceDate;

pub use address::AddressError;
pub use error::RemoteError;
pub use location::{Flags, GitSource, GitUrl, HttpSource, LocationError, RemoteSource, WebUrl, is_remote, without_user};

use http::Files;
use web::Web;

/// How many sources are fetched at once.
const DOWNLOADS: usize = 8;

/// After what time an unfinished download belongs to nobody.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// How remote sources are reached in one run.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// PEM files with further CA certificates.
    pub certificate_files: Vec<PathBuf>,
    /// Whether anything may be fetched at all.
    pub access: RemoteAccess,
    /// How persistently a server is asked.
    pub retry: RetryPolicy,
    /// How long a server may say nothing before the connection counts as broken.
    pub silence: Duration,
    /// How much is taken of one source.
    pub limits: RemoteLimits,
}

impl Default for RemoteSettings {
    fn default() -> Self {
        Self {
            certificate_files: Vec::new(),
            access: RemoteAccess::Online,
            retry: RetryPolicy::default(),
            silence: Duration::from_secs(60),
            limits: RemoteLimits::default(),
        }
    }
}

/// Whether remote sources may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RemoteAccess {
    /// They may.
    #[default]
    Online,
    /// What is not in the cache is an error.
    Offline,
}

/// How much is taken of one source, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemoteLimits {
    /// One file.
    pub file: u64,
    /// What one fetch from a repository brings, packed.
    pub pack: u64,
    /// All files of a commit, with its submodules.
    pub files: u64,
    /// One file of a commit, which is held in memory.
    pub blob: u64,
}

impl Default for RemoteLimits {
    fn default() -> Self {
        Self { file: 64 << 30, pack: 16 << 30, files: 256 << 30, blob: 2 << 30 }
    }
}

/// Receives how many bytes of a source arrived, and of how many, if that is known.
pub type RemoteProgress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// Remote sources of all builds of a run.
pub struct Remotes {
    home: PathBuf,
    web: Web,
    files: Files,
    limits: RemoteLimits,
    slots: Semaphore,
    resolved: Mutex<HashMap<RemoteSource, Arc<OnceCell<Arc<Resolved>>>>>,
    layers: Mutex<HashMap<blake3::Hash, Arc<OnceCell<Snapshot>>>>,
}

/// What a source is in this run.
#[derive(Debug)]
pub struct Resolved {
    source: RemoteSource,
    content: Content,
}

#[derive(Debug)]
enum Content {
    File(Digest),
    Commit(git::Commit),
}

impl Resolved {
    /// Returns a hash of what the files are, but not of where they come from.
    pub fn key(&self) -> blake3::Hash {
        match (&self.source, &self.content) {
            (RemoteSource::Http(source), Content::File(digest)) => {
                hash_of("pkgbuild.http.v1", &[source.name.as_bytes(), digest.to_string().as_bytes()])
            }
            (RemoteSource::Git(source), Content::Commit(commit)) => commit.key(source),
            _ => unreachable!("a source is resolved to content of its own kind"),
        }
    }
}

/// Returns a hash of `parts`, each with its length.
fn hash_of(kind: &str, parts: &[&[u8]]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for part in [kind.as_bytes()].iter().chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.finalize()
}

/// Why remote sources cannot be kept or reached.
#[derive(Debug, thiserror::Error)]
pub enum RemoteOpenError {
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] io::Error),
    /// Certificates cannot be read.
    #[error(transparent)]
    Certificates(Box<RegistryError>),
}

impl Remotes {
    /// Opens what is kept below `root`, which is where layers are, too. Fetches nothing.
    ///
    /// # Errors
    /// When the directories cannot be made, or certificates cannot be read.
    pub fn open(root: &Path, settings: &RemoteSettings) -> Result<Self, RemoteOpenError> {
        let home = root.join("remote");
        for name in ["files", "urls", "git", "layers", "locks"] {
            fs_err::create_dir_all(home.join(name))?;
        }
        sweep(&home.join("files"))?;
        Ok(Self {
            web: Web::new(settings).map_err(|error| RemoteOpenError::Certificates(Box::new(error)))?,
            files: Files::new(&home, settings.limits.file),
            limits: settings.limits,
            home,
            slots: Semaphore::new(DOWNLOADS),
            resolved: Mutex::default(),
            layers: Mutex::default(),
        })
    }

    /// Says what `source` is now. The first answer of a run is that of the whole run.
    ///
    /// # Errors
    /// As [`RemoteError`]; nothing is remembered then.
    pub async fn resolve(
        &self,
        source: &RemoteSource,
        (progress, cancel): (RemoteProgress<'_>, &CancellationToken),
    ) -> Result<Arc<Resolved>, RemoteError> {
        let cell = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).entry(source.clone()).or_default().clone();
        let resolve = || async {
            let content = match source {
                RemoteSource::Http(http) => Content::File(match http.checksum {
                    Some(digest) => digest,
                    None => self.current_file(http, (progress, cancel)).await?,
                }),
                RemoteSource::Git(git) => Content::Commit(self.current_commit(git, cancel).await?),
            };
            Ok(Arc::new(Resolved { source: source.clone(), content }))
        };
        cell.get_or_try_init(resolve).await.cloned()
    }

    /// Returns the files of `resolved` as one layer on nothing, everything of them as old as `date`.
    ///
    /// # Errors
    /// As [`RemoteError`].
    pub async fn snapshot(
        &self,
        snapshots: &Arc<Snapshots>,
        (resolved, date): (&Resolved, SourceDate),
        (progress, cancel): (RemoteProgress<'_>, &CancellationToken),
    ) -> Result<Snapshot, RemoteError> {
        let key = hash_of("pkgbuild remote layer 1", &[resolved.key().as_bytes(), &date.0.to_le_bytes()]);
        let cell = self.layers.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        let make = || async {
            let record = self.home.join("layers").join(key.to_hex().as_str());
            if let Some(snapshot) = kept_layer(snapshots, &record).await? {
                return Ok(snapshot);
            }
            let _lock = lock::lock(&self.home.join("locks"), &key, cancel).await?;
            if let Some(snapshot) = kept_layer(snapshots, &record).await? {
                return Ok(snapshot);
            }
            let snapshot = match (&resolved.source, &resolved.content) {
                (RemoteSource::Http(http), Content::File(digest)) => {
                    let file = self.file(http, digest, (progress, cancel)).await?;
                    let (snapshots, name) = (snapshots.clone(), http.name.clone());
                    blocking(move || http::layer(&snapshots, &file, &name, date)).await?
                }
                (RemoteSource::Git(git), Content::Commit(commit)) => {
                    self.checkout(snapshots, (git, commit, date), (progress, cancel)).await?
                }
                _ => unreachable!("a source is resolved to content of its own kind"),
            };
            let layer = snapshot.layers.last().expect("a commit adds a layer").to_string();
            blocking(move || {
                let mut file = AtomicFile::create(&record, 0o600)?;
                io::Write::write_all(&mut file, layer.as_bytes())?;
                file.publish_unsynced()
            })
            .await?;
            Ok(snapshot)
        };
        cell.get_or_try_init(make).await.cloned()
    }
}

/// Returns the layer that `record` names, if both are there.
async fn kept_layer(snapshots: &Arc<Snapshots>, record: &Path) -> Result<Option<Snapshot>, RemoteError> {
    let (snapshots, record) = (snapshots.clone(), record.to_owned());
    blocking(move || {
        let text = match fs_err::read_to_string(record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let Ok(layer) = text.parse::<LayerId>() else { return Ok(None) };
        Ok(snapshots.load(&[layer])?)
    })
    .await
}

/// Deletes downloads that a killed process left.
fn sweep(files: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(files)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
            continue;
        }
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age > ABANDONED));
        if old && let Err(error) = fs_err::remove_file(entry.path()) {
            tracing::warn!(%error, "an abandoned download stays in the cache");
        }
    }
    Ok(())
}
