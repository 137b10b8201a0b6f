//! From packages to images, indexes and tags: facts, decisions, and the one loop that carries them out.

pub mod bases;
mod bundle;
pub mod compare;
pub mod dispatch;
pub mod error;
pub mod event;
mod execute;
mod finish;
pub mod index;
mod moved;
pub mod plan;
pub mod probe;
pub mod publish;
pub mod remote;
pub mod run;

pub use error::{PackageResult, RunSummary, UnitError, UnitFailure};
pub use execute::{log_name, needed_images};
pub use moved::moved;
pub use run::{Engine, Job, Options, Plan, PlannedPackage, PlannedUnit, mistakes, plan};

#[cfg(test)]
mod tests;
