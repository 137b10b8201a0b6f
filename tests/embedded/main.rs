//! Images built by the embedded builder, from Dockerfile to manifest, each checked whole by `transfer::validate`.

mod build;
mod cache;
mod caches;
mod collect;
mod fixture;
mod given;
mod link;
mod run;
mod whole;
