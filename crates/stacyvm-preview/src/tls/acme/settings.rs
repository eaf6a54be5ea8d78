//! Settings for certificates from an ACME server.

use std::path::PathBuf;
use std::time::Duration;

/// The ACME server, the names of the certificate, and how they are proved.
#[derive(Clone, Debug)]
pub struct AcmeSettings {
    /// The address of the server's directory.
    pub directory: String,
    /// The address that the server may write to; empty for none.
    pub email: String,
    /// The names of the certificate, `*.example.org` for all below one.
    pub domains: Vec<String>,
    /// The program that adds records to DNS and removes them.
    pub hook: PathBuf,
    /// How long the hook may take each time.
    pub hook_timeout: Duration,
    /// A file in PEM with the authority of the server's own certificate; none means the system's.
    pub root: Option<PathBuf>,
    /// The directory in which account and certificate are stored.
    pub storage: PathBuf,
}
