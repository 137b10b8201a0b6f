//! Mirrors: other hosts that are asked for a registry's content before the registry itself.
//!
//! The setting is linuxkit's, `[REGISTRY=]URL`: without a registry, or with `*`, it is for every registry that has no
//! mirror of its own; `docker.io` is also `index.docker.io` and `registry-1.docker.io`; a later setting for the same
//! registry replaces an earlier one. The host of a name is replaced by the URL's host and path, the repository is kept.
//!
//! Mirrors are read, never written, and never decide whether something may be pushed. A registry on this machine has
//! no mirror unless it is named: what `*` means to copy is elsewhere.

use std::collections::BTreeMap;
use std::str::FromStr;

use reqwest::Url;

use super::endpoint::{Endpoint, is_loopback};
use super::error::{RegistryError, host_of, redacted};

/// The key for registries without a mirror of their own.
const ANY: &str = "*";
/// Names of one registry.
const DOCKER_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// Which mirrors stand before which registries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mirrors {
    by_registry: BTreeMap<String, Vec<MirrorUrl>>,
    /// Who is asked for what no mirror has.
    pub beyond: Beyond,
}

/// Who is asked for what no mirror has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Beyond {
    /// The registry itself: it alone knows what is absent.
    #[default]
    Registry,
    /// Nobody, as with linuxkit: the mirror stands for the registry, and what it does not have is absent.
    Nobody,
}

/// The address of a mirror: `http://` or `https://`, host, optional path. `http://` permits plain HTTP to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MirrorUrl(Endpoint);

impl FromStr for MirrorUrl {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let Some(url) = url.filter(|url| url.query().is_none() && url.fragment().is_none() && url.host_str().is_some()) else {
            // A URL may hold a password, so what is quoted has none.
            let shown = Url::parse(text).map_or_else(|_| text.to_owned(), |url| redacted(&url));
            return Err(RegistryError::MirrorSetting(shown));
        };
        let path = url.path().trim_matches('/');
        let prefix = path.strip_prefix("v2").filter(|rest| rest.is_empty() || rest.starts_with('/')).unwrap_or(path);
        Ok(Self(Endpoint::mirror(host_of(&url), prefix.trim_matches('/').to_owned(), url.scheme() == "http")))
    }
}

impl Mirrors {
    /// Returns the mirrors of `settings`, each `[REGISTRY=]URL`; later ones replace earlier ones for the same registry.
    ///
    /// # Errors
    /// [`RegistryError::MirrorSetting`] for the first that is of another form.
    pub fn parse<S: AsRef<str>>(settings: impl IntoIterator<Item = S>) -> Result<Self, RegistryError> {
        let mut mirrors = Self::default();
        for setting in settings {
            let setting = setting.as_ref();
            let (registry, url) = match setting.split_once('=') {
                Some((registry, url)) if !registry.contains("://") => (registry, url),
                _ => (ANY, setting),
            };
            mirrors.set(registry, vec![url.parse()?]);
        }
        Ok(mirrors)
    }

    /// Gives `registry` (a host, or `*`) these mirrors, asked in this order, in place of those it had.
    pub fn set(&mut self, registry: &str, mirrors: Vec<MirrorUrl>) {
        let registry = registry.trim_end_matches('/');
        if DOCKER_NAMES.contains(&registry) {
            for name in DOCKER_NAMES {
                self.by_registry.insert(name.to_owned(), mirrors.clone());
            }
        } else {
            self.by_registry.insert(registry.to_owned(), mirrors);
        }
    }

    /// Returns where `registry` is mirrored, in the order to ask.
    pub(super) fn of(&self, registry: &str) -> Vec<Endpoint> {
        let any = if is_loopback(registry) { None } else { self.by_registry.get(ANY) };
        let found = self.by_registry.get(registry).or(any).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|mirror| mirror.0.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(mirrors: &Mirrors, registry: &str) -> Vec<String> {
        mirrors.of(registry).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_mirror_without_a_registry_is_for_all_that_have_none() {
        let mirrors = Mirrors::parse(["https://all.example/cache/", "ghcr.io=http://g.example:81"]).expect("valid");
        assert_eq!(hosts(&mirrors, "quay.io"), ["all.example/cache"]);
        assert_eq!(hosts(&mirrors, "docker.io"), ["all.example/cache"]);
        assert_eq!(hosts(&mirrors, "ghcr.io"), ["g.example:81"]);
        assert!(mirrors.of("ghcr.io")[0].plain && !mirrors.of("quay.io")[0].plain);
        assert_eq!(hosts(&mirrors, "localhost:5000"), [""; 0], "what is on this machine has no mirror");
    }

    #[test]
    fn docker_hub_has_three_names_and_the_last_setting_counts() {
        let mirrors = Mirrors::parse(["docker.io=https://one.example", "docker.io/=https://two.example/v2/hub"]).expect("valid");
        for name in DOCKER_NAMES {
            assert_eq!(hosts(&mirrors, name), ["two.example/hub"]);
        }
        assert_eq!(hosts(&mirrors, "ghcr.io"), [""; 0]);
    }

    #[test]
    fn what_is_no_http_url_is_refused_without_its_password() {
        for bad in
            ["mirror.example", "docker.io=mirror.example", "ftp://x.example", "https://", "docker.io=", "https://x.example/?a=b"]
        {
            assert!(matches!(Mirrors::parse([bad]), Err(RegistryError::MirrorSetting(_))), "{bad}");
        }
        let error = Mirrors::parse(["ftp://me:secret@x.example/"]).expect_err("not http").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
