//! Settings of the network of sandboxes.

use std::net::IpAddr;
use std::path::PathBuf;

use stacyvm_types::Cidr;

/// Whether sandboxes have a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkChoice {
    /// They have one where this machine can provide it.
    Auto,
    /// They have one; a machine that cannot provide it is an error.
    Bridge,
    /// They have none.
    #[default]
    None,
}

/// Settings of the network.
#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// Whether there is one.
    pub choice: NetworkChoice,
    /// The range of the sandboxes' IPv4 addresses; none chooses a range that this machine does not
    /// use. Between 16 and 24 bits are shared.
    pub subnet: Option<Cidr>,
    /// TCP and UDP ports of the host that sandboxes reach, at any address of the host but its
    /// loopback.
    pub allow_host_ports: Vec<u16>,
    /// Ranges that are open although they are private.
    pub allow_cidrs: Vec<Cidr>,
    /// Ranges that are closed although they are public, or inside an open one.
    pub deny_cidrs: Vec<Cidr>,
    /// Name servers; empty means those of the host.
    pub name_servers: Vec<IpAddr>,
    /// The program that resolves names and enforces rules by name, with its arguments; none leaves
    /// sandboxes without names and without such rules.
    pub egress_program: Option<(PathBuf, Vec<String>)>,
    /// How many networks are made ahead; each costs the kernel about 0.3 MiB.
    pub ready: usize,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self {
            choice: NetworkChoice::None,
            subnet: None,
            allow_host_ports: Vec::new(),
            allow_cidrs: Vec::new(),
            deny_cidrs: Vec::new(),
            name_servers: Vec::new(),
            egress_program: None,
            ready: 8,
        }
    }
}
