//! The part of packet filtering that all providers with a network share: which address ranges are
//! closed to sandboxes, how packets are rejected, how rules are loaded into the kernel, and how they
//! are put back after something else on the machine removed them.
//!
//! Each provider writes a table of its own, because it connects its sandboxes in its own way; this
//! crate knows no provider. Its one rule: a table is replaced in one transaction, so that the kernel
//! never has half of it.
#![forbid(unsafe_code)]

mod error;
mod guard;
mod nft;
mod ranges;
mod rules;

pub use error::FirewallError;
pub use guard::{Guard, Restored, restore};
pub use nft::{TABLE_PREFIX, apply, is_loaded, list, removal_commands};
pub use ranges::Ranges;
pub use rules::{count_connections, judge_ranges, refuse};
