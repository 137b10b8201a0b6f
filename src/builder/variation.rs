//! How a build differs from what its Dockerfile says by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::dockerfile;

/// What whoever starts a build wants otherwise. The default wants nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Variation {
    /// The stage to build; `None` for the last.
    pub target: Option<String>,
    /// What stands in for the stages and images of these names.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Stages whose steps run even if their results are known.
    pub uncached_stages: BTreeSet<String>,
}

/// What a name in a Dockerfile is made to mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NamedContext {
    /// The files of a directory of this machine, less what its own `.dockerignore` leaves out.
    Directory(PathBuf),
    /// An image, by its reference.
    Image(String),
}

impl Variation {
    /// Returns whether another image may come of it.
    pub fn is_another_image(&self) -> bool {
        self.target.is_some() || !self.contexts.is_empty()
    }

    /// Returns the named contexts as the graph of stages knows them.
    pub fn for_stages(&self) -> BTreeMap<String, dockerfile::NamedContext> {
        let known = |context: &NamedContext| match context {
            NamedContext::Directory(_) => dockerfile::NamedContext::Files,
            NamedContext::Image(reference) => dockerfile::NamedContext::Image(reference.clone()),
        };
        self.contexts.iter().map(|(name, context)| (name.clone(), known(context))).collect()
    }

    /// Returns whether the steps of the stage `title` run even if their results are known.
    pub fn is_uncached(&self, title: &str) -> bool {
        self.uncached_stages.iter().any(|stage| stage.eq_ignore_ascii_case(title))
    }
}
