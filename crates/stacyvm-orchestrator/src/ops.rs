//! The way into a sandbox: opened when first needed, counted and timed, and ended when the
//! sandbox is.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use stacyvm_provider::ops::{
    Attached, ByteReceiver, ExecControl, ExecExit, ExecRecord, ExecSession, ExecSpec, FileRead,
    LogReceiver, OpError, ReadRange, UsageStats, WriteOptions,
};
use stacyvm_provider::{Execs, Files, Liveness, Logs, PortConnection, Ports, SandboxOps};
use stacyvm_types::{EventData, EventType, FileInfo, FileMode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::Error;
use crate::events::Events;
use crate::lifecycle::Phase;
use crate::metrics::Operation;
use crate::registry::Entry;
use crate::shared::PAUSED;

/// How long a backend may take to open a box that runs.
const OPEN: Duration = Duration::from_secs(10);

/// The sandbox's operations. After a restart of the server the first asker opens them.
pub(crate) async fn open(entry: &Entry) -> Result<&Arc<dyn SandboxOps>, Error> {
    let name = &entry.facts.provider;
    let opened = entry.ops.get_or_try_init(|| async {
        let slot = entry.slot.as_ref().ok_or_else(|| {
            Error::Unavailable(format!("provider {name:?} is not configured any more"))
        })?;
        match timeout(OPEN, slot.provider.open(&entry.facts.id)).await {
            Ok(Ok(ops)) => Ok(ops),
            Ok(Err(stacyvm_provider::ProviderError::NotFound(message))) => {
                Err(public_error(entry, OpError::Gone(message)))
            }
            Ok(Err(error)) => Err(Error::from_provider(name, error)),
            Err(_) => {
                let message = format!("no answer within {OPEN:?}");
                Err(public_error(entry, OpError::Gone(message)))
            }
        }
    });
    opened.await
}

/// What a failed operation means to the client, knowing what became of the sandbox.
pub(crate) fn public_error(entry: &Entry, error: OpError) -> Error {
    let id = &entry.facts.id;
    if matches!(error, OpError::Gone(_)) {
        match entry.view().phase {
            Phase::Destroying | Phase::Destroyed => return Error::no_sandbox(id.as_str()),
            Phase::Stopped | Phase::Lost => {
                return Error::Conflict(format!("sandbox {id} does not run any more"));
            }
            Phase::Creating | Phase::Running | Phase::Paused => {}
        }
    }
    Error::from_op(&entry.facts.provider, error)
}

/// What an operation answers that was begun before its sandbox was paused.
pub(crate) fn paused(entry: &Entry) -> OpError {
    OpError::Conflict(format!("sandbox {} {PAUSED}", entry.facts.id))
}

/// A command asked for somebody or something that its sandbox lacks: the request is at fault. As
/// "not found" clients would take the sandbox itself for gone.
pub(crate) fn not_startable(error: OpError) -> OpError {
    match error {
        OpError::NotFound(message) => OpError::Invalid(message),
        error => error,
    }
}

/// Operations as the front door gets them.
#[derive(Debug)]
pub(crate) struct Metered {
    entry: Arc<Entry>,
    inner: Arc<dyn SandboxOps>,
    events: Arc<Events>,
}

impl Metered {
    pub(crate) fn new(entry: Arc<Entry>, inner: Arc<dyn SandboxOps>, events: Arc<Events>) -> Self {
        Self {
            entry,
            inner,
            events,
        }
    }

    /// Publishes that something happened to a file, named as the client named it.
    fn tell(&self, kind: EventType, path: &str) {
        let data = EventData::none().with("path", path.to_owned());
        self.events.of(&self.entry, kind, data);
    }

    /// Work that ends with the sandbox.
    async fn ended<T>(
        &self,
        work: impl Future<Output = Result<T, OpError>> + Send,
    ) -> Result<T, OpError> {
        tokio::select! {
            biased;
            () = self.entry.ended.cancelled() => {
                Err(OpError::Gone("the sandbox is destroyed".to_owned()))
            }
            result = work => result,
        }
    }

    /// Work that also ends when nothing in the sandbox moves any more: its agent would not answer
    /// before somebody lets it go on.
    async fn run<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, OpError>> + Send,
    ) -> Result<T, OpError> {
        let began = Instant::now();
        let result = tokio::select! {
            biased;
            result = self.ended(work) => result,
            () = self.entry.paused() => Err(paused(&self.entry)),
        };
        if let Some(slot) = &self.entry.slot {
            // What the client got wrong is no failure of ours.
            let failed = matches!(result, Err(OpError::Gone(_) | OpError::Failed(_)));
            slot.metrics.record(operation, began.elapsed(), failed);
        }
        result
    }
}

