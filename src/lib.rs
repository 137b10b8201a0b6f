//! Builds a monorepo of container packages for many architectures.
//!
//! # Floors
//! A module imports only modules of lower floors and its own subtree; `tests/floors.rs` enforces it.
//!
//! | floor | modules |
//! |---|---|
//! | 0 | [`oci`] (the specifications' words), [`time`], [`diagnostic`] |
//! | 1 | [`content`] (the seam of all places that hold content), [`sys`] |
//! | 3 | [`builder`] (the seam of all builders) |
//! | 4 | [`engine`] (facts, decisions, and carrying them out) |

pub mod builder;
pub mod content;
pub mod diagnostic;
pub mod engine;
pub mod oci;
pub mod sys;
pub mod time;
