//! Certificates from an ACME server (RFC 8555), proved by records in DNS (8.4): the only proof
//! that a certificate for every name below a domain can have.
//!
//! The account and the newest certificate with its key are kept in the data directory, for their
//! owner alone. A new one is asked for when two thirds of the old one's life are over, or the
//! names have changed; after a failure again and again, ever more slowly, for servers count.

mod client;
mod order;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use stacyvm_types::Timestamp;

use super::pair::{self, Current};
use super::validity;
use crate::chain::Chain;
use crate::private_file;

/// The first pause after a failure; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 60 * 60);
/// The wall clock is looked at this often, because it may be set, and machines sleep.
const LOOK: Duration = Duration::from_secs(60 * 60);
/// How long one attempt may take beside its hooks.
const ATTEMPT: Duration = Duration::from_secs(10 * 60);

/// From whom certificates come, and for which names.
#[derive(Clone, Debug)]
pub struct AcmeSettings {
    /// The server's directory.
    pub directory: String,
    /// Whom it may write to; empty for nobody.
    pub email: String,
    /// The names, `*.example.org` for all below one.
    pub domains: Vec<String>,
    /// Puts the records and takes them away.
    pub hook: PathBuf,
    /// How long the hook may take each time.
    pub hook_timeout: Duration,
    /// A file in PEM with the authority of the server's own certificate; none means the system's.
    pub root: Option<PathBuf>,
    /// Where account and certificate are kept.
    pub kept: PathBuf,
}

/// Gets certificates and keeps them fresh.
#[derive(Debug)]
pub struct Acme {
    settings: AcmeSettings,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The server does not answer, or does not want to.
    #[error("the ACME server: cannot {0}")]
    Server(&'static str, #[source] instant_acme::Error),
    /// The server does not take the proof.
    #[error("the ACME server did not accept the records for {0}")]
    NotProved(String),
    /// The record cannot be put.
    #[error(transparent)]
    Hook(#[from] super::HookError),
    /// What came is no certificate.
    #[error("the ACME server sent a certificate that cannot be used")]
    Unusable(#[source] super::PairError),
    /// The request cannot be made.
    #[error("cannot make the request")]
    Request(#[source] rcgen::Error),
    /// A file cannot be read or written.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It took too long.
    #[error("it took longer than {0:?}")]
    Slow(Duration),
}

/// A certificate with its key, as it is kept: in one file, so that they fit.
#[derive(Serialize, Deserialize)]
struct Kept {
    directory: String,
    domains: Vec<String>,
    chain: String,
    key: String,
}

impl Acme {
    /// Asks nobody for anything yet.
    pub fn new(settings: AcmeSettings) -> Self {
        Self { settings }
    }

    fn certificate(&self) -> PathBuf {
        self.settings.kept.join("certificate.json")
    }

    fn account(&self) -> PathBuf {
        // An account is one server's.
        let server = digest(&SHA256, self.settings.directory.as_bytes());
        let server: String = server.as_ref()[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.settings.kept.join(format!("account-{server}.json"))
    }

    /// The certificate of an earlier start, if it is for the same names.
    pub(super) fn kept(&self) -> Option<CertifiedKey> {
        let kept = self.read()?;
        pair::from_pem(kept.chain.as_bytes(), kept.key.as_bytes()).ok()
    }

    fn read(&self) -> Option<Kept> {
        let bytes = std::fs::read(self.certificate()).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        let same =
            kept.domains == self.settings.domains && kept.directory == self.settings.directory;
        same.then_some(kept)
    }

    /// When the next one is due; none when it is due now.
    fn due(&self) -> Option<Timestamp> {
        let kept = self.read()?;
        let first = CertificateDer::from_pem_slice(kept.chain.as_bytes()).ok()?;
        Some(validity::of(&first)?.renewal())
    }

    /// Gets one whenever it is due, for ever.
    pub(super) async fn renew(&self, current: &Arc<Current>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let wait = self.due().map(|due| due.saturating_since(Timestamp::now()));
            match wait {
                Some(wait) if !wait.is_zero() => {
                    tokio::time::sleep(wait.min(LOOK)).await;
                    continue;
                }
                _ => {}
            }
            let domains = self.settings.domains.join(" ");
            match self.obtain().await {
                Ok(pair) => {
                    current.replace(pair);
                    pause = FIRST_PAUSE;
                    tracing::info!(%domains, "certificate of previews obtained");
                }
                Err(error) => {
                    tracing::warn!(
                        %domains,
                        error = %Chain(&error),
                        again_in = ?pause,
                        "no new certificate of previews, the old one stays while there is one"
                    );
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Gets one now and keeps it.
    pub(super) async fn obtain(&self) -> Result<CertifiedKey, AcmeError> {
        let settings = &self.settings;
        let hooks = settings.hook_timeout * 2 * u32::try_from(settings.domains.len()).unwrap_or(1);
        let limit = ATTEMPT + hooks;
        let account = self.account();
        let ordering = order::order(settings, &account);
        let (chain, key) = tokio::time::timeout(limit, ordering)
            .await
            .map_err(|_| AcmeError::Slow(limit))??;
        let pair = pair::from_pem(chain.as_bytes(), key.as_bytes()).map_err(AcmeError::Unusable)?;
        let kept = Kept {
            directory: settings.directory.clone(),
            domains: settings.domains.clone(),
            chain,
            key,
        };
        let bytes = serde_json::to_vec(&kept).expect("texts are always JSON");
        write(&self.certificate(), &bytes)?;
        Ok(pair)
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), AcmeError> {
    private_file::replace(path, bytes).map_err(|source| AcmeError::File {
        step: "write",
        path: path.to_owned(),
        source,
    })
}

/// Up to a quarter more, so that servers that failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + rand::random::<f64>() / 4.0)
}

#[cfg(test)]
mod tests;
