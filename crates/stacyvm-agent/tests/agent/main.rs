//! The real agent program, on a directory of its own, asked through the real client.
#![allow(clippy::unwrap_used)]

mod commands;
mod files;
mod harness;
mod kept;
mod links;
mod peers;
mod prepared;
mod processes;
mod program;
mod streams;
mod terminals;
