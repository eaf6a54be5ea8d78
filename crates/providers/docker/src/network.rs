//! The network of containers: one bridge for each server, and whether it is offered.
//!
//! The engine closes neither the host nor private networks to its containers, so this server loads
//! rules that do (see `rules`). It can load them only where the engine's bridges are in its own
//! network namespace, which it finds out by creating one. Elsewhere containers have no network,
//! unless the operator wants one without rules. The network and its rules are kept by the engine and
//! the kernel, so they outlive the server. The one rule: no container is connected before the rules
//! are loaded.

mod bridge;
mod error;
#[cfg(target_os = "linux")]
mod firewall;
#[cfg(target_os = "linux")]
mod rules;
mod settings;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::query_parameters::InspectNetworkOptions;
use parking_lot::Mutex;
use stacyvm_provider::{Egress, NetworkMode, ProviderError};

use crate::engine::{Engine, EngineError, QUERY_TIMEOUT};
use crate::names::EngineNames;
use bridge::Bridge;
use error::NetworkError;
#[cfg(target_os = "linux")]
use firewall::BridgeFirewall;
pub use settings::{NetworkChoice, NetworkSettings};

/// How long no further bridge is tried after one that was not in this server's network namespace.
/// Each costs the engine some tenths of a second, and an engine seldom moves.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);
/// The warning about a network without rules.
const UNFILTERED: &str = "containers with a network reach this engine's host, its private networks, cloud \
     metadata and possibly this API, because providers.docker.unfiltered_network is true";

/// The network of one server.
#[derive(Debug)]
pub(crate) struct Network {
    engine: Arc<Engine>,
    names: EngineNames,
    settings: NetworkSettings,
    state: Mutex<NetworkState>,
    /// Held while the network is created or removed. The value is when the engine's bridges were last
    /// found outside of this server's network namespace.
    not_here_since: tokio::sync::Mutex<Option<Instant>>,
    #[cfg(target_os = "linux")]
    firewall: BridgeFirewall,
}

/// Whether containers have the network.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NetworkState {
    /// It was not created or found yet.
    Unknown,
    /// Containers may be connected. `filtered` says whether the rules are loaded.
    Offered { filtered: bool },
    /// Containers may not be connected, for this reason.
    Missing(String),
    /// The provider is closed.
    Closed,
}

impl Network {
    /// Creates no network before [`ensure`](Self::ensure).
    pub(crate) fn new(engine: Arc<Engine>, names: EngineNames, settings: NetworkSettings) -> Self {
        Self {
            #[cfg(target_os = "linux")]
            firewall: BridgeFirewall::new(names.tag(), &settings),
            engine,
            names,
            settings,
            state: Mutex::new(NetworkState::Unknown),
            not_here_since: tokio::sync::Mutex::new(None),
        }
    }

    /// Creates or finds the network and loads its rules where they are missing. Every health check
    /// calls this, so what was removed outside StacyVM is put back.
    ///
    /// # Errors
    /// When the engine does not answer. That containers cannot have a network is no error.
    pub(crate) async fn ensure(&self) -> Result<(), ProviderError> {
        if self.settings.choice == NetworkChoice::None {
            return Ok(());
        }
        let mut not_here_since = self.not_here_since.lock().await;
        if *self.state.lock() == NetworkState::Closed
            || not_here_since.is_some_and(|at| at.elapsed() < RETRY_INTERVAL)
        {
            return Ok(());
        }
        *not_here_since = None;
        let state = match self.create_with_rules().await {
            Ok(filtered) => NetworkState::Offered { filtered },
            Err(NetworkError::Engine(error)) if error.is_unreachable() => return Err(error.into()),
            Err(error) => {
                if matches!(error, NetworkError::NotHere) {
                    *not_here_since = Some(Instant::now());
                }
                NetworkState::Missing(error.to_string())
            }
        };
        let mut known = self.state.lock();
        if *known != state {
            match &state {
                NetworkState::Offered { filtered: true } => {
                    tracing::info!(network = self.names.network(), "containers have a network");
                }
                NetworkState::Offered { filtered: false } => tracing::warn!("{UNFILTERED}"),
                NetworkState::Missing(reason) => {
                    tracing::warn!(reason, "containers have no network")
                }
                NetworkState::Unknown | NetworkState::Closed => {}
            }
        }
        *known = state;
        Ok(())
    }

    /// Whether new containers may be connected.
    pub(crate) fn is_offered(&self) -> bool {
        matches!(*self.state.lock(), NetworkState::Offered { .. })
    }

    /// The network of a sandbox that names none.
    pub(crate) fn default_mode(&self) -> NetworkMode {
        if self.is_offered() {
            NetworkMode::Bridge(Egress::Open)
        } else {
            NetworkMode::None
        }
    }

