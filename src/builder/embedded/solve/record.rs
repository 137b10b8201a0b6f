//! The step cache on disk, and the locks that make processes and threads run a step once.
//!
//! ```text
//! <cache>/pkgbuild/v1/keys/<2 hex>/<key>   a JSON record of one line: what a step with this key left
//! <cache>/pkgbuild/v1/lock/<key>           held by whoever runs the step; unlinked by the holder
//! ```
//! Records appear by rename and are not flushed: a lost or torn one costs a run of its step and nothing else.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::key::Key;
use crate::builder::embedded::snapshot::gate::Passage;
use crate::sys::fs::{AtomicFile, Lock, LockKind};

/// Version of the record's form; another one is as good as none.
const VERSION: u32 = 1;

/// What a step left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::builder::embedded) struct Record {
    version: u32,
    /// The layer the step added.
    pub(in crate::builder::embedded) layer: String,
    /// The files after the step, hashed.
    pub(in crate::builder::embedded) tree: String,
    /// Names the files before the step, mostly by their hash: a layer means something only on top of what it was made on.
    pub(in crate::builder::embedded) parent: String,
    /// How long the step ran.
    pub(super) milliseconds: u64,
}

impl Record {
    /// Returns the record of a step that made `layer` of `parent`, giving `tree`.
    pub(super) fn new(layer: String, tree: String, parent: String, took: Duration) -> Self {
        Self { version: VERSION, layer, tree, parent, milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }
    }

    /// Reads a record; `None` for what is torn or of another version.
    pub(in crate::builder::embedded) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|record: &Self| record.version == VERSION)
    }
}

/// The step cache of one cache directory.
#[derive(Debug)]
pub(in crate::builder::embedded) struct Records {
    keys: PathBuf,
    locks: PathBuf,
    running: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
}

/// The right to run a step; given back when dropped.
pub(super) struct StepLock {
    path: PathBuf,
    // Dropped in this order: the file's name goes first, then other processes may lock, then other tasks of this one.
    _file: Lock,
    _task: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for StepLock {
    fn drop(&mut self) {
        // A waiter that holds the unlinked file sees another inode under the name and opens again.
        drop(fs_err::remove_file(&self.path));
    }
}

impl Records {
    /// Opens the step cache below `root`, `<cache>/pkgbuild/v1`.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub(in crate::builder::embedded) fn open(root: &Path) -> io::Result<Self> {
        let (keys, locks) = (root.join("keys"), root.join("lock"));
        for directory in [&keys, &locks] {
            fs_err::create_dir_all(directory)?;
        }
        Ok(Self { keys, locks, running: Mutex::default() })
    }

    fn path(&self, key: &Key) -> PathBuf {
        let name = key.to_string();
        self.keys.join(&name[..2]).join(name)
    }

    /// Returns the record of `key`, or `None` when there is none that can be read.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(super) fn read(&self, key: &Key) -> io::Result<Option<Record>> {
        match fs_err::read(self.path(key)) {
            Ok(bytes) => Ok(Record::parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Marks the record of `key` as used.
    ///
    /// # Errors
    /// When it is there and cannot be marked.
    pub(super) fn mark(&self, key: &Key, passage: &Passage) -> io::Result<()> {
        passage.mark(&self.path(key)).map(drop)
    }

    /// Writes the record of `key`, replacing an older one.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(super) fn write(&self, key: &Key, record: &Record, _passage: &Passage) -> io::Result<()> {
        let path = self.path(key);
        fs_err::create_dir_all(path.parent().expect("a record lies in a directory"))?;
        let mut file = AtomicFile::create(&path, 0o600)?;
        file.write_all(&serde_json::to_vec(record).map_err(io::Error::other)?)?;
        file.publish_unsynced()
    }

    /// Waits for the right to run the step `key`, or returns `None` when cancelled.
    ///
    /// # Errors
    /// When the file system has no locks.
    pub(super) async fn lock(&self, key: &Key, cancel: &CancellationToken) -> io::Result<Option<StepLock>> {
        let in_process = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|_, mutex| mutex.strong_count() > 0);
            let mutex = running.get(key).and_then(Weak::upgrade).unwrap_or_default();
            running.insert(*key, Arc::downgrade(&mutex));
            mutex
        };
        let task = tokio::select! {
            guard = in_process.lock_owned() => guard,
            () = cancel.cancelled() => return Ok(None),
        };
        let path = self.locks.join(key.to_string());
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(file) = Lock::try_acquire(&path, LockKind::Flock)?
                && file.is_at(&path)?
            {
                return Ok(Some(StepLock { path, _file: file, _task: task }));
            }
            // The kernel's own wait cannot be cancelled; another process running the same step is rare and lasts.
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = cancel.cancelled() => return Ok(None),
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::builder::embedded::snapshot::gate::Gate;
    use crate::builder::embedded::solve::key::Fields;

    fn record() -> Record {
        Record::new("l".to_owned(), "t".to_owned(), "p".to_owned(), Duration::from_millis(7))
    }

    #[test]
    fn a_torn_or_foreign_record_is_as_good_as_none() {
        let directory = tempfile::tempdir().expect("temp dir");
        let records = Records::open(directory.path()).expect("opens");
        let key = Fields::new("test").finish();
        assert_eq!(records.read(&key).expect("reads"), None);
        let passage = Gate::of(directory.path()).pass().expect("locks");
        records.write(&key, &record(), &passage).expect("writes");
        assert_eq!(records.read(&key).expect("reads"), Some(record()));
        for torn in ["", "{\"version\":1,", "{\"version\":2,\"layer\":\"l\",\"tree\":\"t\",\"parent\":\"p\",\"milliseconds\":7}"]
        {
            fs_err::write(records.path(&key), torn).expect("writes");
            assert_eq!(records.read(&key).expect("reads"), None, "{torn:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn at_most_one_holder_runs_a_step_in_one_process_and_between_two() {
        let directory = tempfile::tempdir().expect("temp dir");
        // Two openings of one directory stand for two processes: flock excludes between open files.
        let processes = [0, 1].map(|_| Arc::new(Records::open(directory.path()).expect("opens")));
        let inside = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..16)
            .map(|n| {
                let (records, inside) = (processes[n % 2].clone(), inside.clone());
                tokio::spawn(async move {
                    let key = Fields::new("test").finish();
                    let lock = records.lock(&key, &CancellationToken::new()).await.expect("locks");
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(lock.expect("not cancelled"));
                })
            })
            .collect();
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(fs_err::read_dir(directory.path().join("lock")).expect("reads").count(), 0);
    }

    #[tokio::test]
    async fn waiting_for_a_lock_ends_when_cancelled() {
        let directory = tempfile::tempdir().expect("temp dir");
        let records = Records::open(directory.path()).expect("opens");
        let key = Fields::new("test").finish();
        let cancel = CancellationToken::new();
        let _held = records.lock(&key, &cancel).await.expect("locks");
        cancel.cancel();
        assert!(records.lock(&key, &cancel).await.expect("locks").is_none());
    }
}
