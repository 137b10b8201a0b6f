//! How registries are reached: flags and environment over the workspace file.

use super::error::Failure;
use super::settings::Settings;
use crate::package::Settings as WorkspaceSettings;
use crate::registry::{Access, CredentialSources, MirrorUrl, Mirrors, Registry, RegistryError, Settings as RegistrySettings};

/// Returns the registries of a run.
///
/// # Errors
/// When a mirror or a file of certificates cannot be used.
pub(super) fn registry(settings: &Settings, workspace: Option<&WorkspaceSettings>) -> Result<Registry, Failure> {
    let mut mirrors = Mirrors::parse(&settings.mirrors)?;
    // A flag or a variable wins over the file for the registry that it is about.
    let said: Vec<&str> = settings.mirrors.iter().map(|text| registry_of(text)).collect();
    let (mut certificate_files, mut insecure) = (settings.cert_files.clone(), settings.insecure.clone());
    for (name, own) in workspace.iter().flat_map(|workspace| &workspace.registries) {
        if !own.mirrors.is_empty() && !said.contains(&name.as_str()) {
            let urls = own.mirrors.iter().map(|url| url.parse::<MirrorUrl>()).collect::<Result<_, RegistryError>>()?;
            mirrors.set(name, urls);
        }
        certificate_files.extend(own.ca.clone());
        insecure.extend(own.insecure.then(|| name.clone()));
    }
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
        ..RegistrySettings::default()
    })?)
}

/// Returns the registry of `[REGISTRY=]URL`, `*` when none is named.
fn registry_of(setting: &str) -> &str {
    setting.split_once('=').map(|(registry, _)| registry).filter(|registry| !registry.contains("://")).unwrap_or("*")
}
