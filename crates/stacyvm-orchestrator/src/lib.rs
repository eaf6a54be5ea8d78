//! The life of every sandbox: admission, intents, tasks, expiry, reconcile, execs.
//!
//! Owns the truth about which sandboxes there are. Knows no concrete provider, no HTTP and no
//! SQL. Its one rule: what is about to be done to a box is written down before it is done.
#![forbid(unsafe_code)]

mod admission;
mod backoff;
mod byte_stream;
mod clock;
mod command;
mod delivery;
mod detached;
mod error;
mod events;
mod exec;
mod expiry;
mod facts;
mod follow;
mod handle;
mod health;
mod images;
mod interactive;
mod keys;
mod lifecycle;
mod lifetime;
mod limit_events;
mod limits;
mod metrics;
mod network;
mod operation_error;
mod orchestrator;
mod ports;
mod provider_events;
mod queue;
mod quotas;
mod reconcile;
mod registry;
mod sandbox;
mod schedules;
mod selection;
mod settings;
mod spawn;
mod state;
#[cfg(test)]
mod tests;
mod upload;

pub use byte_stream::{ByteStream, FileRead};
pub use detached::AttachedExec;
pub use error::{Error, Source, StartError};
pub use events::{EventFilter, Subscription};
pub use exec::RunningExec;
pub use follow::FollowedLogs;
pub use handle::SandboxHandle;
pub use health::ConfiguredProvider;
pub use images::Images;
pub use interactive::Interactive;
pub use metrics::{BUCKET_BOUNDS, MetricsSnapshot, Operation, OperationMetrics};
pub use orchestrator::{Orchestrator, ProviderDetail};
pub use ports::Ports;
pub use settings::{Caller, ListFilter, Settings};
/// The words of operations inside a sandbox that callers need.
pub use stacyvm_provider::ops::{
    ExecControl, ExecEvent, ExecExit, ExecSession, ExecSpec, LogBatch, ReadRange, Signal, TtySize,
    WriteOptions,
};
pub use stacyvm_provider::{ArchiveKind, PortConnection};
pub use upload::{UploadAborted, UploadClosed, UploadData, UploadSender, upload};
