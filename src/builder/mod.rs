//! The seam between planning and building: a request, the builder that serves it, what it reports, what it returns.
//!
//! A builder sees digests, never tags: base images are resolved once for a whole run, so that no two platforms of a
//! package can see two different `latest`.

pub mod embedded;
pub mod secret;
pub mod steps;
mod variation;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use crate::content::{ContentError, ContentSource, ErrorClass};
use crate::diagnostic::{Diagnostics, Span};
use crate::oci::{Descriptor, Platform};
use crate::time::SourceDate;
pub use variation::{NamedContext, Variation};

use steps::StepOptions;

/// One unit of work: a package at a platform.
#[derive(Clone)]
pub struct BuildRequest {
    /// Name of the package, for messages only.
    pub package: String,
    /// The platform to build for.
    pub platform: Platform,
    /// Where files come from.
    pub context: Context,
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// Build arguments, presets included (`SOURCE`, `PKG_HASH`, …).
    pub args: BTreeMap<String, String>,
    /// Labels to set on the image.
    pub labels: BTreeMap<String, String>,
    /// Annotations to set on the image manifest.
    pub annotations: BTreeMap<String, String>,
    /// What differs from what the Dockerfile says by itself.
    pub variation: Variation,
    /// What network `RUN` steps see unless they say otherwise.
    pub network: Network,
    /// Whether results of earlier builds may be used.
    pub cache: CacheUse,
    /// What is kept on this machine beside the image.
    pub keeping: Keeping,
    /// The time that goes into the image.
    pub source_date: SourceDate,
    /// Base images by the reference as the stage graph names it after expansion (`alpine:3`), each with the manifest for
    /// this request's platform, or for the stage's own platform where the Dockerfile sets one.
    pub bases: BTreeMap<BaseKey, Base>,
    /// What steps are given beyond the Dockerfile.
    pub steps: Arc<StepOptions>,
    /// Stops the build when cancelled: nothing stays running or mounted.
    pub cancel: CancellationToken,
}

impl BuildRequest {
    /// Returns a request for `package` at `platform`, with no files, arguments or base images yet.
    pub fn new(package: &str, platform: Platform, dockerfile: DockerfileSource) -> Self {
        Self {
            package: package.to_owned(),
            platform,
            context: Context { roots: Vec::new() },
            dockerfile,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            variation: Variation::default(),
            network: Network::default(),
            cache: CacheUse::default(),
            keeping: Keeping::default(),
            source_date: SourceDate::default(),
            bases: BTreeMap::new(),
            steps: Arc::default(),
            cancel: CancellationToken::new(),
        }
    }
}

/// Which base image is meant: its reference as written (after expansion) and the platform of the stage that uses it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BaseKey {
    /// The reference as written, after expansion.
    pub reference: String,
    /// The platform of the stage.
    pub platform: Platform,
}

/// A base image: its manifest, and where its blobs can be read.
#[derive(Clone)]
pub struct Base {
    /// The image manifest for one platform.
    pub manifest: Descriptor,
    /// Has the manifest, the config and all layers.
    pub source: Arc<dyn ContentSource>,
}

/// The build context: directories laid over each other, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The package's directory first, at the root; then its extra sources.
    pub roots: Vec<ContextRoot>,
}

/// One directory of the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextRoot {
    /// Absolute path of the directory on this machine.
    pub source: PathBuf,
    /// Where its content appears, relative to the context's root; empty for the root itself.
    pub target: PathBuf,
    /// Whether it stands in place of what earlier roots have at `target`; otherwise it is laid over that.
    pub replaces: bool,
}

/// A Dockerfile and the name that messages call it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerfileSource {
    /// For messages: relative to where the user is.
    pub path: PathBuf,
    /// Path below the context's root, which decides about `<Dockerfile>.dockerignore`.
    pub in_context: PathBuf,
    /// The file's bytes.
    pub text: Arc<[u8]>,
}

/// What network a step sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Network {
    /// A loopback interface of its own and nothing else.
    #[default]
    None,
    /// Reaches out, through a network of its own where the machine can give it one.
    Default,
    /// The machine's own network; needs permission.
    Host,
}

/// What a build keeps on this machine beside its image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Keeping {
    /// Whose `id`s of cache mounts these are: builds with another namespace see other caches. Any text.
    pub cache_namespace: String,
    /// Whether a `RUN` step that fails is kept, to be entered.
    pub failed_steps: bool,
}

