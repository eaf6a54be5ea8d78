//! What providers with a network have in common: which addresses are nobody's business, how packets
//! are refused, and how rules come into the kernel and stay there.
//!
//! Each provider writes the table of its own, because its sandboxes are connected its own way; this
//! knows no provider. Its one rule: a table is replaced in one go, so that there is no moment with
//! half of it.
#![forbid(unsafe_code)]

mod error;
mod guard;
mod nft;
mod ranges;

pub use error::FirewallError;
pub use guard::Guard;
pub use nft::{TABLE, apply, listed, removal, stands};
pub use ranges::{Ranges, count_connections, judge_ranges, refuse};
