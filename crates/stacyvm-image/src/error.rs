//! What can go wrong with an image.

use std::io;

/// Why an operation on images failed. Messages name files only as the caller named them.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is not one that an image can have.
    #[error("invalid image name {name:?}: {reason}")]
    Name {
        /// The name as given, cut when it is long.
        name: String,
        /// What is wrong with it, and what a name looks like.
        reason: &'static str,
    },
    /// No image in the store has this name.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// The name is taken.
    #[error("image {0:?} exists already, remove it first or import under another name")]
    Exists(String),
    /// A sandbox uses the image, or is about to be made from it.
    #[error("image {0:?} is in use by a sandbox")]
    InUse(String),
    /// The archive is broken, hostile, or no root file system.
    #[error("{0}")]
    Archive(String),
    /// The archive is larger than allowed.
    #[error("the archive is too large: {0}")]
    Limit(String),
    /// The registry has no such image or tag.
    #[error("image {image:?} not found in {registry}")]
    Unknown {
        /// What was asked for.
        image: String,
        /// The registry that answered.
        registry: String,
    },
    /// The registry demands a login.
    #[error(
        "{registry} refuses {image:?} without a login: the image may not exist, or \"docker login {registry}\" may help"
    )]
    LoginNeeded {
        /// What was asked for.
        image: String,
        /// The registry.
        registry: String,
    },
    /// The registry does not accept the credentials, or they do not suffice.
    #[error(
        "{registry} does not accept the credentials for {image:?}: run \"docker login {registry}\""
    )]
    LoginRefused {
        /// What was asked for.
        image: String,
        /// The registry.
        registry: String,
    },
    /// The credentials cannot be read.
    #[error("the credentials for {registry} cannot be read: {reason}")]
    Credentials {
        /// The registry.
        registry: String,
        /// What is wrong, without any secret.
        reason: String,
    },
    /// The registry cannot be reached, or its answer is not that of a registry.
    #[error("{registry} cannot be used: {reason}")]
    Registry {
        /// The registry, or the mirror.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// A server that only the image's name, or a registry, named does not answer as a registry. The
    /// message does not say what is there, or whether anything is; the cause does, and is for the log.
    #[error("{registry} cannot be used: {reason}")]
    Unanswered {
        /// The registry.
        registry: String,
        /// The reason, fit for any client.
        reason: String,
        /// What happened.
        #[source]
        detail: HiddenDetail,
    },
    /// The registry limits requests, and there were too many.
    #[error(
        "{registry} has had too many requests: wait, or run \"docker login {registry}\" for a higher limit"
    )]
    TooManyRequests {
        /// The registry.
        registry: String,
    },
    /// Content does not have the digest that it should have.
    #[error("{what} is damaged: expected {expected}, got {got}")]
    Digest {
        /// The content, in words.
        what: &'static str,
        /// The digest that was named.
        expected: String,
        /// The digest of the content.
        got: String,
    },
    /// The image does not exist for the wanted platform.
    #[error("image {image:?} is not there for {wanted}, only for {available}")]
    Platform {
        /// What was asked for.
        image: String,
        /// The wanted platform.
        wanted: String,
        /// The platforms that it exists for, separated by commas.
        available: String,
    },
    /// The disk is full.
    #[error(
        "no space left on the disk to {step}: run \"stacyvm image prune\", or make room in the data directory"
    )]
    DiskFull {
        /// The step that failed.
        step: &'static str,
    },
    /// The caller cancelled the pull.
    #[error("the pull was cancelled")]
    Cancelled,
    /// The disk failed, or this process may not use it.
    #[error("{step}")]
    Io {
        /// The step that failed, for a person to read.
        step: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// What happened when a server did not answer. For the operator's log, and not for the client that
/// named the server: it tells an open port from a closed one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HiddenDetail(pub(crate) String);

impl ImageError {
    /// Makes an error of a failed step.
    pub(crate) fn io<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| {
            let source = source.into();
            match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::DiskFull { step }
                }
                _ => Self::Io { step, source },
            }
        }
    }
}
