//! What the tests of several crates share: skips that are counted, the programs that tests start,
//! namespaces, and waiting for a condition.
//!
//! A crate names it under `[dev-dependencies]` only, which `cargo xtask layers` checks; it uses no
//! other crate of ours, so that every crate's tests can use it. Its functions panic where a test
//! would: they are called by tests alone.
#![forbid(unsafe_code)]

mod namespaces;
mod programs;
mod requirements;
mod skip;
mod wait;

pub use namespaces::{Entered, NetworkNamespace, on_small_disk};
pub use programs::{agent, launcher};
pub use requirements::{has_program, is_root, programs_or_skip, root_or_skip};
pub use skip::{SKIPPED_TESTS, skip, skip_line};
pub use wait::{WAIT_TIMEOUT, eventually, until, wait_until, wait_within};
