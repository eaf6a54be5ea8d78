//! What happens to containers behind our back, as the engine tells it: ends, pauses, want of memory.
//!
//! One task follows the engine's events for all sandboxes of a server. Its one rule: an event is
//! only a hint to look. What is missed, while the engine or the connection is away, is found by
//! listing after every connection, so nothing that is missed stays missed; and an engine that is
//! away ends nothing.

mod events;
mod record;

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::models::{ContainerStateStatusEnum as Status, ContainerSummaryStateEnum as Listed};
use bollard::query_parameters::{EventsOptions, InspectContainerOptions, ListContainersOptions};
use futures_util::{Stream, StreamExt as _};
use stacyvm_provider::{BoxState, Notice, Notices};
use stacyvm_types::{SandboxId, Timestamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::{Engine, EngineError, QUICK};
use crate::names::Names;
use events::{Happened, Told};
use record::Record;

/// How long nothing may be told before the containers are listed all the same: a connection that
/// has died somewhere on its way says nothing either.
const QUIET: Duration = Duration::from_secs(60);
/// The waits between attempts to connect: doubled each time, with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How soon an end is looked for again that the engine could not be asked about.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The one who follows, and those who wait for what is told.
#[derive(Debug)]
pub(crate) struct Watch {
    parts: Arc<Parts>,
    started: OnceLock<()>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Parts {
    engine: Arc<Engine>,
    names: Names,
    notices: Notices,
    record: Record,
    stop: CancellationToken,
}

impl Watch {
    /// Asks the engine nothing yet.
    pub(crate) fn new(engine: Arc<Engine>, names: Names) -> Self {
        Self {
            parts: Arc::new(Parts {
                engine,
                names,
                notices: Notices::default(),
                record: Record::default(),
                stop: CancellationToken::new(),
            }),
            started: OnceLock::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// What happens to sandboxes, for the first who asks; begins to follow.
    pub(crate) fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        self.start();
        self.parts.notices.listen()
    }

    /// Resolves when the sandbox's container does not run any more, at once when there is none.
    pub(crate) async fn wait_exit(&self, id: &SandboxId) {
        self.start();
        // Before the look, so that an end after it is not missed.
        let mut waiting = self.parts.record.wait_for(id);
        loop {
            match self.parts.has_ended(id).await {
                Some(true) => return,
                Some(false) => waiting.told().await,
                // The list that comes with the engine may have been asked for already.
                None => tokio::select! {
                    () = waiting.told() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                },
            }
        }
    }

    /// Which limit an ended sandbox ended of.
    pub(crate) async fn cause_of_end(&self, id: &SandboxId) -> Option<&'static str> {
        if let Some(of_memory) = self.parts.record.ended_of_memory(id) {
            return of_memory.then_some("memory");
        }
        // It ended while nobody followed.
        let state = self.parts.inspect(id).await.ok()??;
        let killed = state.running == Some(false) && state.exit_code == Some(137);
        (killed && state.oom_killed == Some(true)).then_some("memory")
    }

    /// Ends the following; what is waited for is told no more.
    pub(crate) async fn close(&self) {
        self.parts.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn start(&self) {
        self.started.get_or_init(|| {
            let parts = Arc::clone(&self.parts);
            let stop = parts.stop.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = parts.follow() => {}
                }
            });
        });
    }
}

