//! Certificates of previews, and connections over them.
//!
//! There are three sources of certificates: files that the operator renews, an ACME server, and an
//! authority of this machine for development. Owns when they are read, renewed and replaced; a
//! connection keeps the certificate that it began with. Its rule: a certificate that does not work
//! never replaces one that does.

pub mod acme;
mod authority;
mod certificate;
mod crypto;
mod files;
mod hook;
mod validity;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

pub use acme::Acme;
pub use authority::{Authority, AuthorityError};
pub use certificate::CertificateError;
use certificate::CurrentCertificate;
use files::CertificateFiles;
pub use hook::HookError;

/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may send nothing at all; browsers connect ahead of time.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(75);
/// The first byte of a TLS connection (RFC 8446, 5.1: a record of type handshake). No request of
/// HTTP begins with it.
const TLS_HANDSHAKE: u8 = 22;

/// A connection, without TLS (`Left`) or over it (`Right`).
pub type Connection = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// The source of certificates.
#[derive(Debug)]
pub enum Source {
    /// Two files in PEM: the chain, the certificate first, and its key.
    Files {
        /// The chain.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// An ACME server.
    Acme(Acme),
    /// The development authority.
    Authority(Box<Authority>),
}

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate or its key cannot be used.
    #[error("cannot use the certificate {}", cert.display())]
    Certificate {
        /// The file of the certificate.
        cert: PathBuf,
        /// The cause.
        #[source]
        source: CertificateError,
    },
    /// The development authority cannot issue certificates.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The library refuses the settings.
    #[error("cannot set TLS up")]
    Setup(#[source] rustls::Error),
}

/// TLS of a listener.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    renewal: Renewal,
}

/// How the certificate is renewed.
#[derive(Debug)]
enum Renewal {
    Files(CertificateFiles, Arc<CurrentCertificate>),
    Acme(Box<Acme>, Arc<CurrentCertificate>),
    /// The authority issues certificates while it serves.
    Authority,
}

impl Tls {
    /// Reads the certificate that exists.
    ///
    /// # Errors
    /// When files cannot be used. An ACME server is not asked yet: without a stored certificate,
    /// handshakes fail until it has issued one.
    pub fn new(source: Source) -> Result<Self, TlsError> {
        let (renewal, resolver): (_, Arc<dyn ResolvesServerCert>) = match source {
            Source::Files { cert, key } => {
                let files = CertificateFiles::new(cert, key);
                let first = files.read().map_err(|source| TlsError::Certificate {
                    cert: files.cert.clone(),
                    source,
                })?;
                let current = Arc::new(CurrentCertificate::new(Some(first)));
                (Renewal::Files(files, Arc::clone(&current)), current)
            }
            Source::Acme(acme) => {
                let current = Arc::new(CurrentCertificate::new(acme.stored()));
                (Renewal::Acme(Box::new(acme), Arc::clone(&current)), current)
            }
            Source::Authority(authority) => (Renewal::Authority, Arc::new(authority.issuer()?)),
        };
        let mut config = ServerConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            renewal,
        })
    }

    /// Accepts a connection with or without TLS: one port serves both. Where plain requests are not
    /// wanted, they are redirected above.
    ///
    /// # Errors
    /// When the client sends nothing in time, or the handshake fails.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Connection> {
        let mut first = [0];
        let seen = timeout(FIRST_BYTE_TIMEOUT, stream.peek(&mut first)).await;
        let seen = seen.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if seen == 0 || first[0] != TLS_HANDSHAKE {
            return Ok(Either::Left(stream));
        }
        let accepting = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream);
        timeout(HANDSHAKE_TIMEOUT, accepting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map(|stream| Either::Right(Box::new(stream)))
    }

    /// Renews the certificate whenever it is due, until `stop` is cancelled.
    pub async fn renew(&self, stop: CancellationToken) {
        let renewing = async {
            match &self.renewal {
                Renewal::Files(files, current) => files.watch(current).await,
                Renewal::Acme(acme, current) => acme.renew(current).await,
                Renewal::Authority => {}
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = renewing => {}
        }
    }
}

/// The directory of the development authority in a server's data directory.
pub fn authority_dir(data: &Path) -> PathBuf {
    data.join("preview").join("authority")
}

#[cfg(test)]
mod tests;
