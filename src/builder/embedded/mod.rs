//! The in-process Dockerfile builder: no daemon, no engine.

pub mod sandbox;
