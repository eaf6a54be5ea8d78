//! What must survive the server, in SQLite.
//!
//! Owns the record of every living sandbox, every id ever given out, the idempotency keys of a
//! day and the owners' quotas. Knows nothing of providers or HTTP. Its one rule: a call that returned success is in
//! the database for good, whatever becomes of the process.
#![forbid(unsafe_code)]

mod error;
mod quotas;
mod record;
mod sqlite;
mod store;

pub use error::StoreError;
pub use record::{IdempotencyClaim, IdempotencyHit, IntentOutcome, SandboxRecord, StoredState};
pub use store::Store;
