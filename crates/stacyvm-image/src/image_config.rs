//! The configuration of an image: how its maker wants it to be run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageError, Platform};

/// The largest configuration, in bytes.
pub(crate) const MAX_CONFIG: u64 = 4 * 1024 * 1024;

/// The settings of an image as its maker wrote them: nothing is checked but their form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Where commands start; absent when the image says nothing.
    pub working_dir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`; absent when the image says nothing.
    pub user: Option<String>,
    /// The program that is started and its first arguments.
    pub entrypoint: Vec<String>,
    /// The command, or the arguments after the entry point.
    pub cmd: Vec<String>,
    /// `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Paths that should be volumes.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that ends the main process.
    pub stop_signal: Option<String>,
}

/// The parts of an image's configuration file that are used here. Its source is the OCI image
/// specification, `config.md`; Docker writes the same.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConfigFile {
    pub(crate) architecture: Option<String>,
    pub(crate) os: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<String>,
    pub(crate) config: Option<Settings>,
    pub(crate) rootfs: Rootfs,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Rootfs {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) diff_ids: Vec<Digest>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Settings {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
}

impl ConfigFile {
    /// Reads a configuration file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        serde_json::from_slice(bytes).map_err(|error| {
            ImageError::Archive(format!(
                "the image's configuration is not readable: {error}"
            ))
        })
    }

    pub(crate) fn platform(&self) -> Platform {
        let this = Platform::of_this_machine();
        // An image that does not say what it is for was made here.
        let stated = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        Platform {
            os: stated(&self.os).unwrap_or(this.os),
            architecture: stated(&self.architecture).unwrap_or(this.architecture),
            variant: stated(&self.variant),
        }
    }

    pub(crate) fn settings(&self) -> ImageConfig {
        let settings = self.config.clone().unwrap_or_default();
        let stated = |value: Option<String>| value.filter(|value| !value.is_empty());
        let keys = |map: Option<BTreeMap<String, serde_json::Value>>| {
            map.unwrap_or_default().into_keys().collect()
        };
        ImageConfig {
            env: settings.env.unwrap_or_default(),
            working_dir: stated(settings.working_dir),
            user: stated(settings.user),
            entrypoint: settings.entrypoint.unwrap_or_default(),
            cmd: settings.cmd.unwrap_or_default(),
            exposed_ports: keys(settings.exposed_ports),
            volumes: keys(settings.volumes),
            labels: settings.labels.unwrap_or_default(),
            stop_signal: stated(settings.stop_signal),
        }
    }
}
