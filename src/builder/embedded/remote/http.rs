//! Files by URL: downloaded into the cache under their digest, and asked about again only when nothing names their content.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use reqwest::StatusCode;
use reqwest::header::{ETAG, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use rustix::fs::{Timespec, Timestamps};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::error::RemoteError;
use super::location::HttpSource;
use super::web::{Downgrade, Question};
use super::{RemoteProgress, Remotes, hash_of, lock};
use crate::builder::embedded::base::blocking;
use crate::builder::embedded::snapshot::upper::Upper;
use crate::builder::embedded::snapshot::{Snapshot, Snapshots};
use crate::builder::embedded::tree::{Entry, Kind};
use crate::oci::Digest;
use crate::oci::digest::Hasher;
use crate::sys::fs::AtomicFile;
use crate::time::SourceDate;

/// Version of the form of what is kept about a URL.
const VERSION: u32 = 1;

/// Where downloads lie.
pub(super) struct Files {
    files: PathBuf,
    urls: PathBuf,
    limit: u64,
}

/// What a URL gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Given {
    version: u32,
    digest: Digest,
    etag: Option<String>,
    modified: Option<String>,
}

/// What a server answered.
enum Answer {
    /// What is known already.
    Same,
    /// Something else, which is in the cache now.
    New(Given),
}

impl Files {
    pub(super) fn new(home: &Path, limit: u64) -> Self {
        Self { files: home.join("files"), urls: home.join("urls"), limit }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.files.join(digest.algorithm()).join(&hex[..2]).join(hex)
    }

    fn has(&self, digest: &Digest) -> io::Result<bool> {
        fs_err::exists(self.path(digest))
    }
}