#[async_trait]
impl Liveness for Metered {
    async fn ping(&self) -> Result<(), OpError> {
        self.inner.ping().await
    }

    async fn usage(&self) -> Result<UsageStats, OpError> {
        self.run(Operation::Stats, self.inner.usage()).await
    }
}

#[async_trait]
impl Execs for Metered {
    async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError> {
        self.run(Operation::Exec, self.inner.exec(spec)).await
    }

    async fn exec_detached(&self, spec: ExecSpec) -> Result<(u64, u32), OpError> {
        self.ended(self.inner.exec_detached(spec)).await
    }

    async fn execs(&self) -> Result<Vec<ExecRecord>, OpError> {
        self.ended(self.inner.execs()).await
    }

    async fn exec_record(&self, exec_id: u64) -> Result<ExecRecord, OpError> {
        self.ended(self.inner.exec_record(exec_id)).await
    }

    async fn attach(&self, exec_id: u64, offset: u64, follow: bool) -> Result<Attached, OpError> {
        self.ended(self.inner.attach(exec_id, offset, follow)).await
    }

    async fn wait_exec(&self, exec_id: u64) -> Result<ExecExit, OpError> {
        self.ended(self.inner.wait_exec(exec_id)).await
    }

    async fn tell_exec(&self, exec_id: u64, control: ExecControl) -> Result<(), OpError> {
        self.ended(self.inner.tell_exec(exec_id, control)).await
    }
}

#[async_trait]
impl Files for Metered {
    async fn stat(&self, path: &str) -> Result<FileInfo, OpError> {
        self.run(Operation::FileInspect, self.inner.stat(path))
            .await
    }

    async fn list(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, OpError> {
        self.run(Operation::FileInspect, self.inner.list(path, depth))
            .await
    }

    async fn read(&self, path: &str, range: ReadRange) -> Result<FileRead, OpError> {
        let file = self
            .run(Operation::FileRead, self.inner.read(path, range))
            .await?;
        self.tell(EventType::FileRead, path);
        Ok(file)
    }

    async fn write(
        &self,
        path: &str,
        options: WriteOptions,
        data: ByteReceiver,
    ) -> Result<(), OpError> {
        self.run(Operation::FileWrite, self.inner.write(path, options, data))
            .await?;
        self.tell(EventType::FileWritten, path);
        Ok(())
    }

    async fn mkdir(&self, path: &str, mode: FileMode) -> Result<(), OpError> {
        self.run(Operation::FileChange, self.inner.mkdir(path, mode))
            .await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), OpError> {
        self.run(Operation::FileChange, self.inner.rename(from, to))
            .await?;
        self.tell(EventType::FileDeleted, from);
        self.tell(EventType::FileWritten, to);
        Ok(())
    }

    async fn remove(&self, path: &str, recursive: bool) -> Result<(), OpError> {
        self.run(Operation::FileChange, self.inner.remove(path, recursive))
            .await?;
        self.tell(EventType::FileDeleted, path);
        Ok(())
    }

    async fn chmod(&self, path: &str, mode: FileMode) -> Result<(), OpError> {
        self.run(Operation::FileChange, self.inner.chmod(path, mode))
            .await
    }

    async fn glob(&self, pattern: &str) -> Result<Vec<String>, OpError> {
        self.run(Operation::FileInspect, self.inner.glob(pattern))
            .await
    }

    async fn archive_out(&self, path: &str) -> Result<ByteReceiver, OpError> {
        let archive = self
            .run(Operation::FileRead, self.inner.archive_out(path))
            .await?;
        self.tell(EventType::FileRead, path);
        Ok(archive)
    }

    async fn archive_in(&self, path: &str, data: ByteReceiver) -> Result<(), OpError> {
        self.run(Operation::FileWrite, self.inner.archive_in(path, data))
            .await?;
        self.tell(EventType::FileWritten, path);
        Ok(())
    }
}

#[async_trait]
impl Logs for Metered {
    async fn logs(&self, lines: usize) -> Result<Vec<String>, OpError> {
        self.run(Operation::Logs, self.inner.logs(lines)).await
    }

    async fn follow_logs(&self, lines: usize) -> Result<LogReceiver, OpError> {
        self.run(Operation::Logs, self.inner.follow_logs(lines))
            .await
    }
}

#[async_trait]
impl Ports for Metered {
    async fn forward(
        &self,
        port: u16,
        inbound: mpsc::Receiver<Bytes>,
    ) -> Result<ByteReceiver, OpError> {
        self.run(Operation::Forward, self.inner.forward(port, inbound))
            .await
    }

    async fn connect_port(&self, port: u16) -> Result<PortConnection, OpError> {
        self.run(Operation::Forward, self.inner.connect_port(port))
            .await
    }
}
