//! The registry client against scripted servers, which fail as real ones do, and against Debian's `docker-registry`.

mod against_distribution;
mod authorization;
mod distribution;
mod faults;
mod mirrored;
mod scripted;

use std::time::Duration;

use crate::oci::Repository;

use super::{Registry, RemoteRepository, RetryPolicy, Settings, Settle, install_tls_provider};

/// Returns settings whose pauses are short.
fn settings() -> Settings {
    Settings {
        retry: RetryPolicy {
            attempts: 4,
            first: Duration::from_millis(10),
            longest: Duration::from_millis(50),
            patience: Duration::from_secs(3),
        },
        settle: Settle(Duration::from_millis(50)),
        ..Settings::default()
    }
}

fn registry(settings: Settings) -> Registry {
    install_tls_provider();
    Registry::new(settings).expect("valid settings")
}

/// Returns the repository `path` on `host`.
fn named(host: &str, path: &str) -> Repository {
    format!("{host}/{path}").parse().expect("a repository")
}

fn repository(host: &str, path: &str) -> RemoteRepository {
    registry(settings()).repository(&named(host, path))
}

/// Returns bytes that differ for each `seed` and cannot be compressed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
