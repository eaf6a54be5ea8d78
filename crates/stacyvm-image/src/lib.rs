//! The local image store: root file systems, unpacked once and used read-only by many sandboxes.
//!
//! Owns names, import, listing and removal, and the safe unpacking of what strangers packed; the
//! rules of unpacking stand in MATERIALIZATION.md. Knows no provider, no network and no async:
//! every call blocks. Its one rule: an image is visible under its name only when it is whole.
//! Linux only, because unpacking rests on `openat2`.
#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

mod error;
mod name;
mod prepare;
mod store;
mod unpack;

pub use error::ImageError;
pub use name::ImageName;
pub use store::{Image, ImageStore, Progress};
pub use unpack::{Limits, Skipped};
