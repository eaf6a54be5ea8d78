//! The front door from outside: a real listener, the real orchestrator, an in-memory store.
#![allow(clippy::unwrap_used)]

mod access;
mod archives;
mod bad_days;
mod contract;
mod contract_access;
mod contract_archives;
mod contract_exec;
mod contract_files;
mod contract_sandbox;
mod contract_system;
mod contract_transport;
mod crowds;
mod doors;
mod events;
mod exec;
mod execs;
mod fake;
mod files;
mod http;
mod limits;
mod links;
mod logging;
mod logs;
mod mock;
mod openapi;
mod preview;
mod sandboxes;
mod slow_clients;
mod support;
mod system;
mod tickets;
mod transport;
mod ws;
