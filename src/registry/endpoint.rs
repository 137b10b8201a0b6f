//! Where a registry is really asked: host, path prefix, and whether the connection is encrypted.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use reqwest::Url;

use crate::oci::reference::DEFAULT_REGISTRY;

/// The host that serves what is named `docker.io`.
const DOCKER_HOST: &str = "registry-1.docker.io";

/// A host to which the distribution API's requests are sent, with what stands before the repository's path there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Endpoint {
    /// Host with an optional port.
    pub host: String,
    /// Put before each repository's path, without slashes at its ends; empty for most.
    prefix: String,
    /// Whether requests go out unencrypted.
    pub plain: bool,
}

impl Endpoint {
    /// Returns where `registry` itself is asked. `insecure` are the registries that may be asked unencrypted beside
    /// those on this machine.
    pub fn of_registry(registry: &str, insecure: &[String]) -> Self {
        let plain = is_loopback(registry) || insecure.iter().any(|named| named == registry);
        let host = if registry == DEFAULT_REGISTRY { DOCKER_HOST } else { registry };
        Self { host: host.to_owned(), prefix: String::new(), plain }
    }

    pub fn mirror(host: String, prefix: String, plain: bool) -> Self {
        Self { host, prefix, plain }
    }

    /// Returns the path of the repository `path` on this host.
    pub fn repository(&self, path: &str) -> String {
        if self.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.prefix) }
    }

    fn scheme(&self) -> &'static str {
        if self.plain { "http" } else { "https" }
    }

    /// Returns the address that every registry answers (distribution-spec, "Determining Support").
    pub fn base(&self) -> Option<Url> {
        Url::parse(&format!("{}://{}/v2/", self.scheme(), self.host)).ok()
    }

    /// Returns the address of `rest` in the repository that is called `repository` here.
    pub fn url(&self, repository: &str, rest: &str) -> Option<Url> {
        self.base()?.join(&format!("{repository}/{rest}")).ok()
    }

    /// Returns whether `url` is on this host, over the same scheme: where its credentials may go.
    pub fn owns(&self, url: &Url) -> bool {
        self.base().is_some_and(|base| base.origin() == url.origin())
    }

    /// Returns whether `url`, to which this registry leads, may be followed: it is encrypted, or on this machine, or
    /// the registry itself is asked unencrypted.
    pub fn may_lead_to(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self.plain || url.host_str().is_some_and(is_loopback),
            _ => false,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// Returns whether `registry`, a host with an optional port, is on this machine: `localhost`, `127.0.0.0/8` or `[::1]`.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => return v6.parse::<Ipv6Addr>().is_ok_and(|address| address.is_loopback()),
        None => registry.rsplit_once(':').map_or(registry, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4() && address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_and_for_what_is_named() {
        let insecure = ["lab.example:5000".to_owned()];
        for (registry, plain) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.8.9.1", true),
            ("[::1]:5000", true),
            ("lab.example:5000", true),
            ("lab.example", false),
            ("localhost.example", false),
            ("127.0.0.1.example", false),
            ("128.0.0.1", false),
            ("[::2]:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(Endpoint::of_registry(registry, &insecure).plain, plain, "{registry}");
        }
    }

    #[test]
    fn addresses_name_host_prefix_and_repository() {
        let hub = Endpoint::of_registry("docker.io", &[]);
        let url = hub.url(&hub.repository("library/alpine"), "manifests/3").expect("a url");
        assert_eq!(url.as_str(), "https://registry-1.docker.io/v2/library/alpine/manifests/3");
        let mirror = Endpoint::mirror("m.example:8080".into(), "hub".into(), true);
        let url = mirror.url(&mirror.repository("a/b"), "tags/list").expect("a url");
        assert_eq!(url.as_str(), "http://m.example:8080/v2/hub/a/b/tags/list");
        assert!(mirror.owns(&url) && !hub.owns(&url));
    }

    #[test]
    fn an_encrypted_registry_does_not_lead_to_plain_http() {
        let url = |text: &str| Url::parse(text).expect("a url");
        let hub = Endpoint::of_registry("docker.io", &[]);
        assert!(hub.may_lead_to(&url("https://cdn.example/x")));
        assert!(!hub.may_lead_to(&url("http://registry-1.docker.io/x")));
        assert!(!hub.may_lead_to(&url("file:///etc/passwd")));
        assert!(Endpoint::of_registry("localhost:5000", &[]).may_lead_to(&url("http://cdn.example/x")));
    }
}
