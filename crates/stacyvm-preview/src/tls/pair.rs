//! A certificate with its key, and the one that new connections get.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(String, #[source] std::io::Error),
    /// There is nothing in the file.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// It is not PEM.
    #[error("a certificate in it is no PEM")]
    Certificate(#[source] pem::Error),
    /// There is no key, or one of another form.
    #[error("its key is no private key in PEM (PKCS#8, PKCS#1 or SEC1)")]
    Key(#[source] pem::Error),
    /// They do not belong together, or the key is of a kind that nobody speaks.
    #[error("certificate and key do not fit together")]
    Mismatch(#[source] rustls::Error),
}

/// Reads a chain and its key, both in PEM, and makes sure that they belong together.
pub(super) fn from_pem(cert: &[u8], key: &[u8]) -> Result<CertifiedKey, PairError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<_, _>>()
        .map_err(PairError::Certificate)?;
    if chain.is_empty() {
        return Err(PairError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(PairError::Key)?;
    CertifiedKey::from_der(chain, key, &super::provider()).map_err(PairError::Mismatch)
}

/// What new connections get.
pub(super) struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl Current {
    pub(super) fn new(first: Option<CertifiedKey>) -> Self {
        Self(RwLock::new(first.map(Arc::new)))
    }

    pub(super) fn get(&self) -> Option<Arc<CertifiedKey>> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }

    pub(super) fn replace(&self, by: CertifiedKey) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::new(by));
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current(***)")
    }
}

impl ResolvesServerCert for Current {
    /// One certificate for every name: which names it covers, its owner knows.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}
