//! What must survive the server, in SQLite.
//!
//! Owns the record of every living sandbox, every id ever given out and the idempotency keys of
//! a day. Knows nothing of providers or HTTP. Its one rule: a call that returned success is in
//! the database for good, whatever becomes of the process.
#![forbid(unsafe_code)]

mod error;
mod record;
mod sqlite;
mod store;

pub use error::StoreError;
pub use record::{IdempotencyClaim, IdempotencyHit, IntentOutcome, SandboxRecord, StoredState};
pub use store::Store;
