//! `RUN`, its network and its mounts.

use crate::builder::Network;
use crate::builder::embedded::image::join_directory;
use crate::builder::embedded::sandbox::{Access, StepNetwork};
use crate::builder::embedded::solve::op::{CacheSharing, CopyFrom, MountKind, MountOperation, Operation, RunOperation};
use crate::builder::embedded::solve::plan::Root;
use crate::dockerfile::instruction::{Run, RunBody, RunNetwork, RunSecurity, SCRIPT_DIRECTORY};
use crate::dockerfile::mount::{self, Mount, Sharing};
use crate::dockerfile::scope::is_proxy;
use crate::dockerfile::stages::{self, Input, Stage};

use super::{Lowering, Refusal, StageState, not_yet, refuse, told};

impl Lowering<'_> {
    pub(super) fn run(
        &mut self,
        run: &Run,
        step: &stages::Step,
        (stage, state): (&Stage, &StageState),
    ) -> Result<(Operation, Vec<Root>), Refusal> {
        if run.security == RunSecurity::Insecure {
            return not_yet("`RUN --security=insecure`");
        }
        if !run.devices.is_empty() {
            return not_yet("`RUN --device`");
        }
        let network = self.network(run.network)?;
        let mut inputs = Vec::new();
        let mut mounts: Vec<MountOperation> = Vec::new();
        for (text, input) in run.mounts.iter().zip(&step.inputs) {
            let scope = &state.scope;
            let mount =
                Mount::parse(text, self.dockerfile.directives.escape, &|name| scope.get(name)).map_err(|error| told(&error))?;
            let mount = self.mount(&mount, input.as_ref(), (state.image.working_directory(), &mut inputs))?;
            // Of two mounts at one place the later is meant.
            mounts.retain(|earlier| earlier.target != mount.target);
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
            env: state.scope.environment().to_vec(),
            proxies: proxies.collect(),
            cwd: state.image.working_directory().to_owned(),
            user: state.image.user().to_owned(),
            network,
            mounts,
            script,
            platform: stage.platform.clone(),
        };
        Ok((Operation::Run(Box::new(operation)), inputs))
    }

    fn network(&mut self, asked: RunNetwork) -> Result<StepNetwork, Refusal> {
        let network = match asked {
            RunNetwork::None => Network::None,
            RunNetwork::Default => self.request.network,
            RunNetwork::Host if self.request.network == Network::Host => Network::Host,
            RunNetwork::Host => return refuse("`RUN --network=host` needs the permission of whoever starts the build"),
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
            mount::MountKind::Cache { from: Some(_), .. } => return not_yet("a cache mount with `from`"),
            mount::MountKind::Cache { source, .. } if !source.is_empty() => return not_yet("a cache mount with `source`"),
            mount::MountKind::Cache { id, sharing, .. } => MountKind::Cache {
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
            mount::MountKind::Secret { .. } => return not_yet("secret mounts"),
            mount::MountKind::Ssh { .. } => return not_yet("SSH mounts"),
        };
        if target == "/" {
            return refuse("a mount cannot be at `/`");
        }
        Ok(MountOperation { target, what })
    }
}