impl Parts {
    /// Connects, follows until that breaks, and begins again.
    async fn follow(&self) {
        let mut wait = FIRST_WAIT;
        let mut away = false;
        loop {
            let followed = self.connection(&mut wait, &mut away).await;
            if !away {
                away = true;
                tracing::warn!(error = %followed, "the Docker engine's events are followed no more");
            }
            let jitter = 0.5 + events::random() / 2.0;
            tokio::time::sleep(wait.mul_f64(jitter)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// One connection, from its first list to its end.
    async fn connection(&self, wait: &mut Duration, away: &mut bool) -> EngineError {
        let began = match self.now().await {
            Ok(now) => now,
            Err(error) => return error,
        };
        // What happens from here on is told, also what happens before the list is here.
        let docker = match self.engine.docker().await {
            Ok(docker) => docker,
            Err(error) => return error,
        };
        let options = EventsOptions {
            since: Some(events::since(began)),
            until: None,
            filters: Some(events::filters(&self.names)),
        };
        let mut told = pin!(docker.events(Some(options)));
        if let Err(error) = self.catch_up().await {
            return error;
        }
        if std::mem::take(away) {
            tracing::info!("the Docker engine's events are followed again");
        }
        *wait = FIRST_WAIT;
        loop {
            match tokio::time::timeout(QUIET, next(&mut told)).await {
                Ok(Some(Ok(event))) => {
                    if let Some(told) = events::read(event, &self.names) {
                        self.take(told);
                    }
                }
                Ok(Some(Err(error))) => return self.engine.failed("follow the events", error),
                Ok(None) => return self.engine.ended("follow the events"),
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
        let asking = self
            .engine
            .ask("ask the engine for its time", QUICK, |docker| async move {
                docker.info().await
            });
        let time = asking.await?.system_time.unwrap_or_default();
        Ok(events::time(&time).unwrap_or_else(Timestamp::now))
    }

    /// Looks at every container and tells what is different from what was known.
    async fn catch_up(&self) -> Result<(), EngineError> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.names.filter()),
            ..ListContainersOptions::default()
        };
        let waited = self.record.waited_for();
        let listing = self
            .engine
            .ask("list the containers", QUICK, |docker| async move {
                docker.list_containers(Some(options)).await
            });
        let mut alive = Vec::new();
        for found in listing.await? {
            let names = found.names.unwrap_or_default();
            let Some(id) = names.iter().find_map(|name| self.names.sandbox_of(name)) else {
                continue;
            };
            match found.state {
                Some(Listed::PAUSED) => alive.push((id, BoxState::Paused)),
                Some(Listed::EXITED | Listed::DEAD | Listed::REMOVING) => {}
                _ => alive.push((id, BoxState::Running)),
            }
        }
        for (id, state) in &alive {
            self.moves(id, *state == BoxState::Running);
        }
        // What is not there, or does not run, has ended; who waits for it looks for itself.
        let ended = waited
            .into_iter()
            .filter(|id| !alive.iter().any(|(known, _)| known == id));
        ended.for_each(|id| self.record.tell(&id));
        Ok(())
    }

    fn take(&self, told: Told) {
        let Told { id, happened } = told;
        match happened {
            Happened::Paused => self.moves(&id, false),
            Happened::Resumed => self.moves(&id, true),
            Happened::OutOfMemory => {
                self.record.out_of_memory(&id);
                self.notices.tell(Notice::LimitReached {
                    id,
                    limit: "memory",
                });
            }
            Happened::Died { code } => {
                self.record.died(&id, code);
                self.record.tell(&id);
            }
            Happened::Gone => {
                self.record.gone(&id);
                self.record.tell(&id);
            }
        }
    }

    /// Tells whether it moves now when that is a change.
    fn moves(&self, id: &SandboxId, moves: bool) {
        if self.record.set_moving(id, moves) {
            let id = id.clone();
            self.notices.tell(match moves {
                true => Notice::Resumed { id },
                false => Notice::Paused { id },
            });
        }
    }

    /// Whether the engine says that the sandbox's container does not run; none when it says nothing.
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

    async fn inspect(
        &self,
        id: &SandboxId,
    ) -> Result<Option<bollard::models::ContainerState>, EngineError> {
        let name = self.names.container(id);
        let asking = self
            .engine
            .ask("look at the container", QUICK, |docker| async move {
                let options = None::<InspectContainerOptions>;
                docker.inspect_container(&name, options).await
            });
        match asking.await {
            Ok(found) => Ok(Some(found.state.unwrap_or_default())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The next of a stream that stays where it is.
async fn next<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    stream.next().await
}
