//! How registries are reached: flags and environment over the workspace file.

use std::sync::Arc;

use super::error::Failure;
use super::settings::Settings;
use crate::builder::embedded::remote::{RemoteAccess, RemoteSettings};
use crate::engine::event::{Event, EventKind, EventSink};
use crate::package::{Settings as WorkspaceSettings, Workspace, WorkspaceOptions};
use crate::registry::{
    Access, CredentialSources, MirrorUrl, Mirrors, Registry, RegistryError, Retrying, Settings as RegistrySettings,
};
use crate::report::reporter;
use crate::time::{Clock, SystemClock};

/// Returns the registries of a command that is about no package, as the workspace around it, if there is one, says.
///
/// # Errors
/// As [`registry`], and every mistake in the workspace file.
pub(super) fn registry_here(settings: &Settings) -> Result<Registry, Failure> {
    let mut options = WorkspaceOptions::new(&settings.directory);
    options.config.clone_from(&settings.config);
    let workspace = Workspace::load(options)?;
    let sink: Arc<dyn EventSink> = reporter(settings.look, Box::new(std::io::stderr())).into();
    registry(settings, workspace.settings(), &sink)
}

/// Returns the registries of a run. Repeated requests are told to `sink`.
///
/// # Errors
/// When a mirror or a file of certificates cannot be used.
pub(super) fn registry(
    settings: &Settings,
    workspace: &WorkspaceSettings,
    sink: &Arc<dyn EventSink>,
) -> Result<Registry, Failure> {
    if let (Some(path), false) = (&settings.credentials, settings.offline) {
        // Only registries that ask for a password would notice that the file is not there.
        fs_err::File::open(path).map_err(|source| Failure::File { action: "read", path: path.clone(), source })?;
    }
    let mut mirrors = Mirrors::parse(&settings.mirrors)?;
    // A flag or a variable wins over the file for the registry that it is about.
    let said: Vec<&str> = settings.mirrors.iter().map(|text| registry_of(text)).collect();
    let (mut certificate_files, mut insecure) = (settings.cert_files.clone(), settings.insecure.clone());
    for (name, own) in &workspace.registries {
        if !own.mirrors.is_empty() && !said.contains(&name.as_str()) {
            let urls = own.mirrors.iter().map(|url| url.parse::<MirrorUrl>()).collect::<Result<_, RegistryError>>()?;
            mirrors.set(name, urls);
        }
        certificate_files.extend(own.ca.clone());
        insecure.extend(own.insecure.then(|| name.clone()));
    }
    let (sink, clock) = (Arc::clone(sink), SystemClock);
    let started = clock.now();
    Ok(Registry::new(RegistrySettings {
        mirrors,
        certificate_files,
        insecure,
        credentials: CredentialSources {
            file: settings.credentials.clone(),
            stores: settings.credential_files.clone(),
            ..CredentialSources::default()
        },
        access: if settings.offline { Access::Offline } else { Access::Online },
        on_retry: Some(Arc::new(move |retrying: &Retrying| {
            let at = clock.now();
            let Retrying { request, why, after } = retrying.clone();
            sink.emit(Event { at, elapsed: at.since(started), kind: EventKind::Retrying { request, after, why } });
        })),
        ..RegistrySettings::default()
    })?)
}

/// Returns how sources that `ADD` takes from elsewhere are reached.
pub(super) fn remotes(settings: &Settings) -> RemoteSettings {
    RemoteSettings {
        certificate_files: settings.cert_files.clone(),
        access: if settings.offline { RemoteAccess::Offline } else { RemoteAccess::Online },
        ..RemoteSettings::default()
    }
}

/// Returns the registry of `[REGISTRY=]URL`, `*` when none is named.
fn registry_of(setting: &str) -> &str {
    setting.split_once('=').map(|(registry, _)| registry).filter(|registry| !registry.contains("://")).unwrap_or("*")
}
