//! The network of containers: one bridge of ours for each server, and whether it is offered.
//!
//! The engine alone closes neither the host nor private networks to its containers, so rules of ours
//! do (see `rules`). They can only be where the engine's bridges are; that is found out by making
//! one. Where it is not so, containers have no network, unless the operator wants one without rules.
//! What must hold while no server runs stands in the engine and in the kernel. Its one rule: no
//! container is connected before the rules stand.

mod bridge;
#[cfg(target_os = "linux")]
mod guarded;
#[cfg(target_os = "linux")]
mod rules;
mod settings;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::query_parameters::InspectNetworkOptions;
use stacyvm_provider::{Egress, NetworkMode, ProviderError};

use crate::engine::{Engine, EngineError, QUICK};
use crate::names::Names;
use bridge::Bridge;
#[cfg(target_os = "linux")]
use guarded::Guarded;
pub use settings::{NetworkChoice, NetworkSettings};

/// How long an engine whose bridges are elsewhere is not asked to make another one: each costs it
/// some tenths of a second, and an engine seldom moves.
const ELSEWHERE: Duration = Duration::from_secs(600);
/// Said of a network without rules, wherever it is said.
const UNFILTERED: &str = "containers with a network reach this engine's host, its private networks, cloud \
     metadata and possibly this API, because providers.docker.unfiltered_network is true";
const NOT_HERE: &str = "containers have no network: the engine's bridges are not in this server's own \
     network, so it cannot close the host and private networks to them; run the server as root \
     beside the engine (in a container: with --network host and --cap-add NET_ADMIN), or set \
     providers.docker.unfiltered_network to have a network without any such protection";

/// The network of one server.
#[derive(Debug)]
pub(crate) struct Network {
    engine: Arc<Engine>,
    names: Names,
    settings: NetworkSettings,
    state: Mutex<State>,
    /// Held while it is made or removed: one at a time. When the engine's bridges were last found to
    /// be elsewhere.
    busy: tokio::sync::Mutex<Option<Instant>>,
    #[cfg(target_os = "linux")]
    guarded: Guarded,
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nobody has looked yet.
    Unknown,
    /// Containers may be connected; whether rules stand.
    Offered { filtered: bool },
    /// They may not, and why.
    Missing(String),
    /// The provider is closed.
    Closed,
}

impl Network {
    /// Asks the engine nothing yet.
    pub(crate) fn new(engine: Arc<Engine>, names: Names, settings: NetworkSettings) -> Self {
        Self {
            #[cfg(target_os = "linux")]
            guarded: Guarded::new(names.tag(), &settings),
            engine,
            names,
            settings,
            state: Mutex::new(State::Unknown),
            busy: tokio::sync::Mutex::new(None),
        }
    }

    /// Makes it, or finds it again, and sees to it that its rules stand. Asked again whenever the
    /// engine is looked at: what somebody took away is put back.
    ///
    /// # Errors
    /// When the engine does not answer; that containers cannot have a network is none.
    pub(crate) async fn ensure(&self) -> Result<(), ProviderError> {
        if self.settings.choice == NetworkChoice::None {
            return Ok(());
        }
        let mut elsewhere = self.busy.lock().await;
        if *self.state() == State::Closed || elsewhere.is_some_and(|at| at.elapsed() < ELSEWHERE) {
            return Ok(());
        }
        *elsewhere = None;
        let state = match self.stand().await {
            Ok(filtered) => State::Offered { filtered },
            Err(Failure::Engine(error)) if error.is_absence() => return Err(error.into()),
            Err(failure) => {
                if matches!(failure, Failure::NotHere) {
                    *elsewhere = Some(Instant::now());
                }
                State::Missing(failure.to_string())
            }
        };
        let mut known = self.state();
        if *known != state {
            match &state {
                State::Offered { filtered: true } => {
                    tracing::info!(network = self.names.network(), "containers have a network");
                }
                State::Offered { filtered: false } => tracing::warn!("{UNFILTERED}"),
                State::Missing(reason) => tracing::warn!(reason, "containers have no network"),
                State::Unknown | State::Closed => {}
            }
        }
        *known = state;
        Ok(())
    }

    /// Whether new containers may be connected.
    pub(crate) fn is_offered(&self) -> bool {
        matches!(*self.state(), State::Offered { .. })
    }