impl Remotes {
    /// Returns the digest of what the URL gives now; that is in the cache then.
    pub(super) async fn current_file(
        &self,
        source: &HttpSource,
        (progress, cancel): (RemoteProgress<'_>, &CancellationToken),
    ) -> Result<Digest, RemoteError> {
        let url = &source.url.0;
        let key = hash_of("pkgbuild url 1", &[url.as_str().as_bytes()]);
        // What a login gives is nobody else's business, and a login is not to be guessed from a name in the cache.
        let is_private = !url.username().is_empty() || url.password().is_some();
        let record = self.files.urls.join(key.to_hex().as_str());
        let _slot = self.slots.acquire().await.expect("the slots are never closed");
        let _lock = if is_private { None } else { Some(lock::lock(&self.home.join("locks"), &key, cancel).await?) };
        let known = if is_private { None } else { self.known(&record)? };
        if self.web.is_offline() {
            return Err(RemoteError::OfflineUnknown { from: source.url.to_string(), kept: known.map(|known| known.digest) });
        }
        let answer = self.web.repeated(cancel, || self.download(source, known.as_ref(), progress)).await?;
        match (answer, known) {
            (Answer::New(given), _) => {
                if !is_private {
                    let bytes = serde_json::to_vec(&given).map_err(io::Error::other)?;
                    let mut file = AtomicFile::create(&record, 0o600)?;
                    file.write_all(&bytes)?;
                    file.publish_unsynced()?;
                }
                Ok(given.digest)
            }
            (Answer::Same, Some(known)) => Ok(known.digest),
            (Answer::Same, None) => unreachable!("nothing is the same as nothing"),
        }
    }

    /// Returns the path of the file in the cache, downloading it when it is not there.
    pub(super) async fn file(
        &self,
        source: &HttpSource,
        digest: &Digest,
        (progress, cancel): (RemoteProgress<'_>, &CancellationToken),
    ) -> Result<PathBuf, RemoteError> {
        let path = self.files.path(digest);
        if self.files.has(digest)? {
            return Ok(path);
        }
        let _slot = self.slots.acquire().await.expect("the slots are never closed");
        let key = hash_of("pkgbuild file 1", &[digest.to_string().as_bytes()]);
        let _lock = lock::lock(&self.home.join("locks"), &key, cancel).await?;
        if self.files.has(digest)? {
            return Ok(path);
        }
        let wanted = HttpSource { checksum: Some(*digest), ..source.clone() };
        self.web.repeated(cancel, || self.download(&wanted, None, progress)).await?;
        Ok(path)
    }

    /// Returns what is kept of a URL, when its file is still there.
    fn known(&self, record: &Path) -> io::Result<Option<Given>> {
        let bytes = match fs_err::read(record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let given = serde_json::from_slice(&bytes).ok().filter(|given: &Given| given.version == VERSION);
        match given {
            Some(given) if self.files.has(&given.digest)? => Ok(Some(given)),
            _ => Ok(None),
        }
    }

    async fn download(
        &self,
        source: &HttpSource,
        known: Option<&Given>,
        progress: RemoteProgress<'_>,
    ) -> Result<Answer, RemoteError> {
        let from = source.url.to_string();
        let mut question = Question::get(source.url.0.clone());
        if source.checksum.is_some() {
            question.downgrade = Downgrade::Allowed;
        }
        let header = |text: &Option<String>| text.as_ref().and_then(|text| HeaderValue::from_str(text).ok());
        if let Some(etag) = known.and_then(|known| header(&known.etag)) {
            question.headers.insert(IF_NONE_MATCH, etag);
        } else if let Some(modified) = known.and_then(|known| header(&known.modified)) {
            question.headers.insert(IF_MODIFIED_SINCE, modified);
        }
        let conditional = !question.headers.is_empty();
        let response = self.web.ask(&question).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            let refused = || RemoteError::Refused { from, status: StatusCode::NOT_MODIFIED, retry_after: None };
            return if conditional { Ok(Answer::Same) } else { Err(refused()) };
        }
        let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned);
        let (etag, modified) = (text(ETAG), text(LAST_MODIFIED));
        let strong = |etag: &str| etag.trim_start_matches("W/").to_owned();
        if let (Some(now), Some(before)) = (&etag, known.and_then(|known| known.etag.as_ref()))
            && strong(now) == strong(before)
        {
            // Some servers send ETags and do not understand them.
            return Ok(Answer::Same);
        }
        let limit = self.files.limit;
        let total = response.content_length().unwrap_or_default();
        if total > limit {
            return Err(RemoteError::TooLarge { from, limit });
        }
        let mut hasher = source.checksum.as_ref().map_or_else(Hasher::default, Hasher::like);
        let mut file = AtomicFile::create_in(&self.files.files, 0o600)?;
        let mut writer = tokio::io::BufWriter::with_capacity(1 << 20, tokio::fs::File::from_std(file.file().try_clone()?));
        let mut body = response.bytes_stream();
        let mut done = 0;
        while let Some(piece) = body.next().await {
            let piece =
                piece.map_err(|error| RemoteError::BrokeOff { from: from.clone(), source: error.without_url().into() })?;
            done += piece.len() as u64;
            if done > limit {
                return Err(RemoteError::TooLarge { from, limit });
            }
            hasher.update(&piece);
            writer.write_all(&piece).await?;
            progress(done, total.max(done));
        }
        writer.flush().await?;
        let digest = hasher.finish();
        if let Some(expected) = source.checksum.filter(|expected| *expected != digest) {
            return Err(RemoteError::OtherContent { from, expected: Box::new(expected), actual: Box::new(digest) });
        }
        let target = self.files.path(&digest);
        blocking(move || {
            fs_err::create_dir_all(target.parent().expect("a file lies in a directory"))?;
            // As old as what most images are made of, so that layers can share the file.
            set_time(file.file(), SourceDate(0))?;
            file.publish_as(&target)
        })
        .await?;
        Ok(Answer::New(Given { version: VERSION, digest, etag, modified }))
    }
}

fn set_time(file: &File, date: SourceDate) -> io::Result<()> {
    let time = Timespec { tv_sec: date.0, tv_nsec: 0 };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}

/// Returns a snapshot of nothing but the file at `path`, called `name`: mode 0600, as BuildKit has it.
pub(super) fn layer(snapshots: &Arc<Snapshots>, path: &Path, name: &str, date: SourceDate) -> Result<Snapshot, RemoteError> {
    let source = fs_err::File::open(path)?.into_parts().0;
    let mut draft = snapshots.draft(&snapshots.scratch())?;
    // Only noted in the draft's own tree; the commit reads the file.
    let kind = Kind::File { size: source.metadata()?.len(), hash: blake3::hash(b"") };
    let entry = Entry { kind, ..Entry::directory(0o600, 0, 0, date.0) };
    let mut upper = Upper::new(&mut draft)?;
    // Only root's files say everything about themselves.
    let may_link = date == SourceDate(0) && !snapshots.form().records();
    if !may_link || upper.link_file(name.as_bytes(), &source).is_err() {
        upper.write_file(name.as_bytes(), &entry, |mut file| io::copy(&mut &source, &mut file).map(drop))?;
    }
    upper.note(name.as_bytes(), &entry);
    upper.finish()?;
    Ok(snapshots.commit(draft)?)
}
