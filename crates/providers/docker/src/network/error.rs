//! Why containers have no network, with the remedy where there is one.

use crate::engine::EngineError;

const NOT_HERE: &str = "containers have no network: the engine's bridges are not in this server's own \
     network, so it cannot close the host and private networks to them; run the server as root \
     beside the engine (in a container: with --network host and --cap-add NET_ADMIN), or set \
     providers.docker.unfiltered_network to have a network without any such protection";

/// Why containers have no network.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    #[error("containers have no network: {0}")]
    Engine(EngineError),
    #[error(
        "containers have no network: the engine has one of the name {0} that is not this server's; remove it with docker network rm"
    )]
    Foreign(String),
    #[error("containers have no network: it was removed as soon as it was made")]
    Vanished,
    #[error("{NOT_HERE}")]
    NotHere,
    #[error("containers have no network: {0}")]
    #[cfg(target_os = "linux")]
    Rules(#[from] stacyvm_firewall::FirewallError),
    #[error(
        "containers have no network: the engine uses {0} already: set providers.docker.network_subnet to a free range"
    )]
    RangeTaken(String),
    #[error(
        "containers have no network: the engine has no free range: set providers.docker.network_subnet to one, or remove networks with docker network prune"
    )]
    NoRange,
}
