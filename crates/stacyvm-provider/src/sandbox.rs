//! What can be done inside a box; `agent` is the one implementation for boxes with our agent.

mod agent;
mod port;
mod unix;

pub use agent::{AgentConnector, AgentSandbox, ByteStream};
pub use port::PortConnection;
pub use unix::{UnixConnector, bind_unix};

use async_trait::async_trait;
use bytes::Bytes;
use stacyvm_types::{FileInfo, FileMode};

use crate::ops::{
    Attached, ByteReceiver, ExecControl, ExecExit, ExecRecord, ExecSession, ExecSpec, FileRead,
    LogReceiver, OpError, ReadRange, UsageStats, WriteOptions,
};

/// Operations inside one live box. Paths are absolute inside it or relative to `/workspace`, and
/// are resolved inside its root.
#[async_trait]
pub trait SandboxOps: Send + Sync + std::fmt::Debug {
    /// Whether the agent answers.
    async fn ping(&self) -> Result<(), OpError>;
    /// Starts a command. A missing program is no error here: the session prints to standard error and exits 127.
    /// A missing workdir is `Invalid`.
    async fn exec(&self, spec: ExecSpec) -> Result<ExecSession, OpError>;
    /// Starts a command that outlives its connection, and answers with its number and process id.
    async fn exec_detached(&self, spec: ExecSpec) -> Result<(u64, u32), OpError> {
        drop(spec);
        Err(no_detached())
    }
    /// The commands that run and the detached ones that are remembered, oldest first.
    async fn execs(&self) -> Result<Vec<ExecRecord>, OpError> {
        Err(no_detached())
    }
    /// One command; `NotFound` when it neither runs nor is remembered.
    async fn exec_record(&self, exec_id: u64) -> Result<ExecRecord, OpError> {
        let _ = exec_id;
        Err(no_detached())
    }
    /// A detached command's output from `offset` on; `follow` waits for what comes and the exit.
    async fn attach(&self, exec_id: u64, offset: u64, follow: bool) -> Result<Attached, OpError> {
        let _ = (exec_id, offset, follow);
        Err(no_detached())
    }
    /// Waits for a detached command's end.
    async fn wait_exec(&self, exec_id: u64) -> Result<ExecExit, OpError> {
        let _ = exec_id;
        Err(no_detached())
    }
    /// Tells a running command something; input waits until the command takes it.
    async fn tell_exec(&self, exec_id: u64, control: ExecControl) -> Result<(), OpError> {
        let _ = (exec_id, control);
        Err(no_detached())
    }
    /// Describes one file; a link is described itself.
    async fn stat(&self, path: &str) -> Result<FileInfo, OpError>;
    /// What a directory holds, sorted by path, down to `depth` levels (1 = the directory itself only).
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
    /// Moves, creating the destination's parents.
    async fn rename(&self, from: &str, to: &str) -> Result<(), OpError>;
    /// Removes a file, or with `recursive` a whole directory. A directory without it is `Invalid`.
    async fn remove(&self, path: &str, recursive: bool) -> Result<(), OpError>;
    /// Changes permission bits, following links inside the root.
    async fn chmod(&self, path: &str, mode: FileMode) -> Result<(), OpError>;
    /// Absolute paths that match, sorted; `*`, `?`, `[]`, `{a,b}`, `**`.
    async fn glob(&self, pattern: &str) -> Result<Vec<String>, OpError>;
    /// A directory's (or file's) content as a tar stream.
    async fn archive_out(&self, path: &str) -> Result<ByteReceiver, OpError>;
    /// Unpacks a tar stream into a directory, which is created. Entries that would leave it are `Invalid`
    /// and stop the unpacking.
    async fn archive_in(&self, path: &str, data: ByteReceiver) -> Result<(), OpError>;
    /// The last `lines` lines of what execs printed, newest last.
    async fn logs(&self, lines: usize) -> Result<Vec<String>, OpError>;
    /// The last `lines` lines, then every line as it is printed. One without an end comes when
    /// nothing was added to it for a second.
    async fn follow_logs(&self, lines: usize) -> Result<LogReceiver, OpError> {
        let _ = lines;
        let message = "followed logs (follow) are not supported by this sandbox's provider";
        Err(OpError::Unsupported(message.to_owned()))
    }
    /// What the agent counts from inside.
    async fn usage(&self) -> Result<UsageStats, OpError>;
    /// Connects to a TCP port inside, on its loopback. Bytes in, bytes out.
    async fn forward(
        &self,
        port: u16,
        inbound: tokio::sync::mpsc::Receiver<Bytes>,
    ) -> Result<ByteReceiver, OpError>;
    /// The same as one byte stream, on the shortest way that there is.
    async fn connect_port(&self, port: u16) -> Result<PortConnection, OpError> {
        let (inbound, taken) = tokio::sync::mpsc::channel(port::QUEUE);
        let outbound = self.forward(port, taken).await?;
        Ok(PortConnection::carried(inbound, outbound))
    }
}

fn no_detached() -> OpError {
    OpError::Unsupported("this provider lacks the capability detached-exec".to_owned())
}
