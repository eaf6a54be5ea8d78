//! Pulling an image from a registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use crate::{Image, ImageError, Platform, Registries};

/// How an image is pulled.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// For which processor; this machine's by default.
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
    /// How often a request, or a layer that makes no progress, is tried, at least once.
    pub attempts: u32,
    /// Ends the pull early when it is told to.
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

/// When the registry is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only when no image of this name and platform is there.
    #[default]
    Missing,
    /// Always: the name may stand for another image by now. What is there is not fetched again.
    Always,
}

/// A switch that ends a pull. Clones are the same switch.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends what looks at this switch, soon.
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

/// What a pull is at. Told from several threads, many times a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PullProgress {
    /// The registry said what the image consists of.
    Resolved {
        /// The digest of its manifest.
        digest: String,
        /// How many layers it has.
        layers: usize,
        /// Bytes of all its layers, compressed.
        bytes: u64,
    },
    /// Something of a layer changed.
    Layer {
        /// The digest of the compressed layer.
        digest: String,
        /// Bytes that it has, compressed.
        size: u64,
        /// Where it is.
        #[serde(flatten)]
        stage: LayerStage,
    },
}

/// Where a layer is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum LayerStage {
    /// It was there already.
    Cached,
    /// Somebody else fetches it.
    Waiting,
    /// It comes in.
    Downloading {
        /// Bytes that are there.
        done: u64,
    },
    /// The connection was cut, or the registry failed; tried again after a pause.
    Retrying {
        /// Which attempt comes next, from two.
        attempt: u32,
    },
    /// All bytes are there and have the right digest.
    Unpacking {
        /// Compressed bytes unpacked.
        done: u64,
    },
    /// It is in the store.
    Done,
}

/// What a pull came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Whether it was there already, whole.
    pub cached: bool,
    /// Bytes that came over the network for layers.
    pub downloaded: u64,
}
