//! The host's end of the agent protocol: one connection to one agent, many operations at once.
//!
//! This crate owns the types of operations (`ExecSpec`, `ExecEvent`, …) that the provider traits use
//! too. It knows no provider and no HTTP.
#![forbid(unsafe_code)]

mod agent;
mod attach;
mod convert;
mod exec;
mod files;
mod forward;
mod link;
mod logs;
mod ops;
mod unary;

pub use agent::Agent;
pub use link::link;
pub use ops::{
    Attached, ByteReceiver, ByteSender, Configure, Credentials, ExecControl, ExecEvent, ExecExit,
    ExecRecord, ExecSession, ExecSpec, FileRead, LogBatch, LogReceiver, OnDisconnect, OpError,
    ReadRange, Signal, TtySize, UsageStats, WriteOptions,
};