    /// What a container that says nothing about it is connected to.
    pub(crate) fn default_mode(&self) -> NetworkMode {
        if self.is_offered() {
            NetworkMode::Bridge(Egress::Open)
        } else {
            NetworkMode::None
        }
    }

    /// What a container is connected to, in the engine's words, and whom it asks for names; nobody
    /// leaves that to the engine.
    ///
    /// # Errors
    /// `Unsupported` for what cannot be had.
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

    /// How a container is connected whose network the engine calls so.
    pub(crate) fn mode_of(&self, network: &str) -> NetworkMode {
        if network == self.names.network() {
            NetworkMode::Bridge(Egress::Open)
        } else {
            NetworkMode::None
        }
    }

    /// What is not as it could be, a sentence each.
    pub(crate) fn degradations(&self) -> Vec<String> {
        match &*self.state() {
            State::Missing(reason) => vec![reason.clone()],
            State::Offered { filtered: false } => vec![UNFILTERED.to_owned()],
            _ => Vec::new(),
        }
    }

    /// Ends what this process does for it. With containers in it everything stays, rules and all;
    /// without, all of it is removed.
    pub(crate) async fn close(&self) {
        let _one_at_a_time = self.busy.lock().await;
        let before = std::mem::replace(&mut *self.state(), State::Closed);
        #[cfg(target_os = "linux")]
        self.guarded.stop().await;
        if matches!(before, State::Unknown | State::Closed) {
            return;
        }
        match self.remove().await {
            Ok(true) => {
                #[cfg(target_os = "linux")]
                self.guarded.remove().await;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the network of containers could not be removed"),
        }
    }

    /// Whether rules stand for it now that it is there.
    async fn stand(&self) -> Result<bool, Failure> {
        let bridge = match self.find().await? {
            Some(bridge) => bridge,
            None => {
                self.make().await?;
                self.find().await?.ok_or(Failure::Vanished)?
            }
        };
        #[cfg(target_os = "linux")]
        let closed = self.guarded.close_off(&bridge).await;
        #[cfg(not(target_os = "linux"))]
        let closed = {
            let _ = &bridge;
            Ok(false)
        };
        let refused = match closed {
            Ok(true) => return Ok(true),
            _ if self.settings.unfiltered => return Ok(false),
            Ok(false) => Failure::NotHere,
            Err(error) => error,
        };
        // Nobody is connected to it, unless an earlier server of other rights left somebody.
        if let Err(error) = self.remove().await {
            tracing::debug!(%error, "a network without rules could not be removed");
        }
        Err(refused)
    }

    /// The network as the engine has it, when it has.
    async fn find(&self) -> Result<Option<Bridge>, Failure> {
        let name = self.names.network();
        let asking = self.engine.ask("look at the network", QUICK, |docker| {
            let name = name.clone();
            async move {
                let options = None::<InspectNetworkOptions>;
                docker.inspect_network(&name, options).await
            }
        });
        match asking.await {
            Ok(found) => match Bridge::read(found, &self.names) {
                Some(bridge) => Ok(Some(bridge)),
                None => Err(Failure::Foreign(name)),
            },
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Failure::Engine(error)),
        }
    }

    /// Makes it, with a range of the engine's choice, or of ours where the engine has none left.
    async fn make(&self) -> Result<(), Failure> {
        let mut ranges = bridge::ranges(self.settings.subnet);
        loop {
            let range = ranges.next().ok_or(Failure::NoRange)?;
            let request = bridge::request(&self.names, range);
            let making = self
                .engine
                .ask("make the network", QUICK, |docker| async move {
                    docker.create_network(request).await
                });
            match making.await {
                Ok(_) => return Ok(()),
                Err(error) if bridge::is_about_ranges(&error) => match self.settings.subnet {
                    Some(range) => return Err(Failure::RangeTaken(range.to_string())),
                    None => continue,
                },
                Err(error) => return Err(Failure::Engine(error)),
            }
        }
    }

    /// Removes it unless somebody is connected to it; whether it is gone.
    async fn remove(&self) -> Result<bool, EngineError> {
        let name = self.names.network();
        let removing = self
            .engine
            .ask("remove the network", QUICK, |docker| async move {
                docker.remove_network(&name).await
            });
        match removing.await {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error)
                if error
                    .refusal()
                    .is_some_and(|words| words.contains("active endpoints")) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why containers have no network, with what mends it.
#[derive(Debug, thiserror::Error)]
enum Failure {
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
