//! What a command is given from outside, and that none of it stays behind.

use crate::builder::embedded::agent::Agent;
use crate::builder::embedded::leak::{Finder, Mask};
use crate::builder::embedded::sandbox::{Given, RootFs, StepFile, StepSecret, StepSocket};
use crate::builder::embedded::snapshot::{Draft, Snapshot};
use crate::builder::embedded::solve::op::{FileOwner, MountKind, Presence, RunOperation};
use crate::builder::secret::Secret;
use crate::builder::steps::StepOptions;
use crate::content::ErrorClass;

use super::{Job, MissingError, StepError};

/// Returns the secrets that a command mounts and that are there, by id.
pub(in crate::builder::embedded::solve) fn used<'a>(
    operation: &'a RunOperation,
    options: &'a StepOptions,
) -> impl Iterator<Item = (&'a str, &'a Secret)> {
    operation.mounts.iter().filter_map(|mount| match &mount.what {
        MountKind::Secret { id, .. } => Some((id.as_str(), options.secrets.get(id)?)),
        _ => None,
    })
}

/// Returns why a command cannot run, when it needs what was not given.
pub(in crate::builder::embedded::solve) fn missing(operation: &RunOperation) -> Option<StepError> {
    let missing = operation.mounts.iter().find_map(|mount| match &mount.what {
        MountKind::Secret { id, presence: Presence::Missing, .. } => Some(MissingError::Secret(id.clone())),
        MountKind::Ssh { id, presence: Presence::Missing, .. } => Some(MissingError::Agent(id.clone())),
        _ => None,
    });
    missing.map(|missing| StepError::files(ErrorClass::Permanent, missing))
}

/// Returns what the command is given, and the agents that are forwarded until they are dropped.
pub(super) fn given(job: &Job, operation: &RunOperation, root: &RootFs) -> Result<(Given, Vec<Agent>), StepError> {
    if let Some(missing) = missing(operation) {
        return Err(missing);
    }
    let mut given = Given {
        hosts: job.options.hosts.clone(),
        ulimits: operation.ulimits.clone(),
        budget: job.options.budget,
        ..Given::default()
    };
    let mut agents = Vec::new();
    for mount in &operation.mounts {
        match &mount.what {
            MountKind::Secret { id, env, owner, presence: Presence::Given } => given.secrets.push(StepSecret {
                value: job.options.secrets[id].clone(),
                file: (!mount.target.is_empty()).then(|| file(&mount.target, *owner)),
                env: env.clone(),
            }),
            MountKind::Ssh { id, owner, presence: Presence::Given } => {
                let directory = root.upper.parent().expect("a root has a directory of its own");
                let path = directory.join(format!("agent-{}", agents.len()));
                let agent = Agent::forward(&job.options.agents[id], &path);
                agents.push(agent.map_err(|error| StepError::files(ErrorClass::Permanent, error))?);
                given.sockets.push(StepSocket { path, file: file(&mount.target, *owner) });
            }
            _ => {}
        }
    }
    Ok((given, agents))
}

fn file(target: &str, FileOwner { uid, gid, mode }: FileOwner) -> StepFile {
    StepFile { target: target.to_owned(), uid, gid, mode }
}

/// Returns what takes the secrets of the command out of what it prints.
pub(super) fn mask(job: &Job, operation: &RunOperation) -> Mask {
    Mask::new(used(operation, &job.options).map(|(_, secret)| secret))
}

/// Finishes the layer of a command, unless it holds a value of a secret that the command had.
pub(super) fn commit(job: &Job, operation: &RunOperation, draft: Draft) -> Result<Snapshot, StepError> {
    let snapshots = &job.machine.snapshots;
    match Finder::new(used(operation, &job.options)) {
        None => Ok(snapshots.commit(draft)?),
        Some(finder) => snapshots.commit_if(draft, |root, changes| {
            finder.check_layer(root, changes).map_err(|leak| StepError::files(ErrorClass::Permanent, leak))
        }),
    }
}
