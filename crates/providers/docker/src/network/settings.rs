//! The settings of the network of containers.

use std::net::IpAddr;

use stacyvm_types::Cidr;

/// Whether containers have a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkChoice {
    /// They have one where the host can be closed to them, elsewhere only with
    /// [`NetworkSettings::unfiltered`].
    #[default]
    Bridge,
    /// They have none.
    None,
}

/// The settings of the network.
#[derive(Clone, Debug, Default)]
pub struct NetworkSettings {
    /// Whether containers have a network.
    pub choice: NetworkChoice,
    /// The range of the containers' addresses; none lets the engine choose.
    pub subnet: Option<Cidr>,
    /// TCP and UDP ports of the host that containers reach, at any address of the host except its
    /// loopback.
    pub allow_host_ports: Vec<u16>,
    /// Ranges that are open although they are private.
    pub allow_cidrs: Vec<Cidr>,
    /// Ranges that are closed although they are public, or inside an open one.
    pub deny_cidrs: Vec<Cidr>,
    /// The name servers of containers; empty leaves them to the engine, which uses its host's.
    pub name_servers: Vec<IpAddr>,
    /// Whether programs of the host, such as a Traefik proxy, may connect to containers.
    pub inbound_from_host: bool,
    /// Whether containers have a network also where nothing can be closed to them.
    pub unfiltered: bool,
}
