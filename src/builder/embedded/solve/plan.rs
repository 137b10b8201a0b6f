//! What a build will do, before it does anything: steps in the order of the Dockerfile, what each works on, and the image
//! they make.

use std::sync::Arc;

use crate::builder::StepName;
use crate::builder::embedded::base::BaseImage;
use crate::builder::embedded::image::ImageState;
use crate::builder::embedded::remote::RemoteSource;

use super::op::{CopyFrom, CopyWhat, MountKind, Operation};

/// A root file system that a build knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Root {
    /// Nothing but an empty root directory.
    Scratch,
    /// The base image of this number.
    Image(usize),
    /// What the step of this index left.
    Step(usize),
    /// The remote source of this number; only read, never changed.
    Remote(usize),
}

/// One change of a root file system.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// What people see.
    pub(super) name: StepName,
    /// The Dockerfile's lines of it.
    pub(super) lines: Vec<String>,
    /// What is changed, or for a linked step what its layer is put on.
    pub(super) parent: Root,
    /// Whether it runs even if its result is known.
    pub(super) uncached: bool,
    /// Whether the step works on nothing, and its layer is only put on the parent's: `--link`.
    pub(super) linked: bool,
    /// What else is read; the operation refers to these by number.
    pub(super) inputs: Vec<Root>,
    /// What is done.
    pub(super) operation: Operation,
}

impl Step {
    /// Returns what the step changes.
    pub(super) fn works_on(&self) -> Root {
        if self.linked { Root::Scratch } else { self.parent }
    }

    /// Returns the named context whose files are read, if any.
    pub(super) fn named_context(&self) -> Option<&str> {
        let Operation::Copy(copy) = &self.operation else { return None };
        copy.parts.iter().find_map(|part| match &part.what {
            CopyWhat::Named(name) => Some(&**name),
            _ => None,
        })
    }

    /// Returns whether files of the build context are read.
    pub(super) fn reads_context(&self) -> bool {
        match &self.operation {
            Operation::Copy(copy) => copy.parts.iter().any(|part| part.what.from() == Some(CopyFrom::Context)),
            Operation::MakeDirectory(_) => false,
            Operation::Run(run) => {
                run.mounts.iter().any(|mount| matches!(mount.what, MountKind::Bind { from: CopyFrom::Context, .. }))
            }
        }
    }
}

/// All of a build for one platform.
pub(super) struct Plan {
    /// In an order in which each comes after what it works on.
    pub(super) steps: Vec<Step>,
    /// The base images of reachable stages.
    pub(super) images: Vec<Arc<BaseImage>>,
    /// What steps take from elsewhere.
    pub(super) remotes: Vec<RemoteSource>,
    /// The files of the result.
    pub(super) result: Root,
    /// The config of the result.
    pub(super) image: ImageState,
    /// What is worth saying, a line each.
    pub(super) warnings: Vec<String>,
}

impl Plan {
    /// Returns the base image and the steps that the layers of `root` come from, lowest first.
    pub(super) fn chain(&self, mut root: Root) -> (Option<usize>, Vec<usize>) {
        let mut steps = Vec::new();
        while let Root::Step(step) = root {
            steps.push(step);
            root = self.steps[step].parent;
        }
        steps.reverse();
        let image = if let Root::Image(image) = root { Some(image) } else { None };
        (image, steps)
    }

    /// Returns the first step that reads `root`.
    pub(super) fn reader(&self, root: Root) -> Option<&Step> {
        self.steps.iter().find(|step| step.inputs.contains(&root))
    }

    /// Returns the steps that must be settled to have the files of `roots`, in order. A step that is `recorded` needs what it
    /// changes, whose layers lie below its own, but not what it reads.
    pub(super) fn needed(&self, roots: &[Root], recorded: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut needed = vec![false; self.steps.len()];
        let mark = |needed: &mut [bool], root: &Root| {
            if let Root::Step(step) = root {
                needed[*step] = true;
            }
        };
        roots.iter().for_each(|root| mark(&mut needed, root));
        // A step only refers to earlier ones.
        for step in (0..self.steps.len()).rev() {
            if needed[step] {
                mark(&mut needed, &self.steps[step].parent);
                if !recorded(step) {
                    self.steps[step].inputs.iter().for_each(|root| mark(&mut needed, root));
                }
            }
        }
        (0..self.steps.len()).filter(|step| needed[*step]).collect()
    }
}
