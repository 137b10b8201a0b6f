//! How much was asked of registries, for the summary and for the proof that a second push uploads nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one run; read them at any time.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    retries: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    uploads: AtomicU64,
    mounts: AtomicU64,
    manifests: AtomicU64,
}

/// What [`Counters`] stood at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// HTTP requests, those for tokens, redirects and repetitions included.
    pub requests: u64,
    /// Requests that were sent again after a failure.
    pub retries: u64,
    /// Bytes of blobs and manifests received.
    pub received: u64,
    /// Bytes of blobs and manifests sent, those of broken uploads included.
    pub sent: u64,
    /// Blobs uploaded.
    pub uploads: u64,
    /// Blobs that the registry took from another of its repositories.
    pub mounts: u64,
    /// Manifests and indexes written, once for each name.
    pub manifests: u64,
}

impl Counters {
    /// Returns what they stand at.
    pub fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            requests: read(&self.requests),
            retries: read(&self.retries),
            received: read(&self.received),
            sent: read(&self.sent),
            uploads: read(&self.uploads),
            mounts: read(&self.mounts),
            manifests: read(&self.manifests),
        }
    }

    pub(super) fn requested(&self, count: u64) {
        self.requests.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn uploaded(&self) {
        self.uploads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mounted(&self) {
        self.mounts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn wrote_manifest(&self) {
        self.manifests.fetch_add(1, Ordering::Relaxed);
    }
}
