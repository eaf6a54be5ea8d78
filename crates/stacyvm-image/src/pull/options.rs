//! How an image is pulled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::{ImageError, Platform, Registries};

/// How an image is pulled.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The processor and system that the image is to be for; this machine's by default.
    pub platform: Platform,
    /// Whether an image that is there already is looked for in the registry.
    pub policy: PullPolicy,
    /// Mirrors, credentials and the like.
    pub registries: Registries,
    /// How many layers are fetched at once, at least one.
    pub parallel: usize,
    /// How long a connection may take to be made, name and TLS included.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing, or next to nothing.
    pub stall_timeout: Duration,
    /// How many times a request, or a layer that makes no progress, is tried, at least once.
    pub attempts: u32,
    /// Ends the pull early when it is cancelled.
    pub cancel: Cancel,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: Platform::default(),
            policy: PullPolicy::Missing,
            registries: Registries::default(),
            parallel: 3,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            attempts: 4,
            cancel: Cancel::default(),
        }
    }
}

/// When the registry is asked for the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only when no image of this name and platform is there.
    #[default]
    Missing,
    /// Always: the name may stand for another image by now. Layers that are there are not fetched again.
    Always,
}

/// A switch that ends a pull. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the pulls that have this switch, soon.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was ended.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<(), ImageError> {
        match self.is_cancelled() {
            true => Err(ImageError::Cancelled),
            false => Ok(()),
        }
    }
}
