//! What can stop a unit, a package or a run.

use std::sync::Arc;

use super::bases::BaseError;
use super::bundle::BundleError;
use super::event::{CancelReason, Totals, UnitName};
use super::plan::{Decision, Refusal};
use super::publish::PublishError;
use super::remote::RemoteError;
use crate::builder::BuildError;
use crate::diagnostic::Diagnostics;
use crate::git::GitError;
use crate::oci::{Digest, Platform, Reference};
use crate::store::StoreError;
use crate::transfer::TransferError;

/// Why a unit, or the package it is of, has no result.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// The plan refuses it.
    #[error("{}", Decision::Refuse(*refusal).reason())]
    Refused {
        /// Why.
        refusal: Refusal,
        /// What the registry did, when that is why.
        #[source]
        source: Option<Arc<RemoteError>>,
    },
    /// A base image cannot be used.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The Dockerfile has mistakes.
    #[error("{0}")]
    Mistakes(#[from] Diagnostics),
    /// The Dockerfile cannot be read.
    #[error("cannot read the Dockerfile")]
    Dockerfile(#[source] std::io::Error),
    /// Git cannot tell which commit last changed the package.
    #[error("cannot find the commit that last changed the package")]
    History(#[from] GitError),
    /// The builder failed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An image cannot be copied.
    #[error(transparent)]
    Transfer(Box<TransferError>),
    /// The cache cannot be used.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// The package cannot be published.
    #[error(transparent)]
    Publish(Box<PublishError>),
    /// Images cannot be laid into the build context.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Packages need each other, so none can be built first.
    #[error("packages need each other: {}", cycle.join(" -> "))]
    Cycle {
        /// Their units, the first repeated at the end.
        cycle: Vec<String>,
    },
    /// The run was ended.
    #[error("cancelled")]
    Cancelled,
}

impl From<StoreError> for UnitError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl From<PublishError> for UnitError {
    fn from(error: PublishError) -> Self {
        Self::Publish(Box::new(error))
    }
}

impl From<TransferError> for UnitError {
    fn from(error: TransferError) -> Self {
        Self::Transfer(Box::new(error))
    }
}

impl UnitError {
    /// Returns whether it only says that the run was ended.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled | Self::Build(BuildError::Cancelled))
    }
}

/// What failed, and where.
#[derive(Debug)]
pub struct UnitFailure {
    /// The package's name.
    pub package: String,
    /// The platform, unless it is about the package as a whole.
    pub platform: Option<Platform>,
    /// Why.
    pub error: UnitError,
}

/// What came of a package that has an index.
#[derive(Clone, Debug)]
pub struct PackageResult {
    /// The package's name.
    pub package: String,
    /// Its tag.
    pub reference: Reference,
    /// What `show-tag` prints for it.
    pub short: String,
    /// Whether it was asked for, or is only there because another is built from it.
    pub asked: bool,
    /// Its index: as the registry has it when it was pushed, else as the cache does.
    pub digest: Option<Digest>,
    /// The image of each platform, and how it came about.
    pub platforms: Vec<(Platform, Digest, &'static str)>,
    /// Whether it is in the registry now.
    pub pushed: bool,
    /// Other names it was given.
    pub released: Vec<Reference>,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct RunSummary {
    /// Counts.
    pub totals: Totals,
    /// Packages that are complete, in the order they were given.
    pub packages: Vec<PackageResult>,
    /// What failed, in the order of packages.
    pub failures: Vec<UnitFailure>,
    /// What was not tried because of a failure.
    pub skipped: Vec<UnitName>,
    /// Why the run was ended early, if it was.
    pub cancelled: Option<CancelReason>,
}
