//! Commands that outlive the request that started them. They belong to the sandbox: its agent
//! keeps them, their output and their end, also while the server is down. Here is only the way to
//! them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stacyvm_provider::ops::{Attached, ExecControl, ExecEvent, ExecExit, ExecRecord, TtySize};
use stacyvm_types::{
    EventData, EventType, ExecId, ExecInfo, ExecRequest, ExecState, ExitReason, GoDuration,
    SandboxId, Timestamp,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument;

use crate::delivery::{EventSource, deliver};
use crate::error::Error;
use crate::handle::SandboxHandle;
use crate::interactive::Interactive;
use crate::metrics::Operation;
use crate::operation_error::{public_error, silent};
use crate::orchestrator::Orchestrator;
use crate::registry::Entry;
use crate::settings::Caller;
use crate::state::OrchestratorState;
use crate::{command, exec};

/// How long an agent may take to answer what it need not wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a command may take to take its input.
const INPUT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest input that comes with the request, bytes: what the agent takes at once.
const MAX_STDIN: usize = 64 * 1024;
/// Events between the sandbox and a slow listener: few, because what is lost here with a broken
/// connection must still be kept inside.
const EVENT_QUEUE: usize = 2;

/// A detached command that is followed. Dropping it leaves the command alone.
#[derive(Debug)]
pub struct AttachedExec {
    /// What was known of it when the following began.
    pub info: ExecInfo,
    /// Where output begins, output, and its exit. A channel that ends without an exit or an end
    /// means that the agent's connection was lost: attach again from the last offset.
    pub events: mpsc::Receiver<ExecEvent>,
    /// Its input and control.
    pub control: mpsc::Sender<ExecControl>,
}

impl Orchestrator {
    /// Starts a command that outlives its request. Without text for its input the input stays
    /// open, for [`Self::tell_exec`].
    ///
    /// # Errors
    /// Whatever is wrong before the command runs.
    pub async fn exec_detached(
        &self,
        caller: &Caller,
        id: &SandboxId,
        request: ExecRequest,
        tty: Option<TtySize>,
    ) -> Result<ExecInfo, Error> {
        let _token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        let owner = entry.facts.owner.as_ref().or(caller.owner.as_ref());
        let plan = command::Plan::new(&self.state.settings_for(owner), request);
        let named = Some(&entry.facts.id);
        let plan = self.state.report_limits("exec", named, owner, plan)?;
        let mut plan = plan.connected(Interactive { tty, stdin: true });
        let stdin = plan.stdin.take();
        if stdin.as_ref().is_some_and(|text| text.len() > MAX_STDIN) {
            return Err(Error::BadRequest(format!(
                "stdin of a detached exec may have {MAX_STDIN} bytes: start it without, and feed it \
                 through its /stdin"
            )));
        }
        let sandbox = self.state.open(&entry).await?;
        let began = Instant::now();
        let starting = sandbox.exec_detached(plan.spec);
        let (exec_id, pid) = match answer(&entry, starting).await {
            Ok(started) => started,
            Err(error) => {
                record(&entry, began, true);
                let data = EventData::none().with("reason", "not_started");
                self.state
                    .events
                    .of(&entry.facts, EventType::ExecFailed, data);
                return Err(error);
            }
        };
        let data = EventData::none().with("exec_id", exec::named(exec_id));
        self.state
            .events
            .of(&entry.facts, EventType::ExecStarted, data);
        tracing::debug!(sandbox = %entry.facts.id, exec = exec_id, pid, "detached exec started");
        watch(
            &self.state,
            Arc::clone(&entry),
            sandbox.clone(),
            exec_id,
            began,
        );
        // Before the answer, so that no crash of ours leaves a command that waits for the rest.
        if let Some(stdin) = stdin {
            answer(&entry, feed(&sandbox, exec_id, stdin)).await?;
        }
        let known = answer(&entry, sandbox.exec_record(exec_id));
        known.await.map(info)
    }

    /// The commands that run in a sandbox and the detached ones that it remembers, oldest first.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the sandbox does not run, `Provider` when it does not answer.
    pub async fn execs(&self, caller: &Caller, id: &SandboxId) -> Result<Vec<ExecInfo>, Error> {
        let (_token, entry, sandbox) = self.inside(caller, id).await?;
        let all = answer(&entry, sandbox.execs()).await?;
        Ok(all.into_iter().map(info).collect())
    }

    /// One command of a sandbox.
    ///
    /// # Errors
    /// As for [`Self::execs`].
    pub async fn exec_info(
        &self,
        caller: &Caller,
        id: &SandboxId,
        exec_id: ExecId,
    ) -> Result<ExecInfo, Error> {
        let (_token, entry, sandbox) = self.inside(caller, id).await?;
        answer(&entry, sandbox.exec_record(exec_id.0))
            .await
            .map(info)
    }

    /// Reads a detached command's output from `offset` on; with `follow` also what comes, to its
    /// exit.
    ///
    /// # Errors
    /// As for [`Self::execs`]; `Conflict` for a command that is not detached.
    pub async fn attach_exec(
        &self,
        caller: &Caller,
        id: &SandboxId,
        exec_id: ExecId,
        offset: u64,
        follow: bool,
    ) -> Result<AttachedExec, Error> {
        let (_token, entry, sandbox) = self.inside(caller, id).await?;
        let info = answer(&entry, sandbox.exec_record(exec_id.0))
            .await
            .map(info)?;
        let attached = answer(&entry, sandbox.attach(exec_id.0, offset, follow)).await?;
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let control = attached.control.clone();
        let follower = Follower {
            state: Arc::clone(&self.state),
            entry,
            started_at: info.started_at,
            attached,
        };
        // No part of the work that a shutdown waits for: the command lives on, and so does its
        // output for the client that attaches to the next server.
        let delivering = deliver(follower, sender);
        self.state
            .lifetime
            .tasks
            .spawn(delivering.in_current_span());
        Ok(AttachedExec {
            info,
            events,
            control,
        })
    }

    /// Waits until a detached command has ended, at most `limit`, and says what it does then.
    ///
    /// # Errors
    /// As for [`Self::attach_exec`].
    pub async fn wait_exec(
        &self,
        caller: &Caller,
        id: &SandboxId,
        exec_id: ExecId,
        limit: Option<Duration>,
    ) -> Result<ExecInfo, Error> {
        let (token, entry, sandbox) = self.inside(caller, id).await?;
        let record = answer(&entry, sandbox.exec_record(exec_id.0)).await?;
        // A shutdown does not wait for those who wait.
        drop(token);
        let waiting = async {
            tokio::select! {
                () = self.state.lifetime.stop.cancelled() => Err(Error::shutting_down()),
                ended = sandbox.wait_exec(exec_id.0) => ended,
            }
        };
        let ended = match limit {
            None => Some(waiting.await?),
            Some(limit) => timeout(limit, waiting).await.ok().transpose()?,
        };
        match answer(&entry, sandbox.exec_record(exec_id.0)).await {
            Ok(record) => Ok(info(record)),
            // It has been forgotten since: what is known of it is enough.
            Err(Error::NotFound(_)) if ended.is_some() => Ok(info(ExecRecord {
                exit: ended,
                ..record
            })),
            Err(error) => Err(error),
        }
    }

    /// Tells a running command something: input, its end, a signal, a size, the end of its tree.
    ///
    /// # Errors
    /// As for [`Self::execs`]; `Conflict` when it has ended, or takes no input.
    pub async fn tell_exec(
        &self,
        caller: &Caller,
        id: &SandboxId,
        exec_id: ExecId,
        control: ExecControl,
    ) -> Result<(), Error> {
        let (_token, entry, sandbox) = self.inside(caller, id).await?;
        let input = matches!(control, ExecControl::Stdin(_) | ExecControl::CloseStdin);
        let _turn = match &control {
            ExecControl::Stdin(_) => Some(entry.feeding.try_acquire().map_err(|_| {
                Error::Conflict(
                    "too much input waits for commands of this sandbox that do not read".to_owned(),
                )
            })?),
            _ => None,
        };
        let told = timeout(INPUT_TIMEOUT, sandbox.tell_exec(exec_id.0, control)).await;
        match told {
            Ok(told) => told,
            Err(_) if input => Err(Error::Conflict(format!(
                "the command has not read its input for {INPUT_TIMEOUT:?}; part of what was sent may have been taken"
            ))),
            Err(_) => Err(public_error(&entry, silent())),
        }
    }

    /// Kills the whole process tree of a command; one that has ended already is success.
    ///
    /// # Errors
    /// As for [`Self::execs`].
    pub async fn kill_exec(
        &self,
        caller: &Caller,
        id: &SandboxId,
        exec_id: ExecId,
    ) -> Result<(), Error> {
        let told = self.tell_exec(caller, id, exec_id, ExecControl::Kill).await;
        let Err(Error::Conflict(_)) = told else {
            return told;
        };
        // The agent refuses a control for a command that has ended, and a sandbox that is paused or has
        // ended refuses everything: only the former is success.
        let known = self.exec_info(caller, id, exec_id).await?;
        match known.state {
            ExecState::Exited => Ok(()),
            ExecState::Running => told,
        }
    }

    /// A running sandbox and a handle to it, and the token that a shutdown waits for.
    async fn inside(
        &self,
        caller: &Caller,
        id: &SandboxId,
    ) -> Result<(TaskTrackerToken, Arc<Entry>, SandboxHandle), Error> {
        let token = self.state.lifetime.enter()?;
        let entry = self.state.find_running(caller, id)?;
        let sandbox = self.state.open(&entry).await?;
        Ok((token, entry, sandbox))
    }
}

/// An answer that the agent need not wait for.
async fn answer<T>(
    entry: &Entry,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(ANSWER_TIMEOUT, asking)
        .await
        .unwrap_or_else(|_| Err(public_error(entry, silent())))
}

fn record(entry: &Entry, began: Instant, failed: bool) {
    if let Some(slot) = &entry.slot {
        slot.metrics
            .record(Operation::Exec, began.elapsed(), failed);
    }
}

fn info(record: ExecRecord) -> ExecInfo {
    let exit = record.exit.as_ref();
    ExecInfo {
        exec_id: ExecId(record.exec_id),
        state: match exit {
            None => ExecState::Running,
            Some(_) => ExecState::Exited,
        },
        argv: record.argv,
        pid: record.pid,
        tty: record.tty,
        detached: record.detached,
        started_at: record.started_at,
        exit_code: exit.map(|exit| exit.exit_code),
        reason: exit.map(|exit| exit.reason),
        duration: exit.map(|exit| GoDuration::from(exit.duration).to_string()),
        log_start: record.log_start,
        log_end: record.log_end,
    }
}

/// Hands over the input that came with the request, and its end. It fits into what the agent holds
/// for a command that has not read yet.
async fn feed(sandbox: &SandboxHandle, exec_id: u64, stdin: Bytes) -> Result<(), Error> {
    let tell = async |control| match sandbox.tell_exec(exec_id, control).await {
        // A command that has ended, or takes no input, does without.
        Ok(()) | Err(Error::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    };
    if !stdin.is_empty() {
        tell(ExecControl::Stdin(stdin)).await?;
    }
    tell(ExecControl::CloseStdin).await
}

/// Counts a detached command while this server can see it.
fn watch(
    state: &Arc<OrchestratorState>,
    entry: Arc<Entry>,
    sandbox: SandboxHandle,
    exec_id: u64,
    began: Instant,
) {
    let state = Arc::clone(state);
    let tasks = state.lifetime.tasks.clone();
    let watching = async move {
        let execs = &state.totals.active_execs;
        execs.fetch_add(1, Ordering::Relaxed);
        let ended = tokio::select! {
            ended = sandbox.wait_exec(exec_id) => Some(ended),
            // It runs on; the next look at it asks its agent.
            () = state.lifetime.stop.cancelled() => None,
        };
        execs.fetch_sub(1, Ordering::Relaxed);
        match ended {
            Some(Ok(exit)) => {
                record(&entry, began, false);
                exec::publish_end(&state, &entry, exec_id, &exit, None);
            }
            Some(Err(_)) => {
                record(&entry, began, true);
                let exit = killed(began.elapsed());
                let lost = (!entry.ended.is_cancelled()).then_some("agent_lost");
                exec::publish_end(&state, &entry, exec_id, &exit, lost);
            }
            None => {}
        }
    };
    tasks.spawn(watching.in_current_span());
}

/// How long ago that was.
fn age(state: &OrchestratorState, started_at: Timestamp) -> Duration {
    let micros = state.clock.now().unix_micros() - started_at.unix_micros();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// The end of a command whose sandbox is destroyed.
fn killed(duration: Duration) -> ExecExit {
    ExecExit {
        exit_code: 137,
        signal: Some(9),
        reason: ExitReason::SandboxDestroyed,
        duration,
    }
}

/// The events of a follower, with an exit when the sandbox is destroyed.
struct Follower {
    state: Arc<OrchestratorState>,
    entry: Arc<Entry>,
    started_at: Timestamp,
    attached: Attached,
}

impl EventSource for Follower {
    async fn next(&mut self) -> Option<ExecEvent> {
        tokio::select! {
            biased;
            () = self.entry.ended.cancelled() => {
                Some(ExecEvent::Exit(killed(age(&self.state, self.started_at))))
            }
            // The command lives on; a listener that hears no exit attaches again.
            () = self.state.lifetime.stop.cancelled() => None,
            event = self.attached.events.recv() => event,
        }
    }

    async fn interrupted(&self, last: bool) {
        tokio::select! {
            () = self.state.lifetime.stop.cancelled() => {}
            () = self.entry.ended.cancelled(), if !last => {}
        }
    }
}
