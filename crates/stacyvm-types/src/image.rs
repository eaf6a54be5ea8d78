//! Images as clients see them: listings, pulls, removals.

pub(crate) mod requests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ApiError, Timestamp};

/// An image, as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageInfo {
    /// Its short name, such as `python:3.12`; the id of one whose name went to another.
    pub name: String,
    /// The digest of its configuration: the same for the same content.
    pub id: String,
    /// Its digest in the registry or archive that it came from.
    pub digest: String,
    /// Bytes of all its files. Layers that several images share count in each.
    pub size: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// How many layers it has.
    pub layers: u64,
    /// What it is for: `linux/amd64`.
    pub platform: String,
    /// When it was pulled or loaded.
    pub created: Timestamp,
}

/// The defaults for running an image, as its maker wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ImageSettings {
    /// `NAME=VALUE`; below what a spawn says.
    pub env: Vec<String>,
    /// Where commands start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What is started, before the command's words.
    pub entrypoint: Vec<String>,
    /// The command, or the words after the entry point.
    pub cmd: Vec<String>,
    /// `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Directories meant for volumes.
    pub volumes: Vec<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that ends the main process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageLayer {
    /// The digest of its uncompressed tar.
    pub diff_id: String,
    /// Bytes of its files.
    pub size: u64,
    /// Its files, directories and links.
    pub entries: u64,
}

/// An image with its names, settings and layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageDetails {
    /// The same as in a listing.
    #[serde(flatten)]
    pub image: ImageInfo,
    /// Every name that stands for it, in full.
    pub names: Vec<String>,
    /// When it was built, as its maker wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// The defaults for running it.
    pub config: ImageSettings,
    /// Its layers, the lowest first.
    pub layer_list: Vec<ImageLayer>,
}

/// The body of POST `/images/pull`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::ToSchema),
    schema(as = PullImageRequest)
)]
pub struct PullRequest {
    /// As it is written for Docker: `python:3.12`, `ghcr.io/team/tool@sha256:…`.
    pub image: String,
    /// `missing`, the default, asks the registry only when the image is not there; `always` asks
    /// what the name stands for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Whether to answer with lines of progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// The provider that gets the image; the default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// The result of a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PulledImage {
    /// The image.
    pub image: ImageInfo,
    /// Whether the whole image was present already.
    pub cached: bool,
    /// Bytes that came over the network for layers.
    pub downloaded: u64,
}

/// The stage of a layer in a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PullStage {
    /// It is present already.
    Cached,
    /// Another pull downloads it.
    Waiting,
    /// It is being downloaded.
    Downloading,
    /// The connection was cut, or the registry failed; tried again after a pause.
    Retrying,
    /// It is downloaded and verified, and is being unpacked.
    Unpacking,
    /// It is present.
    Done,
}

/// One line of a streamed pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum PullLine {
    /// The manifest is read: what the image consists of.
    Resolved {
        /// The digest of its manifest.
        digest: String,
        /// How many layers it has.
        layers: u64,
        /// Bytes of all its layers, compressed.
        bytes: u64,
    },
    /// The progress of one layer.
    Layer {
        /// The digest of the compressed layer.
        digest: String,
        /// Bytes that it has, compressed.
        size: u64,
        /// Its stage.
        stage: PullStage,
        /// Bytes that this stage has processed.
        done: u64,
    },
    /// The last line of a pull that succeeded.
    Done(PulledImage),
    /// The last line of a pull that failed.
    Error {
        /// Why it failed.
        error: ApiError,
    },
}

/// The body of POST `/images/prune`: the images that are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::ToSchema),
    schema(as = PruneImagesRequest)
)]
#[serde(default)]
pub struct PruneRequest {
    /// Also images that have a name, when no sandbox uses them.
    pub all: bool,
    /// Only list what would be removed.
    pub dry_run: bool,
    /// The provider whose images are meant; the default one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// The body of POST `/images/tag`: a further name for an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::ToSchema),
    schema(as = TagImageRequest)
)]
pub struct TagRequest {
    /// The image, by a name or its id.
    pub image: String,
    /// The name that it gets beside those it has.
    pub name: String,
    /// The provider whose images are meant; the default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// The images, names and layers that were removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImagesRemoved {
    /// Names that were removed.
    pub names: Vec<String>,
    /// Images, by id.
    pub images: Vec<String>,
    /// Layers, by the digest of their uncompressed tar.
    pub layers: Vec<String>,
    /// Bytes of the files that were removed.
    pub freed: u64,
}
