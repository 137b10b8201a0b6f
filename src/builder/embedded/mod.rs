//! The in-process Dockerfile builder: no daemon, no engine.

pub mod context;
pub mod copy;
pub mod differ;
pub mod pack;
mod parallel;
pub mod sandbox;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod tree;
pub mod untar;
