//! Which hosts a build may be made to fetch from.
//!
//! A Dockerfile decides what is fetched, with this machine's network. Addresses that mean the machine's surroundings in a
//! cloud are refused, as URL, after a redirect and as what a name leads to: link-local ones, among them the metadata
//! service that hands out the machine's own credentials. Private addresses and loopback are allowed: internal servers of
//! a shop are there, and what listens there is reached by whoever starts the build anyway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Why nothing is fetched from a host.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// Its address is link-local or that of a cloud's metadata service.
    #[error("{0} is a link-local address or that of a metadata service")]
    Address(IpAddr),
    /// Its name is that of a cloud's metadata service.
    #[error("`{0}` is the name of a metadata service")]
    Name(String),
}

/// Names under which clouds offer a machine its own credentials.
const METADATA_NAMES: [&str; 5] =
    ["metadata.google.internal", "metadata.goog", "metadata.azure.internal", "instance-data", "metadata.tencentyun.com"];

/// Addresses of metadata services that are not link-local.
const METADATA_ADDRESSES: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
];

/// Checks a host as a URL names it: a name, or an address, with brackets if of version 6.
///
/// # Errors
/// When it may not be fetched from.
pub(super) fn check_host(host: &str) -> Result<(), AddressError> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return check_address(address);
    }
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    let is_metadata = |known: &str| name == known || name.strip_suffix(known).is_some_and(|rest| rest.ends_with('.'));
    if METADATA_NAMES.iter().copied().any(is_metadata) { Err(AddressError::Name(name)) } else { Ok(()) }
}

/// Checks an address that a name led to.
///
/// # Errors
/// When it may not be fetched from.
pub(super) fn check_address(address: IpAddr) -> Result<(), AddressError> {
    let real = match address {
        IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    let local = match real {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if local || METADATA_ADDRESSES.contains(&real) { Err(AddressError::Address(address)) } else { Ok(()) }
}

/// Returns the address of version 4 that one of version 6 leads to, mapped or through NAT64 or 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => address.to_ipv4(),
    }
}

/// Finds the addresses of names, and refuses those that may not be fetched from. The connection is made to what was
/// checked, so a name that changes its mind in between gains nothing.
pub(super) struct CheckedNames;

impl Resolve for CheckedNames {
    fn resolve(&self, name: Name) -> Resolving {
        let name = name.as_str().to_owned();
        Box::pin(async move {
            let addresses = lookup(&name, 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// Why a name gives no addresses.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error(transparent)]
    Refused(#[from] AddressError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Returns the addresses of `host`, all of them checked.
pub(super) async fn lookup(host: &str, port: u16) -> Result<Vec<SocketAddr>, LookupError> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    addresses.iter().try_for_each(|address| check_address(address.ip()))?;
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_and_metadata_services_are_refused_in_every_spelling() {
        for host in [
            "169.254.169.254",
            "169.254.1.1",
            "[fe80::1]",
            "[febf::1]",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::1]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "metadata.google.internal",
            "METADATA.google.internal.",
            "x.metadata.goog",
            "instance-data",
        ] {
            assert!(check_host(host).is_err(), "{host}");
        }
        for host in [
            "127.0.0.1",
            "[::1]",
            "10.1.2.3",
            "192.168.0.1",
            "[fd00::1]",
            "169.253.1.1",
            "h.example",
            "mymetadata.goog.example",
            "notmetadata.goog",
        ] {
            assert_eq!(check_host(host), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_url_library_gives_every_spelling_of_an_address_as_one() {
        // What the check relies on: odd spellings never get to it.
        for text in ["http://2852039166/", "http://0xa9fea9fe/", "http://0251.0376.0251.0376/", "http://169.254.43518/"] {
            let url = reqwest::Url::parse(text).expect("a url");
            assert!(check_host(url.host_str().expect("a host")).is_err(), "{text}");
        }
    }
}
