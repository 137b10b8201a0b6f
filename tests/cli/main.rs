//! The program as its users meet it: one binary, real git, real registries and engines.

#[path = "../support/mod.rs"]
mod support;

mod bundles;
mod debug;
mod demo;
mod doctor;
mod end_to_end;
mod killed;
mod killed_builds;
mod lint;
mod machine;
mod reproducible;
mod rootless;
mod steps;
mod tags;
mod variation;
mod verify;
