//! Which servers a pull may speak to.
//!
//! A client that names an image names a host, and a registry names further ones: for its tokens, for
//! its blobs. None of them may make this machine speak to itself, to its neighbours or to the cloud
//! that it runs in, unless the operator named that server. The address is judged, not the name, and the
//! addresses that were judged are those that are connected to, so a name that changes its mind in
//! between gains nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use stacyvm_types::{Cidr, is_metadata_address, is_public_address};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::{ImageError, Registries};

/// The servers that the operator named, and the ranges that are open to all.
#[derive(Clone, Debug, Default)]
pub(super) struct Destinations {
    /// `host:port`, in lower case.
    named: BTreeSet<String>,
    opened: Vec<Cidr>,
}

impl Destinations {
    /// The registries and mirrors of the configuration.
    pub(super) fn new(registries: &Registries) -> Result<Self, ImageError> {
        let mut destinations = Self::default();
        for text in &registries.private {
            if !text.contains('/') {
                destinations.name(text);
                continue;
            }
            let range = text.parse().map_err(|_| ImageError::Registry {
                registry: text.chars().take(80).collect(),
                reason: "a private registry is HOST, HOST:PORT, or a range like 10.1.0.0/16"
                    .to_owned(),
            })?;
            destinations.opened.push(range);
        }
        for text in &registries.insecure {
            destinations.name(text);
        }
        for mirror in registries.mirrors.values().flatten() {
            let rest = mirror.split_once("://").map_or(&**mirror, |(_, rest)| rest);
            destinations.name(rest.split('/').next().unwrap_or(rest));
        }
        Ok(destinations)
    }

    /// Names a server; without a port, those of TLS and of HTTP are meant.
    fn name(&mut self, text: &str) {
        if let Ok(uri) = format!("https://{text}/").parse::<Uri>()
            && let Some(host) = uri.host()
        {
            let ports = uri.port_u16().map_or(vec![443, 80], |port| vec![port]);
            let names = ports.into_iter().map(|port| server(host, port));
            self.named.extend(names);
        }
    }

    /// Whether the operator named this very server.
    pub(super) fn is_named(&self, uri: &Uri) -> bool {
        server_of(uri).is_some_and(|server| self.named.contains(&server))
    }

    /// Whether this address may be connected to, whatever its name.
    fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let opens = |range: &Cidr| {
            range.contains(address) && (range.is_single() || !is_metadata_address(address))
        };
        self.opened.iter().any(opens) || (is_public_address(address) && !is_own(address))
    }

    /// Refuses an address in the place of a name, which would not be resolved where a proxy is used.
    pub(super) fn check_literal(&self, uri: &Uri) -> Result<(), ClosedAddress> {
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = match host.parse() {
            Ok(address) => address,
            Err(_) if is_localhost(host) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Err(_) => return Ok(()),
        };
        match self.is_named(uri) || self.permits(address) {
            true => Ok(()),
            false => Err(ClosedAddress),
        }
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

fn server(host: &str, port: u16) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    format!("{host}:{port}")
}

/// Host and port of an address.
pub(super) fn server_of(uri: &Uri) -> Option<String> {
    let usual = match uri.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    Some(server(uri.host()?, uri.port_u16().unwrap_or(usual)))
}

/// Whether this machine itself has the address: the kernel connects to an address of its own from
/// that same address. Sends nothing.
fn is_own(address: IpAddr) -> bool {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = UdpSocket::bind((any, 0))
        .and_then(|socket| {
            socket.connect(SocketAddr::new(address, 9))?;
            socket.local_addr()
        })
        .map(|source| source.ip());
    // Without a route, connecting will fail and say so.
    source.is_ok_and(|source| source == address)
}

/// No address of a server may be connected to. It says nothing of what is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClosedAddress;

impl fmt::Display for ClosedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "it has no address on the internet that is known here; a registry of this machine or of a \
             private network must be in images.private_registries, or in images.insecure_registries \
             if it has no TLS",
        )
    }
}

