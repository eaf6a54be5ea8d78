//! What can go wrong with an image.

use std::io;

/// Why an operation on the image store failed. Messages name files only as the caller named them.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is not one that an image can have.
    #[error("invalid image name {name:?}: {reason}")]
    Name {
        /// What was given, cut when long.
        name: String,
        /// What is wrong with it, and what a name looks like.
        reason: &'static str,
    },
    /// No image has this name.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// The name is taken.
    #[error("image {0:?} exists already, remove it first or import under another name")]
    Exists(String),
    /// A sandbox is made from it.
    #[error("image {0:?} is in use by a sandbox")]
    InUse(String),
    /// The archive is broken, hostile, or no root file system.
    #[error("{0}")]
    Archive(String),
    /// The archive is larger than allowed.
    #[error("the archive is too large: {0}")]
    Limit(String),
    /// The disk, or the right to use it, is missing.
    #[error("{step}")]
    Io {
        /// Which step, in words a person understands.
        step: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    /// Makes an error of a failed step.
    pub(crate) fn io<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            step,
            source: source.into(),
        }
    }
}
