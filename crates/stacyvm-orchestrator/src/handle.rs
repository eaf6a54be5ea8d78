//! A running sandbox as callers get it: opened when first needed, its operations counted and
//! timed, and ended when the sandbox is.
//!
//! Every operation fails with the orchestrator's own error, which knows what became of the
//! sandbox meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stacyvm_provider::ops::{
    Attached, ExecControl, ExecExit, ExecRecord, ExecSession, ExecSpec, LogReceiver, OpError,
    ReadRange, WriteOptions,
};
use stacyvm_provider::{PortConnection, ProviderError, SandboxOps};
use stacyvm_types::{EventData, EventType, FileInfo, FileMode};
use tokio::time::timeout;

use crate::byte_stream::{ByteStream, FileRead};
use crate::error::Error;
use crate::events::Events;
use crate::metrics::Operation;
use crate::operation_error::{destroyed, not_startable, paused, public_error};
use crate::registry::Entry;
use crate::upload::UploadData;

/// How long a backend may take to open a box that runs.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The operations of a sandbox's box. After a restart of the server the first caller opens it.
pub(crate) async fn open(entry: &Entry) -> Result<&Arc<dyn SandboxOps>, Error> {
    let name = &entry.facts.provider;
    let opened = entry.ops.get_or_try_init(|| async {
        let slot = entry.slot.as_ref().ok_or_else(|| {
            Error::Unavailable(format!("provider {name:?} is not configured any more"))
        })?;
        match timeout(OPEN_TIMEOUT, slot.provider.open(&entry.facts.id)).await {
            Ok(Ok(ops)) => Ok(ops),
            Ok(Err(ProviderError::NotFound(message))) => {
                Err(public_error(entry, OpError::Gone(message)))
            }
            Ok(Err(error)) => Err(Error::from_provider(name, error)),
            Err(_) => {
                let message = format!("no answer within {OPEN_TIMEOUT:?}");
                Err(public_error(entry, OpError::Gone(message)))
            }
        }
    });
    opened.await
}

/// One running sandbox. A handle keeps nothing of the sandbox alive.
#[derive(Clone, Debug)]
pub struct SandboxHandle {
    entry: Arc<Entry>,
    ops: Arc<dyn SandboxOps>,
    events: Arc<Events>,
}

impl SandboxHandle {
    pub(crate) async fn open(entry: Arc<Entry>, events: Arc<Events>) -> Result<Self, Error> {
        let ops = Arc::clone(open(&entry).await?);
        Ok(Self { entry, ops, events })
    }

    /// Publishes that something happened to a file, named as the client named it.
    fn publish(&self, kind: EventType, path: &str) {
        let data = EventData::none().with("path", path.to_owned());
        self.events.of(&self.entry.facts, kind, data);
    }

    fn public(&self, error: OpError) -> Error {
        public_error(&self.entry, error)
    }

    fn stream(&self, source: stacyvm_provider::ops::ByteReceiver) -> ByteStream {
        ByteStream::of_sandbox(Arc::clone(&self.entry), source)
    }

    /// Work that ends with the sandbox.
    async fn until_destroyed<T>(
        &self,
        work: impl Future<Output = Result<T, OpError>> + Send,
    ) -> Result<T, OpError> {
        tokio::select! {
            biased;
            () = self.entry.ended.cancelled() => Err(destroyed()),
            result = work => result,
        }
    }

    /// Work that also ends when the sandbox is paused: its agent would not answer before the
    /// sandbox goes on.
    async fn measured<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, OpError>> + Send,
    ) -> Result<T, OpError> {
        let began = Instant::now();
        let result = tokio::select! {
            biased;
            result = self.until_destroyed(work) => result,
            () = self.entry.paused() => Err(paused(&self.entry)),
        };
        if let Some(slot) = &self.entry.slot {
            // What the client got wrong is no failure of ours.
            let failed = matches!(result, Err(OpError::Gone(_) | OpError::Failed(_)));
            slot.metrics.record(operation, began.elapsed(), failed);
        }
        result
    }

    async fn run<T>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, OpError>> + Send,
    ) -> Result<T, Error> {
        let result = self.measured(operation, work).await;
        result.map_err(|error| self.public(error))
    }
}

