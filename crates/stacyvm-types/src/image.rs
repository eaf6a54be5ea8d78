//! Images as clients see them: what there is, what becomes of a pull, what was removed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ApiError, Timestamp};

/// An image that is there, in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageInfo {
    /// Its short name, such as `python:3.12`; the id of one whose name went to another.
    pub name: String,
    /// The digest of its configuration: the same for the same content.
    pub id: String,
    /// The digest by which it is known where it came from.
    pub digest: String,
    /// Bytes of all its files. Layers that several images share count in each.
    pub size: u64,
    /// Files, directories and links.
    pub entries: u64,
    /// How many layers it has.
    pub layers: u64,
    /// What it is for: `linux/amd64`.
    pub platform: String,
    /// When it came here.
    pub created: Timestamp,
}

/// How an image wants to be run, as its maker wrote it.
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
    /// Places that want a volume.
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

/// All that is known about an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageDetails {
    /// The line.
    #[serde(flatten)]
    pub image: ImageInfo,
    /// Every name that stands for it, in full.
    pub names: Vec<String>,
    /// What its maker says about when it was made, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// How it wants to be run.
    pub config: ImageSettings,
    /// Its layers, the lowest first.
    pub layer_list: Vec<ImageLayer>,
}

/// A pull that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PullRequest {
    /// As it is written for Docker: `python:3.12`, `ghcr.io/team/tool@sha256:…`.
    pub image: String,
    /// `missing`, the default, asks the registry only when the image is not there; `always` asks
    /// what the name stands for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Answer with lines that say how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// For which provider; the default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// What a pull came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PulledImage {
    /// The image.
    pub image: ImageInfo,
    /// Whether it was there already, whole.
    pub cached: bool,
    /// Bytes that came over the network for layers.
    pub downloaded: u64,
}

/// Where a layer is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PullStage {
    /// It was there already.
    Cached,
    /// Another pull fetches it.
    Waiting,
    /// It comes in.
    Downloading,
    /// The connection was cut, or the registry failed; tried again after a pause.
    Retrying,
    /// All of it is there and verified, and is unpacked.
    Unpacking,
    /// It is there.
    Done,
}

/// One line of a streamed pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum PullLine {
    /// The registry said what the image consists of.
    Resolved {
        /// The digest of its manifest.
        digest: String,
        /// How many layers it has.
        layers: u64,
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
        stage: PullStage,
        /// Bytes of it that this stage has done.
        done: u64,
    },
    /// The last line of one that went well.
    Done(PulledImage),
    /// The last line of one that did not.
    Error {
        /// Why.
        error: ApiError,
    },
}

/// Which images a prune takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct PruneRequest {
    /// Also images that have a name, when no sandbox uses them.
    pub all: bool,
    /// Tell what would be removed, and remove nothing.
    pub dry_run: bool,
    /// Of which provider; the default one when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// A further name for an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TagRequest {
    /// The image, by a name or its id.
    pub image: String,
    /// The name that it gets beside those it has.
    pub name: String,
    /// Of which provider; the default one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImagesRemoved {
    /// Names that stand for nothing now.
    pub names: Vec<String>,
    /// Images, by id.
    pub images: Vec<String>,
    /// Layers, by the digest of their uncompressed tar.
    pub layers: Vec<String>,
    /// Bytes of the files that are gone.
    pub freed: u64,
}
