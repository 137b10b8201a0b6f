//! `RUN`, its network, its mounts, and what it asks of whoever starts the build.

use crate::builder::Network;
use crate::builder::embedded::image::join_directory;
use crate::builder::embedded::sandbox::{Access, StepNetwork};
use crate::builder::embedded::solve::op::{
    CacheSharing, CopyFrom, FileOwner, Initial, MountKind, MountOperation, Operation, Presence, RunOperation, SHM_SIZE,
};
use crate::builder::embedded::solve::plan::Root;
use crate::dockerfile::instruction::{Run, RunBody, RunNetwork, RunSecurity, SCRIPT_DIRECTORY};
use crate::dockerfile::mount::{self, Mount, Sharing};
use crate::dockerfile::scope::is_proxy;
use crate::dockerfile::stages::{self, Input, Stage};

use super::{Lowering, Refusal, StageState, refuse, refuse_with, told};

/// The variable in which programs look for an agent's socket.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        run: &Run,
        step: &stages::Step,
        (stage, state): (&Stage, &StageState),
    ) -> Result<(Operation, Vec<Root>), Refusal> {
        if run.security == RunSecurity::Insecure {
            return refuse_with(
                "`RUN --security=insecure` is not in this builder",
                "steps never get the rights of the machine's root; what needs them has to be done outside of the build",
            );
        }
        if !run.devices.is_empty() {
            return refuse_with(
                "`RUN --device` is not in this builder",
                "steps see no devices of the machine; what needs one has to be done outside of the build",
            );
        }
        let network = self.network(run.network)?;
        let mut inputs = Vec::new();
        let mut mounts: Vec<MountOperation> = Vec::new();
        let mut env = state.scope.environment().to_vec();
        let mut agents = 0;
        for (text, input) in run.mounts.iter().zip(&step.inputs) {
            let scope = &state.scope;
            let mount =
                Mount::parse(text, self.dockerfile.directives.escape, &|name| scope.get(name)).map_err(|error| told(&error))?;
            let mount = match self.given(&mount, state.image.working_directory(), agents)? {
                Some(given) => given,
                None => self.mount(&mount, input.as_ref(), (state.image.working_directory(), &mut inputs))?,
            };
            if matches!(mount.what, MountKind::Ssh { .. }) {
                if agents == 0 && !env.iter().any(|(name, _)| name == AGENT_VARIABLE) {
                    env.push((AGENT_VARIABLE.to_owned(), mount.target.clone()));
                }
                agents += 1;
            }
            // Of two mounts at one place the later is meant.
            mounts.retain(|earlier| earlier.target != mount.target || mount.target.is_empty());
            mounts.push(mount);
        }
        let body = run.body();
        let argv = body.argv(&state.image.shell());
        if argv.first().is_none_or(String::is_empty) {
            return refuse("RUN has no command");
        }
        let script = match body {
            RunBody::Script { name, data } => Some((format!("{SCRIPT_DIRECTORY}/{name}"), data.into_bytes())),
            _ => None,
        };
        let proxies = self.request.args.iter().filter(|(name, _)| is_proxy(name));
        let proxies = proxies
            .flat_map(|(name, value)| [name.to_ascii_uppercase(), name.to_ascii_lowercase()].map(|name| (name, value.clone())));
        let operation = RunOperation {
            argv,
            env,
            proxies: proxies.collect(),
            cwd: state.image.working_directory().to_owned(),
            user: state.image.user().to_owned(),
            network,
            mounts,
            script,
            platform: stage.platform.clone(),
            hosts: self.request.steps.hosts.iter().map(|(name, _)| name.clone()).collect(),
            ulimits: self.request.steps.ulimits.clone(),
            shm_size: self.request.steps.shm_size.unwrap_or(SHM_SIZE),
        };
        Ok((Operation::Run(Box::new(operation)), inputs))
    }

    fn network(&mut self, asked: RunNetwork) -> Result<StepNetwork, Refusal> {
        let network = match asked {
            RunNetwork::None => Network::None,
            RunNetwork::Default => self.request.network,
            RunNetwork::Host if self.request.steps.host_network || self.request.network == Network::Host => Network::Host,
            RunNetwork::Host => {
                return refuse_with(
                    "`RUN --network=host` needs the permission of whoever starts the build",
                    "`--allow network.host` gives it: the step then reaches everything on this machine",
                );
            }
        };
        if network == Network::Default && self.outside == StepNetwork::Host {
            let warning = "steps with a network use this machine's own, because `pasta` is not installed";
            if !self.warnings.iter().any(|told| told == warning) {
                self.warnings.push(warning.to_owned());
            }
        }
        Ok(match network {
            Network::None => StepNetwork::None,
            Network::Default => self.outside,
            Network::Host => StepNetwork::Host,
        })
    }

    /// Returns the operation of a mount that shows what is given with the build, or `None` for another mount. `agents` is
    /// how many agents the step has already.
    fn given(&self, mount: &Mount, directory: &str, agents: usize) -> Result<Option<MountOperation>, Refusal> {
        let owner = |mode| FileOwner {
            uid: mount.uid.unwrap_or(0),
            gid: mount.gid.unwrap_or(0),
            mode: mount.mode.unwrap_or(mode) & 0o777,
        };
        let presence = |given, required| match (given, required) {
            (true, _) => Presence::Given,
            (false, false) => Presence::Absent,
            (false, true) => Presence::Missing,
        };
        let steps = &self.request.steps;
        let (target, what) = match &mount.kind {
            mount::MountKind::Secret { id, env, required } => {
                let presence = presence(steps.secrets.contains_key(id), *required);
                let what = MountKind::Secret { id: id.clone(), env: env.clone(), owner: owner(0o400), presence };
                (mount.target.clone(), what)
            }
            mount::MountKind::Ssh { id, required } => {
                let presence = presence(steps.agents.contains_key(id), *required);
                let target = Some(&mount.target).filter(|target| !target.is_empty()).cloned();
                let target = target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{agents}"));
                (target, MountKind::Ssh { id: id.clone(), owner: owner(0o600), presence })
            }
            _ => return Ok(None),
        };
        let target = if target.is_empty() { target } else { join_directory(directory, &target) };
        if target == "/" {
            return refuse("a mount cannot be at `/`");
        }
        Ok(Some(MountOperation { target, what }))
    }

    fn mount(
        &self,
        mount: &Mount,
        input: Option<&Input>,
        (directory, inputs): (&str, &mut Vec<Root>),
    ) -> Result<MountOperation, Refusal> {
        let target = join_directory(directory, &mount.target);
        let access = if mount.read_only { Access::ReadOnly } else { Access::ReadWrite };
        let what = match &mount.kind {
            mount::MountKind::Bind { source, .. } => {
                let from = match input {
                    Some(Input::Scratch) => return refuse("there is nothing in `scratch` to mount"),
                    Some(input) => {
                        inputs.push(self.root(input));
                        CopyFrom::Input(inputs.len() - 1)
                    }
                    None => CopyFrom::Context,
                };
                MountKind::Bind { from, source: join_directory("/", source).trim_start_matches('/').to_owned(), access }
            }
            mount::MountKind::Cache { from: None, source, .. } if !source.is_empty() => {
                return refuse_with(
                    "a cache mount with `source` needs `from`",
                    "`source` is a directory of the stage or image that a new cache starts from",
                );
            }
            mount::MountKind::Cache { id, sharing, source, .. } => MountKind::Cache {
                initial: match input {
                    None | Some(Input::Scratch) => None,
                    Some(input) => {
                        inputs.push(self.root(input));
                        Some(Initial {
                            from: CopyFrom::Input(inputs.len() - 1),
                            source: join_directory("/", source).trim_start_matches('/').to_owned(),
                            keeps_owner: mount.uid.is_none() && mount.gid.is_none() && mount.mode.is_none(),
                        })
                    }
                },
                id: id.clone(),
                sharing: match sharing {
                    Sharing::Shared => CacheSharing::Shared,
                    Sharing::Private => CacheSharing::Private,
                    Sharing::Locked => CacheSharing::Locked,
                },
                uid: mount.uid.unwrap_or(0),
                gid: mount.gid.unwrap_or(0),
                mode: mount.mode.unwrap_or(0o755),
                access,
            },
            mount::MountKind::Tmpfs { size } => MountKind::Tmpfs { size: Some(*size).filter(|size| *size > 0) },
            mount::MountKind::Secret { .. } | mount::MountKind::Ssh { .. } => unreachable!("given, not found"),
        };
        if target == "/" {
            return refuse("a mount cannot be at `/`");
        }
        Ok(MountOperation { target, what })
    }
}