/// Commands. [`Orchestrator::exec`](crate::Orchestrator::exec) and its kin apply limits and
/// defaults; these do not.
impl SandboxHandle {
    /// Starts a command exactly as `spec` says.
    ///
    /// # Errors
    /// `BadRequest` for a missing workdir; so for every method here: `NotFound` when the sandbox
    /// is destroyed meanwhile, `Conflict` when it stopped or was paused, `Provider` when its agent
    /// does not answer.
    pub async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, Error> {
        self.run(Operation::Exec, self.ops.exec(spec)).await
    }

    pub(crate) async fn exec_detached(&self, spec: ExecSpec) -> Result<(u64, u32), Error> {
        let started = self.until_destroyed(self.ops.exec_detached(spec)).await;
        started.map_err(|error| self.public(not_startable(error)))
    }

    pub(crate) async fn execs(&self) -> Result<Vec<ExecRecord>, Error> {
        let listed = self.until_destroyed(self.ops.execs()).await;
        listed.map_err(|error| self.public(error))
    }

    pub(crate) async fn exec_record(&self, exec_id: u64) -> Result<ExecRecord, Error> {
        let record = self.until_destroyed(self.ops.exec_record(exec_id)).await;
        record.map_err(|error| self.public(error))
    }

    pub(crate) async fn attach(
        &self,
        exec_id: u64,
        offset: u64,
        follow: bool,
    ) -> Result<Attached, Error> {
        let attaching = self.ops.attach(exec_id, offset, follow);
        let attached = self.until_destroyed(attaching).await;
        attached.map_err(|error| self.public(error))
    }

    pub(crate) async fn wait_exec(&self, exec_id: u64) -> Result<ExecExit, Error> {
        let ended = self.until_destroyed(self.ops.wait_exec(exec_id)).await;
        ended.map_err(|error| self.public(error))
    }

    pub(crate) async fn tell_exec(&self, exec_id: u64, control: ExecControl) -> Result<(), Error> {
        let told = self.until_destroyed(self.ops.tell_exec(exec_id, control));
        told.await.map_err(|error| self.public(error))
    }
}

/// Files. Paths are absolute inside or relative to `/workspace`.
impl SandboxHandle {
    /// Describes one file; a link is described itself.
    ///
    /// # Errors
    /// `NotFound` for a path that does not exist, `BadRequest` for one that makes no sense or that
    /// the sandbox's own permissions forbid; as for [`Self::exec`]. So for every method here.
    pub async fn stat(&self, path: &str) -> Result<FileInfo, Error> {
        self.run(Operation::FileInspect, self.ops.stat(path)).await
    }

    /// What a directory holds, sorted by path, down to `depth` levels (1 = the directory itself
    /// only).
    ///
    /// # Errors
    /// As for [`Self::stat`].
    pub async fn list(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, Error> {
        self.run(Operation::FileInspect, self.ops.list(path, depth))
            .await
    }

    /// Opens a file for reading, following links inside the root.
    ///
    /// # Errors
    /// As for [`Self::stat`]; `BadRequest` for a directory.
    pub async fn read(&self, path: &str, range: ReadRange) -> Result<FileRead, Error> {
        let reading = self.ops.read(path, range);
        let file = self.run(Operation::FileRead, reading).await?;
        self.publish(EventType::FileRead, path);
        Ok(FileRead {
            info: file.info,
            data: self.stream(file.data),
        })
    }

    /// Replaces a file atomically by what `data` brings; its owner is the sandbox's user.
    ///
    /// # Errors
    /// As for [`Self::stat`].
    pub async fn write(
        &self,
        path: &str,
        options: WriteOptions,
        data: UploadData,
    ) -> Result<(), Error> {
        let writing = self.ops.write(path, options, data.into_receiver());
        self.run(Operation::FileWrite, writing).await?;
        self.publish(EventType::FileWritten, path);
        Ok(())
    }

    /// Makes a directory and its parents; one that exists already is success.
    ///
    /// # Errors
    /// As for [`Self::stat`].
    pub async fn mkdir(&self, path: &str, mode: FileMode) -> Result<(), Error> {
        self.run(Operation::FileChange, self.ops.mkdir(path, mode))
            .await
    }

    /// Moves a file or directory, creating the destination's parents.
    ///
    /// # Errors
    /// As for [`Self::stat`].
    pub async fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        self.run(Operation::FileChange, self.ops.rename(from, to))
            .await?;
        self.publish(EventType::FileDeleted, from);
        self.publish(EventType::FileWritten, to);
        Ok(())
    }

