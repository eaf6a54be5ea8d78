//! The public contract: every type that a client, the store or two rooms of the server share.
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
mod quota;
mod sandbox;
mod timestamp;
mod vcpus;

pub use cidr::{Cidr, ParseCidrError};
pub use domain::{DomainPattern, HostName, ParseDomainError};
pub use duration::{GoDuration, ParseDurationError};
pub use error::{ApiError, ErrorCode};
pub use event::{Event, EventData, EventId, EventType, EventTypes, EventValue, ParseEventError};
pub use exec::{
    ExecId, ExecInfo, ExecMode, ExecRequest, ExecResponse, ExecState, ExitReason, OutputStream,
    ParseExecIdError, StreamLine,
};
pub use file::{FileInfo, FileMode, ParseModeError};
pub use id::{OwnerId, ParseIdError, SandboxId};
pub use image::{
    ImageDetails, ImageInfo, ImageLayer, ImageSettings, ImagesRemoved, PruneRequest, PullLine,
    PullRequest, PullStage, PulledImage, TagRequest,
};
pub use network::{NetworkInfo, NetworkRequest, NetworkRules};
pub use preview::{ParsePreviewAccessError, PreviewAccess, PreviewLink, PreviewLinkRequest};
pub use provider::ProviderInfo;
pub use quota::{Quota, QuotaRequest, QuotaSummary};
pub use sandbox::{
    Admission, Isolation, ParseIsolationError, Sandbox, SandboxState, SandboxStats, SpawnRequest,
};
pub use timestamp::Timestamp;
pub use vcpus::{ParseVcpusError, Vcpus};
