//! A certificate with its key, and the current one, which new connections get.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::crypto::provider;

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(String, #[source] std::io::Error),
    /// The file holds no certificate.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// The certificate is not PEM.
    #[error("a certificate in it is no PEM")]
    Certificate(#[source] pem::Error),
    /// The file of the key holds none, or one of another form.
    #[error("its key is no private key in PEM (PKCS#8, PKCS#1 or SEC1)")]
    Key(#[source] pem::Error),
    /// Certificate and key do not belong together, or the key is of an unknown kind.
    #[error("certificate and key do not fit together")]
    Mismatch(#[source] rustls::Error),
}

/// Reads a chain and its key, both in PEM, and makes sure that they belong together.
pub(super) fn from_pem(cert: &[u8], key: &[u8]) -> Result<CertifiedKey, CertificateError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<_, _>>()
        .map_err(CertificateError::Certificate)?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(CertificateError::Mismatch)
}

/// The certificate that new connections get, once there is one.
pub(super) struct CurrentCertificate(RwLock<Option<Arc<CertifiedKey>>>);

impl CurrentCertificate {
    pub(super) fn new(first: Option<CertifiedKey>) -> Self {
        Self(RwLock::new(first.map(Arc::new)))
    }

    pub(super) fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }

    pub(super) fn replace(&self, by: CertifiedKey) {
        *self.0.write() = Some(Arc::new(by));
    }
}

impl fmt::Debug for CurrentCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentCertificate(***)")
    }
}

impl ResolvesServerCert for CurrentCertificate {
    /// The same certificate for every name: the operator chose the names that it covers.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}
