//! Images: the local store, pulls from registries, archives, and safe unpacking.
//!
//! Owns names, pulls, import, load, save, listing and removal, and the unpacking of what strangers
//! packed; MATERIALIZATION.md has the rules of that. Knows no provider and no async: every call
//! blocks, and a pull fetches on threads of its own. Its one rule: an image is visible under its
//! name only when it is whole. Linux only, because unpacking rests on `openat2`.
#![forbid(unsafe_code)]
#![cfg(target_os = "linux")]

mod archive_entries;
mod archive_stream;
mod digest;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod image;
mod image_config;
mod image_store;
mod import;
mod load;
mod manifest;
mod merged_layers;
mod overlay;
mod platform;
mod progress;
mod pull;
mod reference;
mod registries;
mod registry;
mod save;
mod store;
mod tar_writer;
mod top_layer;
mod unpack;

pub use digest::Digest;
pub use error::{HiddenDetail, ImageError};
pub use image::{Image, ImageDetails, InUse, LayerDetails, PruneOptions, Removed, StoredImage};
pub use image_config::ImageConfig;
pub use image_store::ImageStore;
pub use platform::Platform;
pub use progress::Progress;
pub use pull::{Cancel, LayerStage, PullOptions, PullPolicy, PullProgress, Pulled};
pub use reference::Reference;
pub use registries::{Credentials, Login, Registries, Secret};
pub use unpack::{Limits, Skipped};
