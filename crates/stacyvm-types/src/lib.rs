//! The public contract: every type that a client, the store or two crates of the server share.
//!
//! Owns names, shapes and their validation. Does no I/O, has no async and knows no backend.
//! Its one rule: a value that exists is valid; parsing happens once, at the edge.
#![forbid(unsafe_code)]

mod cidr;
mod domain;
mod duration;
mod error;
mod event;
mod exec;
mod file;
mod id;
mod image;
mod network;
#[cfg(feature = "openapi")]
mod openapi;
mod preview;
mod provider;
mod public_address;
mod quota;
mod sandbox;
mod system;
mod ticket;
mod timestamp;
mod vcpus;

pub use cidr::{Cidr, ParseCidrError};
pub use domain::{DomainPattern, HostName, ParseDomainError};
pub use duration::{GoDuration, ParseDurationError};
pub use error::{ApiError, ErrorCode};
pub use event::requests::EventsQuery;
pub use event::{Event, EventData, EventId, EventType, EventTypes, EventValue, ParseEventError};
pub use exec::requests::{
    AttachQuery, AttachSocketQuery, OutputEncoding, ParseOutputEncodingError, ResizeRequest,
    SignalName, SignalRequest, StdinQuery, StdinRequest, WaitQuery,
};
pub use exec::socket::{ClientFrame, SocketOptions};
pub use exec::{
    ExecId, ExecInfo, ExecMode, ExecRequest, ExecResponse, ExecState, ExitReason, OutputStream,
    ParseExecIdError, StreamLine,
};
pub use file::requests::{
    ArchiveFormat, ChangeModeRequest, DeleteFileQuery, FileQuery, GlobQuery, ListFilesQuery,
    MakeDirectoryRequest, MoveFileRequest, ParseArchiveFormatError, ReadArchiveQuery,
    WriteFileQuery, WriteFileRequest,
};
pub use file::{FileInfo, FileMode, ParseModeError};
pub use id::{OwnerId, ParseIdError, SandboxId};
pub use image::requests::{ImageArchiveKind, LoadImagesQuery, ProviderQuery, SaveImagesQuery};
pub use image::{
    ImageDetails, ImageInfo, ImageLayer, ImageSettings, ImagesRemoved, PruneRequest, PullLine,
    PullRequest, PullStage, PulledImage, TagRequest,
};
pub use network::{NetworkInfo, NetworkRequest, NetworkRules};
pub use preview::{ParsePreviewAccessError, PreviewAccess, PreviewLink, PreviewLinkRequest};
pub use provider::ProviderInfo;
pub use public_address::{METADATA_ADDRESSES, is_metadata_address, is_public_address};
pub use quota::{Quota, QuotaRequest, QuotaSummary};
pub use sandbox::isolation::{Isolation, ParseIsolationError};
pub use sandbox::requests::{ExtendRequest, ListSandboxesQuery, LogsQuery, PruneResult};
pub use sandbox::state::SandboxState;
pub use sandbox::{Admission, Sandbox, SandboxStats, SpawnRequest};
pub use system::{Health, ProbeStatus, StatusResponse};
pub use ticket::{Ticket, TicketRequest};
pub use timestamp::Timestamp;
pub use vcpus::{ParseVcpusError, Vcpus};
