//! Certificates of previews: from files, from an ACME server, or from an authority of this machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use stacyvm_types::GoDuration;

/// Where the certificate of previews comes from; without one they are served in the clear.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PreviewTlsConfig {
    /// A file in PEM: the certificate for `*.{preview_domain}`, then those that vouch for it.
    pub cert: Option<PathBuf>,
    /// A file in PEM with its key.
    pub key: Option<PathBuf>,
    /// Whether the development authority vouches for previews; `stacyvm preview ca install` makes
    /// this machine trust it.
    pub development: bool,
    /// An ACME server that issues it.
    pub acme: AcmeConfig,
}

/// An ACME server; used when there is a hook.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AcmeConfig {
    /// The server's directory.
    pub directory: String,
    /// The address that the server may write mails to; empty means none.
    pub email: String,
    /// Names in the certificate; none means `*.{preview_domain}`.
    pub domains: Vec<String>,
    /// A program that is called with `present NAME VALUE` and `cleanup NAME VALUE`, and puts or
    /// removes that TXT record.
    pub hook: Option<PathBuf>,
    /// How long it may take, until others see the record.
    pub hook_timeout: GoDuration,
    /// A file in PEM with the authority that the server's own certificate is from; none means the
    /// system's authorities.
    pub root: Option<PathBuf>,
}

impl Default for AcmeConfig {
    fn default() -> Self {
        Self {
            directory: "https://acme-v02.api.letsencrypt.org/directory".to_owned(),
            email: String::new(),
            domains: Vec::new(),
            hook: None,
            hook_timeout: GoDuration::from_secs(5 * 60),
            root: None,
        }
    }
}
