//! Images built by the embedded builder, from Dockerfile to manifest, each checked whole by `transfer::validate`.

mod build;
mod cache;
mod caches;
mod collect;
mod contexts;
mod fixture;
mod given;
mod link;
mod remote_git;
mod remote_http;
mod run;
mod web;
mod whole;
