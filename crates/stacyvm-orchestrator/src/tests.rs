//! The whole orchestrator over a backend that can be slow, fail, hang and vanish on demand.

mod admission;
mod away;
mod crash;
mod events;
mod exec;
mod expiry;
mod fake;
mod images;
mod keys;
mod life;
mod network;
mod paused;
mod queue;
mod quotas;
mod reconcile;
mod selection;
mod server;
mod support;
