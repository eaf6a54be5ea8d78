//! The real agent program, on a directory of its own, asked through the real client.
#![allow(clippy::unwrap_used)]

mod commands;
mod detached;
mod files;
mod harness;
mod peers;
mod prepared;
mod processes;
mod program;
mod stdio;
mod streams;
mod terminals;
