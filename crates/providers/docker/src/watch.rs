//! Following what happens to containers outside StacyVM: ends, pauses, and out-of-memory kills.
//!
//! One task follows the engine's events for all sandboxes of a server. The one rule: an event is only
//! a hint to look. Events that are missed while the engine or the connection is away are made up for
//! by listing the containers after every connection; and an absent engine ends no sandbox.

mod events;
mod states;

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::models::{ContainerStateStatusEnum as Status, ContainerSummaryStateEnum as Listed};
use bollard::query_parameters::EventsOptions;
use futures_util::{Stream, StreamExt as _};
use stacyvm_provider::{BoxState, Notice, Notices};
use stacyvm_types::{SandboxId, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::containers::Containers;
use crate::engine::{EngineError, QUERY_TIMEOUT};
use events::{Change, ContainerEvent};
use states::SandboxStates;

/// How long no event may come before the containers are listed again, because a broken connection may
/// be silent too.
const EVENT_TIMEOUT: Duration = Duration::from_secs(60);
/// The pauses between attempts to connect, doubled each time, with jitter.
const MIN_RECONNECT_DELAY: Duration = Duration::from_millis(100);
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(5);
/// How soon a container is inspected again after the engine could not be asked.
const INSPECT_RETRY_DELAY: Duration = Duration::from_secs(30);

/// Follows the engine's events, and serves those who wait for them.
#[derive(Debug)]
pub(crate) struct EventWatcher {
    follower: Arc<EventFollower>,
    started: OnceLock<()>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct EventFollower {
    containers: Containers,
    notices: Notices,
    states: SandboxStates,
    stop: CancellationToken,
}

impl EventWatcher {
    /// Follows nothing before the first call of another method.
    pub(crate) fn new(containers: Containers) -> Self {
        Self {
            follower: Arc::new(EventFollower {
                containers,
                notices: Notices::default(),
                states: SandboxStates::default(),
                stop: CancellationToken::new(),
            }),
            started: OnceLock::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// The notices about sandboxes, for the first caller.
    pub(crate) fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.start();
        self.follower.notices.listen()
    }

    /// Resolves when the sandbox's container does not run any more; at once when there is none.
    pub(crate) async fn wait_exit(&self, id: &SandboxId) {
        self.start();
        // Registered before the first inspection, so that an end after it is not missed.
        let mut waiter = self.follower.states.wait_for(id);
        loop {
            match self.follower.has_ended(id).await {
                Some(true) => return,
                Some(false) => waiter.notified().await,
                // The list after the engine's return may have been requested already.
                None => tokio::select! {
                    () = waiter.notified() => {}
                    () = tokio::time::sleep(INSPECT_RETRY_DELAY) => {}
                },
            }
        }
    }

    /// The limit that ended a sandbox.
    pub(crate) async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str> {
        if let Some(out_of_memory) = self.follower.states.ended_out_of_memory(id) {
            return out_of_memory.then_some("memory");
        }
        // Its end was not followed.
        let state = self.follower.inspect(id).await.ok()??;
        let killed = state.running == Some(false) && state.exit_code == Some(137);
        (killed && state.oom_killed == Some(true)).then_some("memory")
    }

    /// Stops following the events.
    pub(crate) async fn close(&self) {
        self.follower.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(&self) {
        self.started.get_or_init(|| {
            let follower = Arc::clone(&self.follower);
            let stop = follower.stop.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = follower.run() => {}
                }
            });
        });
    }
}

impl EventFollower {
    /// Connects, follows the events until the connection breaks, and begins again.
    async fn run(&self) {
        let mut delay = MIN_RECONNECT_DELAY;
        let mut away = false;
        loop {
            let error = self.follow(&mut delay, &mut away).await;
            if !away {
                away = true;
                tracing::warn!(%error, "the Docker engine's events are followed no more");
            }
            let jitter = 0.5 + events::random() / 2.0;
            tokio::time::sleep(delay.mul_f64(jitter)).await;
            delay = (delay * 2).min(MAX_RECONNECT_DELAY);
        }
    }

    /// Follows the events over one connection, and returns how that ended.
    async fn follow(&self, delay: &mut Duration, away: &mut bool) -> EngineError {
        let engine = &self.containers.engine;
        let names = &self.containers.names;
        let began = match self.now().await {
            Ok(now) => now,
            Err(error) => return error,
        };
        // Events are followed from here on, so those during the listing are not missed.
        let docker = match engine.docker().await {
            Ok(docker) => docker,
            Err(error) => return error,
        };
        let options = EventsOptions {
            since: Some(events::since(began)),
            until: None,
            filters: Some(events::filters(names)),
        };
        let mut events = pin!(docker.events(Some(options)));
        if let Err(error) = self.catch_up().await {
            return error;
        }
        if std::mem::take(away) {
            tracing::info!("the Docker engine's events are followed again");
        }
        *delay = MIN_RECONNECT_DELAY;
        loop {
            match tokio::time::timeout(EVENT_TIMEOUT, next(&mut events)).await {
                Ok(Some(Ok(event))) => {
                    if let Some(event) = events::read(event, names) {
                        self.handle(event);
                    }
                }
                Ok(Some(Err(error))) => return engine.failed("follow the events", error),
                Ok(None) => return engine.ended("follow the events"),
                Err(_) => {
                    if let Err(error) = self.catch_up().await {
                        return error;
                    }
                }
            }
        }
    }

    /// The engine's own time.
    async fn now(&self) -> Result<Timestamp, EngineError> {
        let asking = self.containers.engine.request(
            "ask the engine for its time",
            QUERY_TIMEOUT,
            |docker| async move { docker.info().await },
        );
        let time = asking.await?.system_time.unwrap_or_default();
        Ok(events::parse_time(&time).unwrap_or_else(Timestamp::now))
    }

    /// Lists all containers, and handles what differs from the known states.
    async fn catch_up(&self) -> Result<(), EngineError> {
        let waited = self.states.waited_for();
        let mut alive = Vec::new();
        for found in self.containers.list().await? {
            let mut names = found.names.iter().flatten();
            let Some(id) = names.find_map(|name| self.containers.names.sandbox_of(name)) else {
                continue;
            };
            match found.state {
                Some(Listed::PAUSED) => alive.push((id, BoxState::Paused)),
                Some(Listed::EXITED | Listed::DEAD | Listed::REMOVING) => {}
                _ => alive.push((id, BoxState::Running)),
            }
        }
        for (id, state) in &alive {
            self.set_paused(id, *state == BoxState::Paused);
        }
        // The others may have ended; each waiter inspects its container itself.
        let ended = waited
            .into_iter()
            .filter(|id| !alive.iter().any(|(known, _)| known == id));
        ended.for_each(|id| self.states.notify(&id));
        Ok(())
    }

    fn handle(&self, event: ContainerEvent) {
        let ContainerEvent { id, change } = event;
        match change {
            Change::Paused => self.set_paused(&id, true),
            Change::Resumed => self.set_paused(&id, false),
            Change::OutOfMemory => {
                self.states.out_of_memory(&id);
                self.notices.tell(Notice::LimitReached {
                    id,
                    limit: "memory",
                });
            }
            Change::Died { code } => {
                self.states.died(&id, code);
                self.states.notify(&id);
            }
            Change::Gone => {
                self.states.gone(&id);
                self.states.notify(&id);
            }
        }
    }

    /// Records whether a sandbox is paused, with a notice when that is a change.
    fn set_paused(&self, id: &SandboxId, is_paused: bool) {
        if self.states.set_paused(id, is_paused) {
            let id = id.clone();
            self.notices.tell(match is_paused {
                true => Notice::Paused { id },
                false => Notice::Resumed { id },
            });
        }
    }

    /// Whether the sandbox's container has ended; none when the engine does not answer.
    async fn has_ended(&self, id: &SandboxId) -> Option<bool> {
        match self.inspect(id).await {
            Ok(None) => Some(true),
            Ok(Some(state)) => Some(matches!(
                state.status,
                Some(Status::EXITED | Status::DEAD | Status::REMOVING)
            )),
            Err(_) => None,
        }
    }

    /// The state of the sandbox's container; none when there is no container.
    async fn inspect(
        &self,
        id: &SandboxId,
    ) -> Result<Option<bollard::models::ContainerState>, EngineError> {
        let name = self.containers.names.container(id);
        let found = self.containers.inspect(&name).await?;
        Ok(found.map(|found| found.state.unwrap_or_default()))
    }
}

/// The next item of a stream.
async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    stream.next().await
}
