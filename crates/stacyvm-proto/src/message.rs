//! The messages of generation 1, as protocol buffers (proto3).
//!
//! Their frozen description is `schema/generation-1.txt`; a test compares the two by bytes. Tags
//! are never used twice, fields are only ever added. Types that carry values of variables,
//! arguments or contents keep them out of `Debug`.

mod exec;
mod files;

pub use exec::{
    Attach, Control, Exec, ExecInfo, ExecInfos, Execs, Exit, ExitCause, Kill, Resumed, SendSignal,
    Started, Tell, TerminalSize, control,
};
pub use files::{
    ArchiveIn, ArchiveOut, Chmod, Entries, Entry, Glob, List, Mkdir, Opened, Paths, Read, Remove,
    Rename, Stat, Write,
};

use std::collections::BTreeMap;
use std::fmt;

/// Why something failed: a closed set, the same on every side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Code {
    /// Anything else; also what an unknown number is read as.
    Failed = 0,
    /// The path, user or exec does not exist.
    NotFound = 1,
    /// The request is malformed or contradictory.
    Invalid = 2,
    /// Permissions forbid it.
    Denied = 3,
    /// Something is in the way.
    Conflict = 4,
    /// A limit was hit.
    Limit = 5,
    /// This agent cannot do it.
    Unsupported = 6,
    /// What the request is about has ended.
    Gone = 7,
}

/// A failed request.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Failure {
    /// The kind of failure ([`Code`]).
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    /// A message for a person; it contains no path of the host.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// The sandbox's defaults for commands; kept by the agent until the next one comes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub struct Configure {
    /// Variables of every command.
    #[prost(btree_map = "string, string", tag = "1")]
    pub env: BTreeMap<String, String>,
    /// The user of commands that name none.
    #[prost(string, optional, tag = "2")]
    pub user: Option<String>,
    /// The directory of commands that name none.
    #[prost(string, optional, tag = "3")]
    pub workdir: Option<String>,
}

impl fmt::Debug for Configure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configure")
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("user", &self.user)
            .field("workdir", &self.workdir)
            .finish()
    }
}

/// The first message of the connecting side.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Hello {
    /// The oldest generation that the side speaks.
    #[prost(uint32, tag = "1")]
    pub generation_min: u32,
    /// The newest generation that the side speaks.
    #[prost(uint32, tag = "2")]
    pub generation_max: u32,
    /// Name and version, for logs.
    #[prost(string, tag = "3")]
    pub program: String,
    /// New defaults; absent leaves the present ones.
    #[prost(message, optional, tag = "4")]
    pub configure: Option<Configure>,
}

/// The accepting side's answer to the hello.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HelloReply {
    /// The generation that both sides use from here on.
    #[prost(uint32, tag = "1")]
    pub generation: u32,
    /// Name and version, for logs.
    #[prost(string, tag = "2")]
    pub program: String,
    /// Capabilities of this agent beyond the generation's minimum.
    #[prost(string, repeated, tag = "3")]
    pub capabilities: Vec<String>,
    /// Set when the agent refuses the connection, which then ends.
    #[prost(message, optional, tag = "4")]
    pub refused: Option<Failure>,
}

/// The message that opens a stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Open {
    /// The request. An agent that does not know it decodes none and answers `Unsupported`.
    #[prost(
        oneof = "Request",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19"
    )]
    pub request: Option<Request>,
}

/// All requests.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Request {
    /// Run a command.
    #[prost(message, tag = "1")]
    Exec(Exec),
    /// Describe a file.
    #[prost(message, tag = "2")]
    Stat(Stat),
    /// List a directory.
    #[prost(message, tag = "3")]
    List(List),
    /// Read a file.
    #[prost(message, tag = "4")]
    Read(Read),
    /// Replace a file.
    #[prost(message, tag = "5")]
    Write(Write),
    /// Make a directory.
    #[prost(message, tag = "6")]
    Mkdir(Mkdir),
    /// Move something.
    #[prost(message, tag = "7")]
    Rename(Rename),
    /// Remove something.
    #[prost(message, tag = "8")]
    Remove(Remove),
    /// Change permission bits.
    #[prost(message, tag = "9")]
    Chmod(Chmod),
    /// Find paths by pattern.
    #[prost(message, tag = "10")]
    Glob(Glob),
    /// Pack a directory.
    #[prost(message, tag = "11")]
    ArchiveOut(ArchiveOut),
    /// Unpack into a directory.
    #[prost(message, tag = "12")]
    ArchiveIn(ArchiveIn),
    /// Connect to a port inside.
    #[prost(message, tag = "13")]
    Forward(Forward),
    /// The last lines that commands printed.
    #[prost(message, tag = "14")]
    Logs(Logs),
    /// Count processes, memory and CPU time.
    #[prost(message, tag = "15")]
    Usage(Usage),
    /// End everything, the agent included.
    #[prost(message, tag = "16")]
    Shutdown(Shutdown),
    /// List commands.
    #[prost(message, tag = "17")]
    Execs(Execs),
    /// Follow a detached command.
    #[prost(message, tag = "18")]
    Attach(Attach),
    /// Send a control or input to a command.
    #[prost(message, tag = "19")]
    Tell(Tell),
}

/// Connects to a TCP port on the sandbox's loopback; data both ways on channel 1.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Forward {
    /// The port, 1 to 65535.
    #[prost(uint32, tag = "1")]
    pub port: u32,
}

/// Asks for log lines.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Logs {
    /// The most lines to send first.
    #[prost(uint32, tag = "1")]
    pub lines: u32,
    /// Whether every later line is sent too, until the stream is reset. Only for agents that announce
    /// `logs-follow`; others answer with the first lines alone.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// Asks for counts.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Usage {}

/// Asks the agent to end all processes and itself.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Shutdown {
    /// Time between SIGTERM and SIGKILL, milliseconds.
    #[prost(uint64, tag = "1")]
    pub grace_ms: u64,
}

/// Success without further content.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Done {}

/// Counts of the sandbox's processes.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Counts {
    /// Number of processes.
    #[prost(uint64, tag = "1")]
    pub pids: u64,
    /// Resident memory, bytes.
    #[prost(uint64, tag = "2")]
    pub mem_bytes: u64,
    /// CPU time, nanoseconds.
    #[prost(uint64, tag = "3")]
    pub cpu_nanos: u64,
}

/// A message from the accepting side.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// The answer; an unknown one is skipped.
    #[prost(oneof = "Answer", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")]
    pub answer: Option<Answer>,
}

/// All answers.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    /// It failed; the stream ends.
    #[prost(message, tag = "1")]
    Failure(Failure),
    /// It succeeded; the stream ends.
    #[prost(message, tag = "2")]
    Done(Done),
    /// The command runs.
    #[prost(message, tag = "3")]
    Started(Started),
    /// The command ended; the stream ends.
    #[prost(message, tag = "4")]
    Exit(Exit),
    /// Some files; more may follow until `Done`.
    #[prost(message, tag = "5")]
    Entries(Entries),
    /// Some paths or lines; more may follow until `Done`.
    #[prost(message, tag = "6")]
    Paths(Paths),
    /// The file is open or the port is connected; data follows on channel 1 until `Done`.
    #[prost(message, tag = "7")]
    Opened(Opened),
    /// Counts; the stream ends.
    #[prost(message, tag = "8")]
    Counts(Counts),
    /// Some commands; more may follow until `Done`.
    #[prost(message, tag = "9")]
    Execs(ExecInfos),
    /// Where the next output begins; sent before the first output and after every gap.
    #[prost(message, tag = "10")]
    Resumed(Resumed),
}