    /// Removes a file, or with `recursive` a whole directory.
    ///
    /// # Errors
    /// As for [`Self::stat`]; `BadRequest` for a directory without `recursive`.
    pub async fn remove(&self, path: &str, recursive: bool) -> Result<(), Error> {
        self.run(Operation::FileChange, self.ops.remove(path, recursive))
            .await?;
        self.publish(EventType::FileDeleted, path);
        Ok(())
    }

    /// Changes permission bits, following links inside the root.
    ///
    /// # Errors
    /// As for [`Self::stat`].
    pub async fn chmod(&self, path: &str, mode: FileMode) -> Result<(), Error> {
        self.run(Operation::FileChange, self.ops.chmod(path, mode))
            .await
    }

    /// Absolute paths that match, sorted; `*`, `?`, `[]`, `{a,b}`, `**`.
    ///
    /// # Errors
    /// As for [`Self::stat`].
    pub async fn glob(&self, pattern: &str) -> Result<Vec<String>, Error> {
        self.run(Operation::FileInspect, self.ops.glob(pattern))
            .await
    }

    /// A directory's (or file's) content as a tar stream.
    ///
    /// # Errors
    /// As for [`Self::stat`].
    pub async fn archive_out(&self, path: &str) -> Result<ByteStream, Error> {
        let archive = self
            .run(Operation::FileRead, self.ops.archive_out(path))
            .await?;
        self.publish(EventType::FileRead, path);
        Ok(self.stream(archive))
    }

    /// Unpacks a tar stream into a directory, which is created. Entries that would leave it stop
    /// the unpacking.
    ///
    /// # Errors
    /// As for [`Self::stat`].
    pub async fn archive_in(&self, path: &str, data: UploadData) -> Result<(), Error> {
        let unpacking = self.ops.archive_in(path, data.into_receiver());
        self.run(Operation::FileWrite, unpacking).await?;
        self.publish(EventType::FileWritten, path);
        Ok(())
    }
}

/// Logs and ports.
impl SandboxHandle {
    pub(crate) async fn logs(&self, lines: usize) -> Result<Vec<String>, Error> {
        self.run(Operation::Logs, self.ops.logs(lines)).await
    }

    pub(crate) async fn follow_logs(&self, lines: usize) -> Result<LogReceiver, Error> {
        self.run(Operation::Logs, self.ops.follow_logs(lines)).await
    }

    /// Connects to a TCP port on the sandbox's loopback.
    ///
    /// # Errors
    /// `NothingListens`; `Unsupported` when its backend has no way to ports; as for
    /// [`Self::exec`].
    pub async fn connect_port(&self, port: u16) -> Result<PortConnection, Error> {
        let connecting = self.ops.connect_port(port);
        let connected = self.measured(Operation::Forward, connecting).await;
        connected.map_err(|error| match error {
            OpError::NotFound(message) => Error::NothingListens(message),
            OpError::Invalid(_) | OpError::Denied(_) | OpError::Failed(_) => Error::Provider {
                provider: self.entry.facts.provider.clone(),
                message: "the port cannot be reached".to_owned(),
                source: Some(Box::new(error)),
            },
            error => self.public(error),
        })
    }
}
