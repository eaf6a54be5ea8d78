//! Values of options that several commands share.

use std::collections::BTreeMap;

use stacyvm_types::{NetworkRequest, NetworkRules};

/// `NAME=VALUE`, as `--env` and `--metadata` take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameValue(String, String);

impl std::str::FromStr for NameValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self(name.to_owned(), value.to_owned())),
            _ => Err("write it as NAME=VALUE".to_owned()),
        }
    }
}

/// The pairs as a map; the last of a name wins. None when there are none.
pub(crate) fn map(pairs: Vec<NameValue>) -> Option<BTreeMap<String, String>> {
    (!pairs.is_empty()).then(|| {
        pairs
            .into_iter()
            .map(|NameValue(name, value)| (name, value))
            .collect()
    })
}

/// What describes a new sandbox; `spawn` and `run` share it.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct SandboxOptions {
    /// Image of the sandbox.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Provider of the sandbox.
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Memory in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory: Option<i64>,
    /// Number of CPU cores, like 2 or 0.5.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) vcpus: Option<f64>,
    /// How much it may write to its disk, in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) disk: Option<i64>,
    /// How long it lives at most, like 30m or 1h30m.
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<String>,
    /// Environment variable for its commands; may be repeated.
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<NameValue>,
    /// Working directory of its commands.
    #[arg(long, short = 'w', value_name = "PATH")]
    pub(crate) workdir: Option<String>,
    /// User that its commands run as.
    #[arg(long, short = 'u', value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Refuse less isolation than this: process, container, userspace-kernel, vm.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) isolation: Option<String>,
    /// Network of the sandbox: none, or bridge for connections to the outside.
    #[arg(long, value_name = "MODE")]
    pub(crate) network: Option<String>,
    /// Let it reach only servers of this name (*.example.org: those below); may be repeated.
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) allow_domain: Vec<String>,
    /// Leave only /workspace and /tmp writable.
    #[arg(long)]
    pub(crate) read_only: bool,
}

impl SandboxOptions {
    /// The request that asks for it.
    pub(crate) fn into_request(self) -> stacyvm_types::SpawnRequest {
        let network = match (self.network, self.allow_domain) {
            (None, domains) if domains.is_empty() => None,
            (Some(mode), domains) if domains.is_empty() => Some(NetworkRequest::Word(mode)),
            (mode, domains) => Some(NetworkRequest::Rules(NetworkRules {
                mode,
                allow_domains: Some(domains),
            })),
        };
        stacyvm_types::SpawnRequest {
            network,
            image: self.image,
            provider: self.provider,
            memory_mb: self.memory,
            vcpus: self.vcpus,
            disk_mb: self.disk,
            ttl: self.ttl,
            env: map(self.env),
            workdir: self.workdir,
            user: self.user,
            isolation: self.isolation,
            read_only_rootfs: self.read_only.then_some(true),
            ..Default::default()
        }
    }
}
