//! Builds a monorepo of container packages for many architectures.
//!
//! # Floors
//! A module imports only modules of lower floors and its own subtree; `tests/floors.rs` enforces it.
//!
//! | floor | modules |
//! |---|---|
//! | 0 | [`oci`] (the specifications' words), [`time`], [`diagnostic`] |
//! | 1 | [`content`] (the seam of all places that hold content), [`sys`] |
//! | 1 | [`archive`] (images as streams: OCI layouts, `docker save` archives, flattened file systems) |
//! | 2 | [`store`] (the cache: an OCI layout on disk) |
//! | 2 | [`registry`] (distribution-spec verbs, credentials, mirrors) |
//! | 2 | [`dockerfile`] (the language: instructions, stages, ignore files) |
//! | 3 | [`transfer`] (copying and validating whole images between any two places) |
//! | 2 | [`git`] (trees, status, commits) |
//! | 3 | [`package`] (what a package is, which depend on which, what each is called) |
//! | 3 | [`builder`] (the seam of all builders) |
//! | 4 | [`engine`] (facts, decisions, and carrying them out) |
//! | 5 | [`report`] (events to text) |
//! | 6 | [`cli`] (the program's face) |

pub mod archive;
pub mod builder;
pub mod cli;
pub mod content;
pub mod diagnostic;
pub mod dockerfile;
pub mod engine;
pub mod git;
pub mod oci;
pub mod package;
pub mod registry;
pub mod report;
pub mod store;
pub mod sys;
pub mod time;
pub mod transfer;
