//! The in-process Dockerfile builder: no daemon, no engine.
//!
//! | module | owns |
//! |---|---|
//! | `solve` | what to do, what of it is cached, in which order the rest is done |
//! | `base` | base images: fetched and unpacked when a step needs their files |
//! | `agent` | SSH agents, forwarded to steps |
//! | `leak` | values of secrets: masked in what steps print, looked for in what they leave |
//! | [`remote`] | what `ADD` takes from elsewhere: files by URL, git repositories |
//! | `image`, `passwd` | config and history as instructions change them; users and groups of an image |
//! | [`tree`], [`snapshot`], [`differ`], [`untar`], [`copy`], [`context`], [`pack`] | files |
//! | `form` | how files stand on disk, for root and for everybody else |
//! | [`sandbox`] | commands |
//! | [`doctor`] | what can be done on this machine |

pub mod collect;
pub mod context;
pub mod copy;
pub mod differ;
pub mod doctor;
pub mod kept;
pub mod pack;
pub mod remote;
pub mod sandbox;
pub mod snapshot;
pub mod tree;
pub mod untar;

mod agent;
mod base;
mod form;
mod image;
mod leak;
mod parallel;
mod passwd;
mod solve;
#[cfg(test)]
mod testing;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::builder::{BuildError, BuildEvent, BuildRequest, Builder, BuiltImage, Support};
use crate::diagnostic::Diagnostic;
use crate::dockerfile::Ignore;
use crate::oci::Platform;
use crate::store::Store;

use base::BaseImages;
use remote::{RemoteOpenError, RemoteSettings, Remotes};
use sandbox::{Obstacle, Sandbox};
use snapshot::{SnapshotError, Snapshots};
use solve::Records;

/// Builds Dockerfiles in this process. One of these serves all builds of a run, at once: they share base images, the step
/// cache and the slots for running steps.
pub struct EmbeddedBuilder {
    machine: Arc<Machine>,
}

/// What all builds share.
struct Machine {
    store: Store,
    snapshots: Arc<Snapshots>,
    records: Records,
    sandbox: Sandbox,
    bases: BaseImages,
    remotes: Remotes,
    /// Where cache mounts live.
    mounts: PathBuf,
    /// Bounds how many steps run at once.
    slots: Arc<Semaphore>,
    /// Bounds how many layers are packed at once.
    packers: Arc<Semaphore>,
    /// Whether it was said that roots are copied.
    told_of_copies: AtomicBool,
    /// Whether layers were written.
    wrote: AtomicBool,
}

impl Machine {
    /// Notes that layers are about to be written. The first time, layers of earlier runs are made to last meanwhile.
    ///
    /// What this run writes is left to the kernel, which takes half a minute: waiting for the disk would be most of a build
    /// of many files. After a restart of the machine a layer that no later run made to last is not trusted and built again.
    fn begins_to_write(&self) {
        if self.wrote.swap(true, Ordering::Relaxed) {
            return;
        }
        let snapshots = Arc::clone(&self.snapshots);
        std::thread::spawn(move || {
            if let Err(error) = snapshots.sync_older(WRITTEN_BACK) {
                tracing::warn!(%error, "the builder's layers could not be flushed to disk");
            }
        });
    }
}

/// After this time the kernel has most likely written a file to disk by itself (`vm.dirty_expire_centisecs`).
const WRITTEN_BACK: Duration = Duration::from_secs(40);

/// Why the builder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The files of steps cannot be kept.
    #[error("cannot open the builder's layers in the cache")]
    Snapshots(#[from] SnapshotError),
    /// The step cache cannot be kept.
    #[error("cannot open the builder's step cache")]
    Records(#[from] io::Error),
    /// Remote sources cannot be kept or reached.
    #[error("cannot prepare for sources that `ADD` takes from elsewhere")]
    Remotes(#[from] RemoteOpenError),
}

impl EmbeddedBuilder {
    /// Opens the builder, which keeps all it has in the cache of `store` and runs steps in `sandbox`, at most `jobs` of all
    /// builds at once.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub fn open(store: Store, sandbox: Sandbox, jobs: usize) -> Result<Self, OpenError> {
        let snapshots = Arc::new(Snapshots::open_as(store.directory(), sandbox.overlay())?);
        let home = snapshots.home();
        let mounts = home.join("mounts");
        fs_err::create_dir_all(&mounts)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            machine: Arc::new(Machine {
                records: Records::open(home)?,
                remotes: Remotes::open(home, &RemoteSettings::default())?,
                snapshots,
                store,
                sandbox,
                bases: BaseImages::default(),
                mounts,
                slots: Arc::new(Semaphore::new(jobs.max(1))),
                packers: Arc::new(Semaphore::new(processors)),
                told_of_copies: AtomicBool::new(false),
                wrote: AtomicBool::new(false),
            }),
        })
    }

    /// Sets how sources that `ADD` takes from elsewhere are reached. To be called before the first build.
    ///
    /// # Errors
    /// When the cache cannot be written to, or certificates cannot be read.
    pub fn with_remotes(mut self, settings: &RemoteSettings) -> Result<Self, OpenError> {
        let machine = Arc::get_mut(&mut self.machine).expect("no build has begun");
        machine.remotes = Remotes::open(machine.snapshots.home(), settings)?;
        Ok(self)
    }
}

/// Returns what this builder would refuse of a Dockerfile, and what it builds though it is hardly ever meant, sorted by
/// place. Nothing is read and nobody is asked: of `request` the Dockerfile, platform, arguments and network count.
pub fn lint(request: &BuildRequest, ignore: Option<&Ignore>) -> Vec<Diagnostic> {
    solve::lint(request, ignore)
}

#[async_trait]
impl Builder for EmbeddedBuilder {
    fn support(&self, platform: &Platform) -> Support {
        self.machine.sandbox.support(platform)
    }

    async fn build(&self, request: &BuildRequest, on: &(dyn Fn(BuildEvent) + Send + Sync)) -> Result<BuiltImage, BuildError> {
        // Not only RUN: layers have owners, devices and marks that only root can write.
        if self.machine.sandbox.mode().is_none() {
            let obstacle = self.machine.sandbox.obstacle();
            return Err(BuildError::Unsupported {
                platform: Box::new(request.platform.clone()),
                reason: obstacle
                    .map_or_else(|| "the process is not root and has no user namespace".to_owned(), ToString::to_string),
                help: obstacle.map_or("run pkgbuild as root", Obstacle::help).to_owned(),
            });
        }
        solve::build(&self.machine, request, on).await
    }
}
