//! Messages of file operations. Paths are absolute inside the sandbox or relative to `/workspace`.

/// One file.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Entry {
    /// Path inside the sandbox, absolute.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Size in bytes.
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

/// Describes a file; a link is not followed. Answered by `Entries` with one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Stat {
    /// Path of the file or directory.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// Lists a directory. Answered by `Entries` until `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct List {
    /// Path of the file or directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// How many levels to list, at least 1.
    #[prost(uint32, tag = "2")]
    pub depth: u32,
}

/// Reads a file. Answered by `Opened`, data on channel 1, `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Read {
    /// Path of the file or directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Offset of the first byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// The most bytes to read; absent means to the end.
    #[prost(uint64, optional, tag = "3")]
    pub length: Option<u64>,
}

/// Replaces a file by the data on channel 1, committed at that channel's end. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Write {
    /// Path of the file or directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Whether missing parent directories are made.
    #[prost(bool, tag = "3")]
    pub parents: bool,
}

/// Makes a directory and its parents. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Mkdir {
    /// Path of the file or directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
}

/// Moves a file or directory, making the destination's parents. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Rename {
    /// Path of the source.
    #[prost(string, tag = "1")]
    pub from: String,
    /// Path of the destination.
    #[prost(string, tag = "2")]
    pub to: String,
}

/// Removes a file or directory. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Remove {
    /// Path of the file or directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Whether a directory is removed with its contents.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
}

/// Changes permission bits. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Chmod {
    /// Path of the file or directory.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
}

/// Finds paths. Answered by `Paths` until `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Glob {
    /// The pattern that paths must match.
    #[prost(string, tag = "1")]
    pub pattern: String,
}

/// Packs a directory or file as tar. Answered by `Opened`, data on channel 1, `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ArchiveOut {
    /// Path of the file or directory.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// Unpacks the tar on channel 1, complete at that channel's end. Answered by `Done`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ArchiveIn {
    /// Path of the directory to unpack into.
    #[prost(string, tag = "1")]
    pub path: String,
}

/// Some files.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Entries {
    /// The files, in order.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
}

/// Some paths or lines.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Paths {
    /// The paths or lines, in order.
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
    /// Bytes of output before these lines that a follower of the log missed because it was too slow.
    #[prost(uint64, tag = "2")]
    pub skipped: u64,
}

/// Answers that a file is open or a port is connected.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Opened {
    /// The file as it was then; absent where there is none to describe.
    #[prost(message, optional, tag = "1")]
    pub entry: Option<Entry>,
}
