//! Types of the operations inside a sandbox, independent of the backend.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use stacyvm_types::{ExitReason, FileInfo, FileMode, OutputStream, Timestamp};
use tokio::sync::mpsc;

/// Why an operation inside a sandbox failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The path, user or exec does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense (a directory where a file is needed, a missing workdir, …).
    #[error("{0}")]
    Invalid(String),
    /// The sandbox's own permissions forbid it.
    #[error("{0}")]
    Denied(String),
    /// Something is in the way (the target exists, a directory is not empty).
    #[error("{0}")]
    Conflict(String),
    /// A limit of the sandbox was hit: processes, memory, disk, open files.
    #[error("{0}")]
    Limit(String),
    /// This agent or backend cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// The agent does not answer: the sandbox is gone, or its connection broke.
    #[error("{0}")]
    Gone(String),
    /// Anything else; the message is for the log first.
    #[error("{0}")]
    Failed(String),
}

/// The sandbox's defaults for commands. The agent keeps them until it gets new ones, so they outlive
/// the connection that sent them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Configure {
    /// Variables of every command.
    pub env: BTreeMap<String, String>,
    /// The user of commands that name none; none means the sandbox's own user.
    pub user: Option<String>,
    /// The directory of commands that name none; none means `/workspace`.
    pub workdir: Option<String>,
}

impl fmt::Debug for Configure {
    /// Leaves out the values of variables: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configure")
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("user", &self.user)
            .field("workdir", &self.workdir)
            .finish()
    }
}

/// The user of a command: a name or number, resolved inside the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Credentials {
    /// The sandbox's own user.
    #[default]
    Default,
    /// `name`, `uid` or `uid:gid`, looked up in the sandbox's `/etc/passwd`.
    User(String),
}

/// What becomes of a command when the connection that started it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnDisconnect {
    /// Its process tree is killed.
    #[default]
    Kill,
    /// It is detached: it runs on, and its newest output is recorded for later attachments.
    Detach,
}

/// A terminal's size in character cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtySize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// A command to run.
#[derive(Clone, Default)]
pub struct ExecSpec {
    /// Program and arguments, never empty. Without a `/` the program is looked up in `PATH`.
    pub argv: Vec<String>,
    /// Variables that are added to the sandbox's own.
    pub env: BTreeMap<String, String>,
    /// The directory to run in, relative to `/workspace`; none means the sandbox's default.
    pub workdir: Option<String>,
    /// The user that runs it.
    pub user: Credentials,
    /// Whether standard input is fed by the session; otherwise it is empty (`/dev/null`).
    pub stdin: bool,
    /// The size of a terminal, which takes the place of three pipes.
    pub tty: Option<TtySize>,
    /// Time after which the whole process tree is killed; none means never.
    pub timeout: Option<Duration>,
    /// What happens when the connection is lost.
    pub on_disconnect: OnDisconnect,
    /// Whether processes that outlive the command are killed when it ends.
    pub kill_orphans: bool,
}

impl fmt::Debug for ExecSpec {
    /// Leaves out arguments and variable values: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSpec")
            .field("program", &self.argv.first())
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("workdir", &self.workdir)
            .field("tty", &self.tty)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecExit {
    /// The exit code: 0–255; 128+N after death by signal N; 137 after a timeout.
    pub exit_code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why it ended.
    pub reason: ExitReason,
    /// Time from start to end, measured inside.
    pub duration: Duration,
}

/// What happens to a command, as its session or a follower of it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// The next output begins at this offset. Of a detached command only: the first event, and
    /// again after a gap, when what came before is no longer kept.
    Resumed(u64),
    /// A chunk of output, at most 64 KiB.
    Output(OutputStream, Bytes),
    /// There is no more output at present. For followers that do not wait for more: their last
    /// event.
    End,
    /// The command has ended; nothing follows.
    Exit(ExecExit),
}

impl ExecEvent {
    /// Whether nothing follows.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::End | Self::Exit(_))
    }
}

/// A signal, by its Linux number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub i32);

