//! Why no certificate came from an ACME server.

use std::path::PathBuf;
use std::time::Duration;

use crate::tls::certificate::CertificateError;
use crate::tls::hook::HookError;

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The server does not answer, or refuses.
    #[error("the ACME server: cannot {0}")]
    Server(&'static str, #[source] instant_acme::Error),
    /// The server did not accept the records.
    #[error("the ACME server did not accept the records for {0}")]
    NotProved(String),
    /// A record cannot be added.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The server sent something that is no certificate.
    #[error("the ACME server sent a certificate that cannot be used")]
    Unusable(#[source] CertificateError),
    /// The request cannot be made.
    #[error("cannot make the request")]
    Request(#[source] rcgen::Error),
    /// A file cannot be read or written.
    #[error("cannot {step} {}", path.display())]
    File {
        /// The step that failed.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The attempt took too long.
    #[error("it took longer than {0:?}")]
    Slow(Duration),
}
