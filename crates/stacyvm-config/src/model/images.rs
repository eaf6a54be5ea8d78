//! The keys of images.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whether a spawn fetches an image that is not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// From its registry.
    #[default]
    Missing,
    /// Never: what a spawn may name is what an operator has brought here.
    Never,
}

/// Images, and the registries that they come from. Logins are those of Docker: the file
/// `config.json` in `$DOCKER_CONFIG`, else in `~/.docker` of the server's user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImagesConfig {
    /// What a name in a request stands for: `alpine:latest: host`.
    pub aliases: BTreeMap<String, String>,
    /// `missing` or `never`.
    pub pull: PullPolicy,
    /// Where else the images of a registry are, asked in this order before the registry itself:
    /// `docker.io: [https://mirror.example.org]`.
    pub mirrors: BTreeMap<String, Mirrors>,
    /// Registries, `HOST[:PORT]`, that may be asked without TLS, and wherever they are.
    pub insecure_registries: Vec<String>,
    /// Registries on this machine or in private networks, `HOST`, `HOST:PORT` or a range of
    /// addresses, that may be asked; mirrors and those without TLS may anyway.
    pub private_registries: Vec<String>,
    /// Token services on other hosts that get a registry's login:
    /// `registry.example.org: auth.example.org`.
    pub token_hosts: BTreeMap<String, Mirrors>,
    /// Files in PEM with authorities to be trusted beside the system's.
    pub certificates: Vec<PathBuf>,
    /// For which platform images are pulled, `linux/arm64`; none means this machine's.
    pub platform: Option<String>,
    /// Layers of one image that are fetched at once.
    pub max_parallel: u32,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        Self {
            aliases: BTreeMap::new(),
            pull: PullPolicy::Missing,
            mirrors: BTreeMap::new(),
            insecure_registries: Vec::new(),
            private_registries: Vec::new(),
            token_hosts: BTreeMap::new(),
            certificates: Vec::new(),
            platform: None,
            max_parallel: 3,
        }
    }
}

/// One mirror, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected an address, or a list of addresses")]
pub enum Mirrors {
    /// As a variable of the environment has it.
    One(String),
    /// In the order in which they are asked.
    Several(Vec<String>),
}

impl Mirrors {
    /// The mirrors, in the order in which they are asked.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(all) => all,
        }
    }
}
