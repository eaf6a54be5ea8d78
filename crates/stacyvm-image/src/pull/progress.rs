//! What a pull reports while it goes on, and its result.

use serde::Serialize;

use crate::Image;

/// What a pull is doing. Reported by several threads, many times a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum PullProgress {
    /// The registry answered which layers the image has.
    Resolved {
        /// The digest of its manifest.
        digest: String,
        /// How many layers it has.
        layers: usize,
        /// Bytes of all its layers, compressed.
        bytes: u64,
    },
    /// The state of a layer changed.
    Layer {
        /// The digest of the compressed layer.
        digest: String,
        /// Bytes that it has, compressed.
        size: u64,
        /// Its state.
        #[serde(flatten)]
        stage: LayerStage,
    },
}

/// How far a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum LayerStage {
    /// It was there already.
    Cached,
    /// Another thread or process fetches it.
    Waiting,
    /// It is being downloaded.
    Downloading {
        /// Bytes that are there.
        done: u64,
    },
    /// The connection was cut, or the registry failed; tried again after a pause.
    Retrying {
        /// The number of the next attempt, from two.
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

/// The result of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// Whether it was there already, whole.
    pub cached: bool,
    /// Bytes that came over the network for layers.
    pub downloaded: u64,
}
