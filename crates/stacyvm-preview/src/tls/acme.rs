//! Certificates from an ACME server (RFC 8555), by the DNS challenge (8.4), the only one for
//! wildcard certificates.
//!
//! The account and the newest certificate with its key are stored in the data directory, readable
//! by their owner alone. A certificate is renewed when two thirds of its lifetime are over, or when
//! the names have changed. After a failure it is tried again, with growing delays, because servers
//! limit the rate.

mod client;
mod error;
mod order;
mod settings;
mod storage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use stacyvm_types::Timestamp;

use super::certificate::{self, CurrentCertificate};
use super::validity;
use crate::error_chain::ErrorChain;

pub use error::AcmeError;
pub use settings::AcmeSettings;
use storage::StoredCertificate;

/// The first delay after a failure; each is twice as long as the one before.
const MIN_RETRY_DELAY: Duration = Duration::from_secs(60);
/// The longest delay.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(6 * 60 * 60);
/// How often the wall clock is checked, because it may be set, and machines sleep.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// How long one attempt may take, without its hooks.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Obtains certificates from an ACME server and renews them.
#[derive(Debug)]
pub struct Acme {
    settings: AcmeSettings,
}

impl Acme {
    /// Certificates by these settings. Sends no request yet.
    pub fn new(settings: AcmeSettings) -> Self {
        Self { settings }
    }

    fn certificate_path(&self) -> PathBuf {
        self.settings.storage.join("certificate.json")
    }

    fn account_path(&self) -> PathBuf {
        // Every server has an account of its own.
        let server = digest(&SHA256, self.settings.directory.as_bytes());
        let server: String = server.as_ref()[..6]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.settings.storage.join(format!("account-{server}.json"))
    }

    /// The stored certificate, if it is for the same names.
    pub(super) fn stored(&self) -> Option<CertifiedKey> {
        let stored = self.read()?;
        certificate::from_pem(stored.chain.as_bytes(), stored.key.as_bytes()).ok()
    }

    fn read(&self) -> Option<StoredCertificate> {
        let bytes = std::fs::read(self.certificate_path()).ok()?;
        let stored: StoredCertificate = serde_json::from_slice(&bytes).ok()?;
        let same =
            stored.domains == self.settings.domains && stored.directory == self.settings.directory;
        same.then_some(stored)
    }

    /// When the stored certificate is due for renewal; none without one.
    fn due(&self) -> Option<Timestamp> {
        let stored = self.read()?;
        let first = CertificateDer::from_pem_slice(stored.chain.as_bytes()).ok()?;
        Some(validity::of(&first)?.renewal())
    }

    /// Obtains a certificate whenever it is due, for ever.
    pub(super) async fn renew(&self, current: &Arc<CurrentCertificate>) {
        let mut delay = MIN_RETRY_DELAY;
        loop {
            let wait = self.due().map(|due| due.saturating_since(Timestamp::now()));
            match wait {
                Some(wait) if !wait.is_zero() => {
                    tokio::time::sleep(wait.min(CLOCK_CHECK_INTERVAL)).await;
                    continue;
                }
                _ => {}
            }
            let domains = self.settings.domains.join(" ");
            match self.obtain().await {
                Ok(certificate) => {
                    current.replace(certificate);
                    delay = MIN_RETRY_DELAY;
                    tracing::info!(%domains, "certificate of previews obtained");
                }
                Err(error) => {
                    tracing::warn!(
                        %domains,
                        error = %ErrorChain(&error),
                        again_in = ?delay,
                        "no new certificate of previews, the old one stays while there is one"
                    );
                    tokio::time::sleep(jittered(delay)).await;
                    delay = (delay * 2).min(MAX_RETRY_DELAY);
                }
            }
        }
    }

    /// Obtains a certificate now and stores it.
    pub(super) async fn obtain(&self) -> Result<CertifiedKey, AcmeError> {
        let settings = &self.settings;
        let hooks = settings.hook_timeout * 2 * u32::try_from(settings.domains.len()).unwrap_or(1);
        let limit = ATTEMPT_TIMEOUT + hooks;
        let account = self.account_path();
        let ordering = order::order(settings, &account);
        let (chain, key) = tokio::time::timeout(limit, ordering)
            .await
            .map_err(|_| AcmeError::Slow(limit))??;
        let certified =
            certificate::from_pem(chain.as_bytes(), key.as_bytes()).map_err(AcmeError::Unusable)?;
        let stored = StoredCertificate {
            directory: settings.directory.clone(),
            domains: settings.domains.clone(),
            chain,
            key,
        };
        let bytes = serde_json::to_vec(&stored).expect("texts are always JSON");
        storage::write(&self.certificate_path(), &bytes)?;
        Ok(certified)
    }
}

/// Adds up to a quarter, so that servers that failed together do not try again together.
fn jittered(delay: Duration) -> Duration {
    delay.mul_f64(1.0 + rand::random::<f64>() / 4.0)
}

#[cfg(test)]
mod tests;
