//! Hostile tar streams: reading their entries with bounded memory, and writing them beneath a
//! directory.
//!
//! Owns what the agent (archives that a client uploads) and the image store (layers) have in
//! common: headers with their extensions, names, directories on the way to an entry, files, links,
//! modes and times. Which kinds of entries are taken, who owns the files, and what an error says is
//! the caller's. Its one rule: nothing is opened or made through a symbolic link or outside of the
//! root directory, whatever the archive says and whatever other processes change meanwhile. Linux
//! only, because that rests on `openat2`.
#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

pub mod beneath;
mod content;
mod directories;
mod entry;
mod metadata;
mod name;
mod reader;

pub use content::{CopyError, copy_content};
pub use directories::Directories;
pub use entry::{Entry, Kind};
pub use metadata::{set_mode_and_time, set_user_attributes, times};
pub use name::{AbsoluteNames, NameError, clean_name};
pub use reader::{Bounds, ReadError, for_each};
