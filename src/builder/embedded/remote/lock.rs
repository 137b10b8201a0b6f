//! One fetch at a time of one thing, among tasks and processes.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::RemoteError;
use crate::sys::fs::{Lock, LockKind};

/// Waits for the lock of this name in the directory `locks`.
///
/// # Errors
/// When the file system has no locks, or when cancelled.
pub(super) async fn lock(locks: &Path, name: &blake3::Hash, cancel: &CancellationToken) -> Result<Lock, RemoteError> {
    let path = locks.join(name.to_hex().as_str());
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(lock) = Lock::try_acquire(&path, LockKind::Flock)? {
            return Ok(lock);
        }
        // The kernel's own wait cannot be cancelled.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = cancel.cancelled() => return Err(RemoteError::Cancelled),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
