//! What steps are given, from the command line: secrets are read, sockets looked at, all before anything else is done.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use super::args::{AgentArg, Permission, SecretArg, SecretSource, StepArgs};
use super::error::Failure;
use super::settings::Settings;
use crate::builder::secret::{SECRET_LIMIT, Secret};
use crate::builder::steps::{Budget, StepOptions};
use crate::engine::plan::Decision;
use crate::engine::{Job, Plan};

/// Returns what the flags give to steps.
///
/// # Errors
/// When a secret cannot be read, or an agent is none.
pub(super) fn options(args: &StepArgs, settings: &Settings) -> Result<Arc<StepOptions>, Failure> {
    let mut options = StepOptions {
        hosts: args.add_host.clone(),
        ulimits: args.ulimit.clone(),
        shm_size: args.shm_size,
        budget: Budget { memory: args.memory, cpus: args.cpus, processes: args.pids_limit },
        host_network: args.allow.contains(&Permission::NetworkHost),
        ..StepOptions::default()
    };
    for secret in &args.secret {
        if options.secrets.insert(secret.id.clone(), read(secret, settings)?).is_some() {
            return Err(Failure::usage(format!("the secret `{}` is given twice", secret.id)));
        }
    }
    for agent in &args.ssh {
        if options.agents.insert(agent.id.clone(), socket(agent, settings)?).is_some() {
            return Err(Failure::usage(format!("the SSH agent `{}` is given twice", agent.id)));
        }
    }
    Ok(Arc::new(options))
}

fn read(secret: &SecretArg, settings: &Settings) -> Result<Secret, Failure> {
    let file = |path: &Path| read_file(secret, &settings.path(path));
    match &secret.source {
        SecretSource::File(path) => file(path),
        SecretSource::Variable(name) => match settings.variable(name) {
            Some(value) => value_of(secret, value.as_encoded_bytes()),
            None => Err(Failure::usage(format!("secret `{}`: the variable `{name}` is not set", secret.id))),
        },
        SecretSource::Named => match settings.variable(&secret.id) {
            Some(value) => value_of(secret, value.as_encoded_bytes()),
            None => file(Path::new(&secret.id)),
        },
    }
}

fn too_large(id: &str) -> Failure {
    Failure::usage(format!("secret `{id}` is larger than {} KiB, the most that is taken", SECRET_LIMIT >> 10))
}

fn value_of(secret: &SecretArg, value: &[u8]) -> Result<Secret, Failure> {
    if value.len() as u64 > SECRET_LIMIT {
        return Err(too_large(&secret.id));
    }
    Secret::copy(value).map_err(Failure::Runtime)
}

fn read_file(secret: &SecretArg, path: &Path) -> Result<Secret, Failure> {
    let failed = |source| Failure::File { action: "read the secret in", path: path.to_owned(), source };
    let file = fs_err::File::open(path).map_err(failed)?;
    let known = file.metadata().map_err(failed)?;
    if known.is_file() {
        if known.len() > SECRET_LIMIT {
            return Err(too_large(&secret.id));
        }
        return Secret::read(file, known.len() as usize).map_err(failed);
    }
    // A pipe, as in `src=<(command)`: its length is not known before its end.
    let mut bytes = Vec::with_capacity(SECRET_LIMIT as usize + 1);
    file.take(SECRET_LIMIT + 1).read_to_end(&mut bytes).map_err(failed)?;
    let value = value_of(secret, &bytes);
    bytes.fill(0);
    value
}

fn socket(agent: &AgentArg, settings: &Settings) -> Result<std::path::PathBuf, Failure> {
    let path = match &agent.socket {
        Some(path) => settings.path(path),
        None => match settings.variable("SSH_AUTH_SOCK") {
            Some(path) if !path.is_empty() => settings.path(Path::new(path)),
            _ => {
                let hint =
                    Some("start one with `eval $(ssh-agent)` and `ssh-add`, or name its socket: `--ssh ID=SOCKET`".to_owned());
                let message = format!("--ssh {}: no SSH agent runs: SSH_AUTH_SOCK is not set", agent.id);
                return Err(Failure::Usage { message, hint });
            }
        },
    };
    let found = fs_err::metadata(&path).map_err(|source| Failure::File {
        action: "find the SSH agent at",
        path: path.clone(),
        source,
    })?;
    if found.file_type().is_socket() {
        return Ok(path);
    }
    let message = format!("--ssh {}: `{}` is no socket of an SSH agent", agent.id, path.display());
    let hint = Some("keys are not read from files: add them to an agent with `ssh-add FILE` and use `--ssh default`".to_owned());
    Err(Failure::Usage { message, hint })
}

/// Refuses to build packages whose build.yml names secrets or agents that were not given.
///
/// # Errors
/// The first of them.
pub(super) fn refuse_missing(jobs: &[Job], plan: &Plan, options: &StepOptions) -> Result<(), Failure> {
    for (job, planned) in jobs.iter().zip(&plan.packages) {
        if !planned.units.iter().any(|unit| matches!(unit.decision, Decision::Build(_))) {
            continue;
        }
        let settings = &job.package.settings;
        let lacks =
            |named: &Option<Vec<String>>, given: &dyn Fn(&str) -> bool| named.iter().flatten().find(|id| !given(id)).cloned();
        let secret = lacks(&settings.secrets, &|id| options.secrets.contains_key(id));
        if let Some(id) = secret {
            let hint = Some(format!("`--secret id={id},src=FILE` or `--secret id={id},env=VARIABLE` gives it"));
            return Err(Failure::Usage { message: format!("`{}` needs the secret `{id}`", job.name), hint });
        }
        if let Some(id) = lacks(&settings.ssh, &|id| options.agents.contains_key(id)) {
            let hint = Some(format!("`--ssh {id}` or `--ssh {id}=SOCKET` gives it"));
            return Err(Failure::Usage { message: format!("`{}` needs the SSH agent `{id}`", job.name), hint });
        }
    }
    Ok(())
}
