//! Messages of running commands.

use std::collections::BTreeMap;
use std::fmt;

/// A terminal's size.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TerminalSize {
    /// Columns, 1 to 65535.
    #[prost(uint32, tag = "1")]
    pub cols: u32,
    /// Rows, 1 to 65535.
    #[prost(uint32, tag = "2")]
    pub rows: u32,
}

/// Runs a command. Its input is data on channel 1; its output comes back on channel 1 and, without
/// a terminal, its errors on channel 2.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct Exec {
    /// Program and arguments.
    #[prost(string, repeated, tag = "1")]
    pub argv: Vec<String>,
    /// Variables that are added to the defaults.
    #[prost(btree_map = "string, string", tag = "2")]
    pub env: BTreeMap<String, String>,
    /// The directory to run in; absent means the sandbox's default.
    #[prost(string, optional, tag = "3")]
    pub workdir: Option<String>,
    /// `name`, `uid` or `uid:gid`; absent means the sandbox's default.
    #[prost(string, optional, tag = "4")]
    pub user: Option<String>,
    /// Whether the command gets input.
    #[prost(bool, tag = "5")]
    pub stdin: bool,
    /// A terminal instead of pipes.
    #[prost(message, optional, tag = "6")]
    pub tty: Option<TerminalSize>,
    /// Time after which the whole process tree is killed, microseconds; absent means never.
    #[prost(uint64, optional, tag = "7")]
    pub timeout_micros: Option<u64>,
    /// Whether it may outlive the stream, so that its output is recorded. The frozen schema calls this
    /// field `survive`; names are not on the wire.
    #[prost(bool, tag = "8")]
    pub detached: bool,
    /// Whether processes that it left behind are killed when it ends.
    #[prost(bool, tag = "9")]
    pub kill_orphans: bool,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("program", &self.argv.first())
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("workdir", &self.workdir)
            .field("user", &self.user)
            .field("timeout_micros", &self.timeout_micros)
            .finish_non_exhaustive()
    }
}

/// Answers that the command has been started.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Started {
    /// The command's number, unique within the sandbox.
    #[prost(uint64, tag = "1")]
    pub exec_id: u64,
    /// Its process id inside; 0 when the program could not be started and only an exit follows.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
}

/// Why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ExitCause {
    /// It exited by itself.
    Exit = 0,
    /// A signal ended it.
    Signal = 1,
    /// Its deadline passed.
    Timeout = 2,
    /// The memory limit was hit.
    Oom = 3,
    /// The agent was told to end.
    Shutdown = 4,
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Exit {
    /// The exit code, 0 to 255.
    #[prost(int32, tag = "1")]
    pub exit_code: i32,
    /// The signal that ended it.
    #[prost(int32, optional, tag = "2")]
    pub signal: Option<i32>,
    /// Why it ended ([`ExitCause`]).
    #[prost(enumeration = "ExitCause", tag = "3")]
    pub cause: i32,
    /// Time from start to end, nanoseconds.
    #[prost(uint64, tag = "4")]
    pub duration_nanos: u64,
}

/// A message from the connecting side on a command's stream. End of input is the end of channel 1.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Control {
    /// One of the controls; an unknown one is skipped.
    #[prost(oneof = "control::Control", tags = "1, 2, 3")]
    pub control: Option<control::Control>,
}

/// The controls of a command.
pub mod control {
    /// One control.
    #[derive(Clone, Copy, PartialEq, Eq, prost::Oneof)]
    pub enum Control {
        /// A new terminal size.
        #[prost(message, tag = "1")]
        Resize(super::TerminalSize),
        /// A signal to its process group.
        #[prost(message, tag = "2")]
        Signal(super::SendSignal),
        /// Kill its whole tree.
        #[prost(message, tag = "3")]
        Kill(super::Kill),
    }
}

/// A signal.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SendSignal {
    /// The signal's Linux number.
    #[prost(int32, tag = "1")]
    pub number: i32,
}

/// Kills the whole process tree.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Kill {}

/// Asks for the commands that the agent knows: those that run, and detached ones that have ended.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Execs {
    /// The number of one command; absent means all, oldest first.
    #[prost(uint64, optional, tag = "1")]
    pub exec_id: Option<u64>,
}

/// Follows a detached command. Its output comes as data, as for `Exec`; the stream takes the same
/// input and controls as the one that started the command.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Attach {
    /// The command's number.
    #[prost(uint64, tag = "1")]
    pub exec_id: u64,
    /// Offset of the first byte of output to send, counted over both streams from the start.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Whether to wait for later output and the exit; otherwise only the present output is sent.
    #[prost(bool, tag = "3")]
    pub follow: bool,
    /// Whether to send only the exit and no output.
    #[prost(bool, tag = "4")]
    pub quiet: bool,
}

/// Sends a control or input to a running command.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Tell {
    /// The command's number.
    #[prost(uint64, tag = "1")]
    pub exec_id: u64,
    /// A control to apply.
    #[prost(message, optional, tag = "2")]
    pub control: Option<Control>,
    /// Whether input comes as data on channel 1; the answer is sent when the command has taken it.
    #[prost(bool, tag = "3")]
    pub input: bool,
    /// Whether the command's input ends after that.
    #[prost(bool, tag = "4")]
    pub close: bool,
}

/// Describes one command.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct ExecInfo {
    /// The command's number.
    #[prost(uint64, tag = "1")]
    pub exec_id: u64,
    /// Program and arguments, cut when they are long.
    #[prost(string, repeated, tag = "2")]
    pub argv: Vec<String>,
    /// Its process id inside; 0 when the program could not be started.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// Whether it has a terminal.
    #[prost(bool, tag = "4")]
    pub tty: bool,
    /// Whether it may outlive its stream, so that its output is recorded. The frozen schema calls this
    /// field `kept`; names are not on the wire.
    #[prost(bool, tag = "5")]
    pub detached: bool,
    /// When it started, microseconds since 1970.
    #[prost(sint64, tag = "6")]
    pub started_micros: i64,
    /// How it ended; absent while it runs.
    #[prost(message, optional, tag = "7")]
    pub exit: Option<Exit>,
    /// Offset of the first byte of output that is still retained.
    #[prost(uint64, tag = "8")]
    pub log_start: u64,
    /// Offset after the last byte of output.
    #[prost(uint64, tag = "9")]
    pub log_end: u64,
}

impl fmt::Debug for ExecInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecInfo")
            .field("exec_id", &self.exec_id)
            .field("program", &self.argv.first())
            .field("pid", &self.pid)
            .field("detached", &self.detached)
            .field("exit", &self.exit)
            .finish_non_exhaustive()
    }
}

/// Some commands; more may follow until `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ExecInfos {
    /// The commands.
    #[prost(message, repeated, tag = "1")]
    pub execs: Vec<ExecInfo>,
}

/// Says where the next output begins. Output before it that was asked for is no longer retained.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Resumed {
    /// The offset of the next byte.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
}
