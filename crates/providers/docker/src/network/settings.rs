//! How the network of containers is to be.

use std::net::IpAddr;

use stacyvm_types::Cidr;

/// Whether containers have a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkChoice {
    /// Where the host can be closed to them; elsewhere only with [`NetworkSettings::unfiltered`].
    #[default]
    Bridge,
    /// No.
    None,
}

/// Settings of the network.
#[derive(Clone, Debug, Default)]
pub struct NetworkSettings {
    /// Whether there is one.
    pub choice: NetworkChoice,
    /// Where containers have their addresses; none lets the engine choose.
    pub subnet: Option<Cidr>,
    /// TCP and UDP ports of the host that containers reach, at any address of the host but its
    /// loopback.
    pub allow_host_ports: Vec<u16>,
    /// Ranges that are open although they are private.
    pub allow_cidrs: Vec<Cidr>,
    /// Ranges that are closed although they are public, or inside an open one.
    pub deny_cidrs: Vec<Cidr>,
    /// Who resolves names for containers; empty leaves it to the engine, which asks whom its host
    /// asks.
    pub name_servers: Vec<IpAddr>,
    /// Whether programs of the host, such as a Traefik, may connect to containers.
    pub inbound_from_host: bool,
    /// Whether there is a network also where nothing can be closed to containers.
    pub unfiltered: bool,
}