impl std::error::Error for ClosedAddress {}

/// Resolves names to the addresses that may be connected to.
#[derive(Debug)]
pub(super) struct GuardedResolver {
    pub(super) names: DefaultResolver,
    pub(super) destinations: Arc<Destinations>,
}

impl Resolver for GuardedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.names.resolve(uri, config, timeout);
        // The proxy is the operator's own; a request's address always has a path that it has not.
        let is_proxy = config.proxy().is_some_and(|proxy| proxy.uri() == uri);
        if is_proxy || self.destinations.is_named(uri) {
            return found;
        }
        let closed = || ureq::Error::Other(Box::new(ClosedAddress));
        let found = match found {
            Err(error @ ureq::Error::Timeout(_)) => return Err(error),
            found => found.map_err(|_| closed())?,
        };
        let mut permitted = self.empty();
        for address in found.iter() {
            if self.destinations.permits(address.ip()) {
                permitted.push(*address);
            }
        }
        match permitted.is_empty() {
            true => Err(closed()),
            false => Ok(permitted),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn destinations(private: &[&str], insecure: &[&str]) -> Destinations {
        let texts = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        let registries = Registries {
            private: texts(private),
            insecure: texts(insecure),
            mirrors: [(
                "docker.io".to_owned(),
                vec!["http://mirror.lan:81/x".to_owned()],
            )]
            .into(),
            ..Registries::default()
        };
        Destinations::new(&registries).unwrap()
    }

    #[test]
    fn a_server_is_named_by_host_and_port() {
        let destinations = destinations(&["Registry.lan"], &["10.0.0.1:5000", "[::1]:5000"]);
        for (uri, named) in [
            ("https://registry.lan/v2/", true),
            ("https://registry.LAN.:443/v2/", true),
            ("http://registry.lan/v2/", true),
            ("https://registry.lan:5000/v2/", false),
            ("https://registry.lan.example/", false),
            ("http://10.0.0.1:5000/", true),
            ("http://10.0.0.1:22/", false),
            ("https://[::1]:5000/", true),
            ("https://[::1]/", false),
            ("http://mirror.lan:81/v2/x", true),
            ("http://mirror.lan/v2/x", false),
        ] {
            assert_eq!(destinations.is_named(&uri.parse().unwrap()), named, "{uri}");
        }
    }

    #[test]
    fn only_the_internet_and_what_is_opened_is_reached() {
        let destinations = destinations(&["10.0.0.0/8", "fd00::/8", "169.254.170.2/32"], &[]);
        for (address, permitted) in [
            ("1.1.1.1", true),
            ("10.2.3.4", true),
            ("::ffff:10.2.3.4", true),
            ("fd00:1::1", true),
            // Within an open range, and yet what hands out a machine's keys.
            ("fd00:ec2::254", false),
            ("169.254.170.2", true),
            ("169.254.169.254", false),
            ("127.0.0.1", false),
            ("::ffff:127.0.0.1", false),
            ("::1", false),
            ("0.0.0.0", false),
            ("172.16.0.1", false),
            ("192.168.1.1", false),
            ("100.64.0.1", false),
            ("64:ff9b::7f00:1", false),
            ("fe80::1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(destinations.permits(address), permitted, "{address}");
        }
    }

    #[test]
    fn an_address_instead_of_a_name_is_judged_before_a_proxy_is_asked() {
        let destinations = destinations(&[], &["127.0.0.1:5000"]);
        for (uri, permitted) in [
            ("https://127.0.0.1:5000/v2/", true),
            ("https://127.0.0.1:5001/v2/", false),
            ("https://localhost/v2/", false),
            ("https://a.localhost:5000/v2/", false),
            ("https://[::1]/v2/", false),
            ("https://registry.example/v2/", true),
            ("https://1.1.1.1/v2/", true),
        ] {
            let checked = destinations.check_literal(&uri.parse().unwrap());
            assert_eq!(checked.is_ok(), permitted, "{uri}");
        }
    }
}