    /// The engine's name for the network of a container, and the container's name servers; none
    /// leaves them to the engine.
    ///
    /// # Errors
    /// `Unsupported` for a network that this provider does not have.
    pub(crate) fn of_container(
        &self,
        mode: &NetworkMode,
    ) -> Result<(String, Option<Vec<String>>), ProviderError> {
        let lacks = |what: &str| {
            ProviderError::Unsupported(format!("provider docker lacks the capability {what}"))
        };
        match mode {
            NetworkMode::None => Ok(("none".to_owned(), None)),
            NetworkMode::Bridge(Egress::Domains(_)) => Err(lacks("egress-domains")),
            NetworkMode::Bridge(Egress::Open) if self.is_offered() => {
                let servers = &self.settings.name_servers;
                let servers = servers.iter().map(ToString::to_string).collect();
                let servers = Some(servers).filter(|all: &Vec<_>| !all.is_empty());
                Ok((self.names.network(), servers))
            }
            NetworkMode::Bridge(Egress::Open) => Err(lacks("network-bridge")),
        }
    }

    /// The network of a container, from the engine's name for it.
    pub(crate) fn mode_of(&self, network: &str) -> NetworkMode {
        if network == self.names.network() {
            NetworkMode::Bridge(Egress::Open)
        } else {
            NetworkMode::None
        }
    }

    /// What does not work, one sentence each.
    pub(crate) fn degradations(&self) -> Vec<String> {
        match &*self.state.lock() {
            NetworkState::Missing(reason) => vec![reason.clone()],
            NetworkState::Offered { filtered: false } => vec![UNFILTERED.to_owned()],
            _ => Vec::new(),
        }
    }

    /// Stops guarding the rules. A network with containers in it is kept with its rules; without
    /// containers both are removed.
    pub(crate) async fn close(&self) {
        let _one_at_a_time = self.not_here_since.lock().await;
        let before = std::mem::replace(&mut *self.state.lock(), NetworkState::Closed);
        #[cfg(target_os = "linux")]
        self.firewall.stop().await;
        if matches!(before, NetworkState::Unknown | NetworkState::Closed) {
            return;
        }
        match self.remove().await {
            Ok(true) => {
                #[cfg(target_os = "linux")]
                self.firewall.remove().await;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the network of containers could not be removed"),
        }
    }

    /// Creates the network where it is missing, and loads the rules; returns whether they are loaded.
    async fn create_with_rules(&self) -> Result<bool, NetworkError> {
        let bridge = match self.find().await? {
            Some(bridge) => bridge,
            None => {
                self.create().await?;
                self.find().await?.ok_or(NetworkError::Vanished)?
            }
        };
        #[cfg(target_os = "linux")]
        let loaded = self.firewall.ensure(&bridge).await;
        #[cfg(not(target_os = "linux"))]
        let loaded = {
            let _ = &bridge;
            Ok(false)
        };
        let refused = match loaded {
            Ok(true) => return Ok(true),
            _ if self.settings.unfiltered => return Ok(false),
            Ok(false) => NetworkError::NotHere,
            Err(error) => error,
        };
        // No container is connected to it, unless an earlier server with other rights left one.
        if let Err(error) = self.remove().await {
            tracing::debug!(%error, "a network without rules could not be removed");
        }
        Err(refused)
    }

    /// The bridge of the network; none when the engine has no such network.
    async fn find(&self) -> Result<Option<Bridge>, NetworkError> {
        let name = self.names.network();
        let asking = self
            .engine
            .request("look at the network", QUERY_TIMEOUT, |docker| {
                let name = name.clone();
                async move {
                    let options = None::<InspectNetworkOptions>;
                    docker.inspect_network(&name, options).await
                }
            });
        match asking.await {
            Ok(found) => match Bridge::read(found, &self.names) {
                Some(bridge) => Ok(Some(bridge)),
                None => Err(NetworkError::Foreign(name)),
            },
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(NetworkError::Engine(error)),
        }
    }

    /// Creates the network with a range of the engine's choice, or a random one where the engine has
    /// none left.
    async fn create(&self) -> Result<(), NetworkError> {
        let mut ranges = bridge::ranges(self.settings.subnet);
        loop {
            let range = ranges.next().ok_or(NetworkError::NoRange)?;
            let request = bridge::request(&self.names, range);
            let making =
                self.engine
                    .request("make the network", QUERY_TIMEOUT, |docker| async move {
                        docker.create_network(request).await
                    });
            match making.await {
                Ok(_) => return Ok(()),
                Err(error) if bridge::is_range_taken(&error) => match self.settings.subnet {
                    Some(range) => return Err(NetworkError::RangeTaken(range.to_string())),
                    None => continue,
                },
                Err(error) => return Err(NetworkError::Engine(error)),
            }
        }
    }

    /// Removes the network unless a container is connected to it; returns whether it is gone.
    async fn remove(&self) -> Result<bool, EngineError> {
        let name = self.names.network();
        let removing =
            self.engine
                .request("remove the network", QUERY_TIMEOUT, |docker| async move {
                    docker.remove_network(&name).await
                });
        match removing.await {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error)
                if error
                    .refusal()
                    .is_some_and(|message| message.contains("active endpoints")) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