/// Input and controls for a running command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecControl {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// End of its standard input (with a terminal: the EOF character).
    CloseStdin,
    /// A new terminal size.
    Resize(TtySize),
    /// A signal to its process group.
    Signal(Signal),
    /// Kill the whole process tree now.
    Kill,
}

/// A started command. Dropping `events` without having seen the exit abandons the command:
/// `OnDisconnect` then decides.
#[derive(Debug)]
pub struct ExecSession {
    /// Number of the exec, unique within its sandbox.
    pub exec_id: u64,
    /// Its process id inside the sandbox.
    pub pid: u32,
    /// Its output, then its exit. Bounded: a slow reader slows the command, never the server. A
    /// channel that ends without an exit means the connection was lost.
    pub events: mpsc::Receiver<ExecEvent>,
    /// Its input and control. Bounded.
    pub control: mpsc::Sender<ExecControl>,
}

/// Describes one command.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecRecord {
    /// Its number, unique within its sandbox.
    pub exec_id: u64,
    /// Program and arguments, cut to a bound.
    pub argv: Vec<String>,
    /// Its process id inside the sandbox; 0 when the program could not be started.
    pub pid: u32,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether it is detached: it outlives its connection, and its output can be read again.
    pub detached: bool,
    /// When it started.
    pub started_at: Timestamp,
    /// How it ended; none while it runs.
    pub exit: Option<ExecExit>,
    /// Offset of the first byte of output that is still retained, counted over both streams.
    pub log_start: u64,
    /// Offset after the last byte of output.
    pub log_end: u64,
}

impl fmt::Debug for ExecRecord {
    /// Leaves out arguments: they may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecRecord")
            .field("exec_id", &self.exec_id)
            .field("program", &self.argv.first())
            .field("pid", &self.pid)
            .field("detached", &self.detached)
            .field("exit", &self.exit)
            .finish_non_exhaustive()
    }
}

/// A detached command that is followed. Dropping it leaves the command alone.
#[derive(Debug)]
pub struct Attached {
    /// Its output, then its exit. The command does not wait for a reader that takes nothing for
    /// ten seconds; such a reader loses output and is told so. A channel that ends without an exit or an end means
    /// that the connection was lost.
    pub events: mpsc::Receiver<ExecEvent>,
    /// Its input and control. Bounded.
    pub control: mpsc::Sender<ExecControl>,
}

/// Bytes coming out of the sandbox; the channel's end is the end of the data.
pub type ByteReceiver = mpsc::Receiver<Result<Bytes, OpError>>;

/// Bytes going into the sandbox. The consumer commits only when it sees `None` after all data;
/// an `Err` item aborts the operation and leaves nothing behind.
pub type ByteSender = mpsc::Sender<Result<Bytes, OpError>>;

/// Which part of a file to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadRange {
    /// First byte.
    pub offset: u64,
    /// How many bytes at most; none means to the end.
    pub length: Option<u64>,
}

/// An opened file.
#[derive(Debug)]
pub struct FileRead {
    /// Describes the file as it was when it was opened.
    pub info: FileInfo,
    /// Its bytes from the asked offset, in chunks of at most 64 KiB.
    pub data: ByteReceiver,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// Permission bits of the result.
    pub mode: FileMode,
    /// Whether missing parents are created.
    pub parents: bool,
}

/// Some lines that a sandbox's execs have printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogBatch {
    /// Bytes of output before these lines that were lost because the reader was too slow.
    pub skipped: u64,
    /// Lines without their ends.
    pub lines: Vec<String>,
}

/// A followed log. It is bounded: a slow reader misses lines and is told so, and slows nothing down.
/// Dropping it ends the following; an error is the last item.
pub type LogReceiver = mpsc::Receiver<Result<LogBatch, OpError>>;

/// Counts of a sandbox's processes, taken inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageStats {
    /// Processes seen inside.
    pub pids: u64,
    /// Resident memory of those processes, bytes.
    pub mem_bytes: u64,
    /// CPU time used by those processes, nanoseconds.
    pub cpu_nanos: u64,
}
