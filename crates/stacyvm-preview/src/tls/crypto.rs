//! The cryptography that all TLS of previews uses.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The provider of ciphers. It is named wherever it is needed instead of installed once for the
/// process: it can then be neither missing nor installed twice.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
