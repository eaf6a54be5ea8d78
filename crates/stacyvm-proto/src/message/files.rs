//! Messages of file operations. Paths are absolute inside the sandbox or relative to `/workspace`.

/// One file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Entry {
    /// Absolute inside the sandbox.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    /// Permission bits.
    #[prost(uint32, tag = "3")]
    pub mode: u32,
    /// Whether it is a directory.
    #[prost(bool, tag = "4")]
    pub is_dir: bool,
    /// Whether it is a symbolic link.
    #[prost(bool, tag = "5")]
    pub is_symlink: bool,
    /// Where a link points.
    #[prost(string, optional, tag = "6")]
    pub symlink_target: Option<String>,
    /// Owner's name or number.
    #[prost(string, tag = "7")]
    pub owner: String,
    /// Group's name or number.
    #[prost(string, tag = "8")]
    pub group: String,
    /// Last change of the content, microseconds since 1970.
    #[prost(sint64, tag = "9")]
    pub modified_micros: i64,
}

/// Describe a file; a link itself. Answered by `Entries` with one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stat {
    /// Which.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// List a directory. Answered by `Entries` until `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct List {
    /// Which.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Levels, at least 1.
    #[prost(uint32, tag = "2")]
    pub depth: u32,
}

/// Read a file. Answered by `Opened`, data on channel 1, `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Read {
    /// Which.
    #[prost(string, tag = "1")]
    pub path: String,
    /// First byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Bytes at most; absent means to the end.
    #[prost(uint64, optional, tag = "3")]
    pub length: Option<u64>,
}

/// Replace a file by the data on channel 1, committed at that channel's end. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Write {
    /// Which.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Whether missing parents are made.
    #[prost(bool, tag = "3")]
    pub parents: bool,
}

/// Make a directory and its parents. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Mkdir {
    /// Which.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
}

/// Move, making the target's parents. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Rename {
    /// What.
    #[prost(string, tag = "1")]
    pub from: String,
    /// Where to.
    #[prost(string, tag = "2")]
    pub to: String,
}

/// Remove. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Remove {
    /// What.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Whether a directory goes with all it holds.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
}

/// Change permission bits. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Chmod {
    /// Which.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
}

/// Find paths. Answered by `Paths` until `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Glob {
    /// What they must match.
    #[prost(string, tag = "1")]
    pub pattern: String,
}

/// Pack a directory or file as tar. Answered by `Opened`, data on channel 1, `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ArchiveOut {
    /// Which.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// Unpack the tar on channel 1, complete at that channel's end. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ArchiveIn {
    /// Into which directory.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// Some files.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Entries {
    /// In order.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
}

/// Some paths or lines.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Paths {
    /// In order.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
    /// Bytes of output that a follower of the log was too slow for, before these lines.
    #[prost(uint64, tag = "2")]
    pub skipped: u64,
}

/// Something is open.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Opened {
    /// The file as it was then; absent where there is none to describe.
    #[prost(message, optional, tag = "1")]
    pub entry: Option<Entry>,
}
