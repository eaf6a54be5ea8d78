//! Byte streams that notice when nothing moves on them.
//!
//! Every connection that StacyVM serves or carries ends when it stands still, and this crate owns
//! how that is measured: [`Activity`] over both directions of a connection, [`StallTimer`] while
//! one side waits for the other. It decides no timeout and opens no connection. Its rule: only
//! bytes that moved count. An error, the end of the file, a flush or a shutdown is no activity, so
//! a peer cannot hold a connection open without sending or taking anything.
#![forbid(unsafe_code)]

mod activity;
mod prefix;
mod stall;
mod write;

pub use activity::{Activity, ActivityStream};
pub use prefix::PrefixedStream;
pub use stall::StallTimer;
pub use write::WriteTimeoutStream;
