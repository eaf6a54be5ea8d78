//! The real `stacyvm` binary, driven as a user drives it: over HTTP, through its command line, and
//! by killing it. What the API answers in detail is tested in the server's own crate; here stands
//! what only the whole can show.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod harness;

mod bounds;
mod cli;
mod config;
mod crash;
mod detached;
mod disk;
mod docker;
mod events;
mod exec;
mod image;
mod image_api;
mod image_content;
mod image_pull;
mod lifetime;
mod limits;
mod logs;
mod names;
mod network;
mod preview;
mod reach;
mod run;
mod slow;
mod terminal;