/// How far results of earlier builds are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CacheUse {
    /// Read and written.
    #[default]
    ReadWrite,
    /// Only written: every step runs.
    WriteOnly,
}

/// An image of one platform, in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltImage {
    /// The image manifest, with its platform.
    pub manifest: Descriptor,
    /// Attestation manifests about it.
    pub attestations: Vec<Descriptor>,
}

/// How a builder can serve a platform.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Support {
    /// On the machine's own processor.
    Native,
    /// Through an emulator, many times slower.
    Emulated,
    /// `RUN` steps cannot run; a build without any still can.
    Unsupported,
}

/// What a builder tells while it works. Steps count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildEvent {
    /// Work on a step began.
    StepStarted {
        /// The step.
        step: StepName,
    },
    /// A step printed something.
    Log {
        /// The step's number.
        step: usize,
        /// What it printed, in pieces of any size.
        bytes: Vec<u8>,
    },
    /// A step's result was found in the cache.
    StepCached {
        /// The step.
        step: StepName,
    },
    /// A step ended well.
    StepFinished {
        /// The step's number.
        step: usize,
        /// How long it took.
        took: Duration,
    },
    /// Something worth saying that stops nothing.
    Warning {
        /// One line.
        message: String,
    },
    /// Bytes of base images were fetched.
    Fetched {
        /// Bytes so far.
        done: u64,
        /// Bytes in all, as far as known.
        total: u64,
    },
}

/// A step as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepName {
    /// From 1.
    pub number: usize,
    /// How many steps this build has.
    pub of: usize,
    /// The stage's name or number.
    pub stage: String,
    /// The instruction, after expansion, on one line.
    pub text: String,
    /// Its lines in the Dockerfile.
    pub span: Span,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong, or uses what this builder does not have.
    #[error("the Dockerfile cannot be built")]
    Dockerfile(#[source] Diagnostics),
    /// A `RUN` step ended with an error of its own: trying it elsewhere cannot help.
    #[error("step {} of {} {outcome}", step.number, step.of)]
    Step {
        /// The step.
        step: Box<StepName>,
        /// The Dockerfile, for messages.
        dockerfile: PathBuf,
        /// The Dockerfile's lines of the step.
        lines: Box<[String]>,
        /// How it ended, as a phrase: `exited with status 2`, `was killed by signal 9`, `timed out after 60 s`.
        outcome: String,
        /// The last lines of its output.
        tail: Vec<String>,
        /// How many lines it printed in all.
        printed: u64,
        /// The id under which it is kept, if it is.
        kept: Option<Box<str>>,
    },
    /// A step's files could not be read or written.
    #[error("step {} of {} failed", step.number, step.of)]
    Files {
        /// The step.
        step: Box<StepName>,
        /// The Dockerfile, for messages.
        dockerfile: PathBuf,
        /// The Dockerfile's lines of the step.
        lines: Vec<String>,
        /// What can be done about it: `Permanent` when the Dockerfile asks for what is not there.
        class: ErrorClass,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Content could not be fetched or stored.
    #[error("content of the build cannot be fetched or stored")]
    Content(#[from] ContentError),
    /// This machine cannot do what the build needs.
    #[error("this machine cannot build for {platform}: {reason}")]
    Unsupported {
        /// The platform asked for.
        platform: Box<Platform>,
        /// What is missing, in one phrase.
        reason: String,
        /// What would help.
        help: String,
    },
    /// The builder itself failed.
    #[error("the builder cannot {action}")]
    Builder {
        /// What it tried.
        action: String,
        /// What can be done about it.
        class: ErrorClass,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The request was cancelled.
    #[error("the build was cancelled")]
    Cancelled,
}

/// Something that turns requests into images.
#[async_trait]
pub trait Builder: Send + Sync {
    /// Returns how this builder can serve `platform`.
    fn support(&self, platform: &Platform) -> Support;

    /// Builds, reporting to `on`, and returns the image, whose content is then in the cache.
    ///
    /// # Errors
    /// As [`BuildError`]; after any of them nothing stays running or mounted, and the same request can be repeated.
    async fn build(&self, request: &BuildRequest, on: &(dyn Fn(BuildEvent) + Send + Sync)) -> Result<BuiltImage, BuildError>;
}
