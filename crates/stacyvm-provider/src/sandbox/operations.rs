//! The operations inside one live box, as one trait for each kind of thing to do there.
//!
//! No method has a default body: an implementation that forgets one does not compile. A backend
//! that lacks an operation answers `OpError::Unsupported` in its own words.

use async_trait::async_trait;
use bytes::Bytes;
use stacyvm_agent_client::{
    Attached, ByteReceiver, ExecControl, ExecExit, ExecRecord, ExecSession, ExecSpec, FileRead,
    LogReceiver, OpError, ReadRange, UsageStats, WriteOptions,
};
use stacyvm_types::{FileInfo, FileMode};
use tokio::sync::mpsc;

use super::port::PortConnection;

/// Every operation inside one live box. Paths are absolute inside it or relative to
/// `/workspace`, and are resolved inside its root.
pub trait SandboxOps:
    Liveness + Execs + Files + Logs + Ports + Send + Sync + std::fmt::Debug
{
}

impl<T> SandboxOps for T where
    T: Liveness + Execs + Files + Logs + Ports + Send + Sync + std::fmt::Debug + ?Sized
{
}

/// Whether a box lives, and what it uses.
#[async_trait]
pub trait Liveness {
    /// Whether the agent answers.
    async fn ping(&self) -> Result<(), OpError>;

    /// What the agent counts from inside.
    async fn usage(&self) -> Result<UsageStats, OpError>;
}

/// Commands in a box.
#[async_trait]
pub trait Execs {
    /// Starts a command. A missing program is no error here: the session prints to standard error
    /// and exits 127. A missing workdir is `Invalid`.
    async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError>;

    /// Starts a command that outlives its connection, and answers with its number and process id.
    async fn exec_detached(&self, spec: ExecSpec) -> Result<(u64, u32), OpError>;

    /// The commands that run and the detached ones that are remembered, oldest first.
    async fn execs(&self) -> Result<Vec<ExecRecord>, OpError>;

    /// One command; `NotFound` when it neither runs nor is remembered.
    async fn exec_record(&self, exec_id: u64) -> Result<ExecRecord, OpError>;

    /// A detached command's output from `offset` on; with `follow` the stream waits for what is
    /// printed later and for the exit.
    async fn attach(&self, exec_id: u64, offset: u64, follow: bool) -> Result<Attached, OpError>;

    /// Waits for a detached command's end.
    async fn wait_exec(&self, exec_id: u64) -> Result<ExecExit, OpError>;

    /// Sends a running command input or a signal; input waits until the command takes it.
    async fn tell_exec(&self, exec_id: u64, control: ExecControl) -> Result<(), OpError>;
}

/// Files in a box.
#[async_trait]
pub trait Files {
    /// Describes one file; a link is described itself.
    async fn stat(&self, path: &str) -> Result<FileInfo, OpError>;

    /// What a directory holds, sorted by path, down to `depth` levels (1 = the directory itself
    /// only).
    async fn list(&self, path: &str, depth: u32) -> Result<Vec<FileInfo>, OpError>;

    /// Opens a file for reading, following links inside the root. A directory is `Invalid`.
    async fn read(&self, path: &str, range: ReadRange) -> Result<FileRead, OpError>;

    /// Replaces a file atomically by what `data` brings; owner is the sandbox's user.
    async fn write(
        &self,
        path: &str,
        options: WriteOptions,
        data: ByteReceiver,
    ) -> Result<(), OpError>;

    /// Makes a directory and its parents; one that exists already is success.
    async fn mkdir(&self, path: &str, mode: FileMode) -> Result<(), OpError>;

    /// Moves a file or directory, creating the destination's parents.
    async fn rename(&self, from: &str, to: &str) -> Result<(), OpError>;

    /// Removes a file, or with `recursive` a whole directory. A directory without it is `Invalid`.
    async fn remove(&self, path: &str, recursive: bool) -> Result<(), OpError>;

    /// Changes permission bits, following links inside the root.
    async fn chmod(&self, path: &str, mode: FileMode) -> Result<(), OpError>;

    /// Absolute paths that match, sorted; `*`, `?`, `[]`, `{a,b}`, `**`.
    async fn glob(&self, pattern: &str) -> Result<Vec<String>, OpError>;

    /// A directory's (or file's) content as a tar stream.
    async fn archive_out(&self, path: &str) -> Result<ByteReceiver, OpError>;

    /// Unpacks a tar stream into a directory, which is created. Entries that would leave it are
    /// `Invalid` and stop the unpacking.
    async fn archive_in(&self, path: &str, data: ByteReceiver) -> Result<(), OpError>;
}

/// What the commands of a box printed.
#[async_trait]
pub trait Logs {
    /// The last `lines` lines of what execs printed, newest last.
    async fn logs(&self, lines: usize) -> Result<Vec<String>, OpError>;

    /// The last `lines` lines, then every line as it is printed. A line without an end is sent
    /// when nothing was added to it for a second.
    async fn follow_logs(&self, lines: usize) -> Result<LogReceiver, OpError>;
}

/// TCP ports on a box's loopback.
#[async_trait]
pub trait Ports {
    /// Connects to a port through the agent. Bytes in, bytes out.
    async fn forward(
        &self,
        port: u16,
        inbound: mpsc::Receiver<Bytes>,
    ) -> Result<ByteReceiver, OpError>;

    /// The same as one byte stream, by the shortest way that the backend has.
    async fn connect_port(&self, port: u16) -> Result<PortConnection, OpError>;
}
