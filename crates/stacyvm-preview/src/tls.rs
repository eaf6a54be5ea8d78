//! Certificates of previews, and connections over them.
//!
//! Three sources: files that somebody else keeps fresh, an ACME server, and an authority of this
//! machine for development. Owns when they are read, renewed and replaced; a connection keeps what
//! it began with. The one rule: a certificate that does not work never replaces one that does.

pub mod acme;
mod authority;
mod files;
mod hook;
mod pair;
mod validity;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::ResolvesServerCert;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

pub use acme::Acme;
pub use authority::{Authority, AuthorityError};
use files::Files;
pub use hook::HookError;
use pair::Current;
pub use pair::PairError;

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long one may say nothing at all; browsers connect ahead of time.
const SILENCE: Duration = Duration::from_secs(75);
/// The first byte of whoever speaks TLS (RFC 8446, 5.1: a record of type handshake). No request of
/// HTTP begins with it.
const TLS_HANDSHAKE: u8 = 22;

/// A connection, in the clear or over TLS.
pub type Connection = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Where certificates come from.
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

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate or key cannot be used.
    #[error("cannot use the certificate {}", cert.display())]
    Pair {
        /// Which certificate.
        cert: PathBuf,
        /// Why not.
        #[source]
        source: PairError,
    },
    /// The development authority has no certificate for us.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The library has no protocol in common with us.
    #[error("cannot set TLS up")]
    Setup(#[source] rustls::Error),
}

/// TLS of a listener.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    keeper: Keeper,
}

/// What keeps the certificate fresh.
#[derive(Debug)]
enum Keeper {
    Files(Files, Arc<Current>),
    Acme(Box<Acme>, Arc<Current>),
    /// It makes one whenever one is asked for.
    Authority,
}

impl Tls {
    /// Reads what is there.
    ///
    /// # Errors
    /// When files cannot be used. An ACME server is not asked yet: until it has given a
    /// certificate, handshakes fail.
    pub fn new(source: Source) -> Result<Self, TlsError> {
        let (keeper, resolver): (_, Arc<dyn ResolvesServerCert>) = match source {
            Source::Files { cert, key } => {
                let files = Files::new(cert, key);
                let first = files.read().map_err(|source| TlsError::Pair {
                    cert: files.cert.clone(),
                    source,
                })?;
                let current = Arc::new(Current::new(Some(first)));
                (Keeper::Files(files, Arc::clone(&current)), current)
            }
            Source::Acme(acme) => {
                let current = Arc::new(Current::new(acme.kept()));
                (Keeper::Acme(Box::new(acme), Arc::clone(&current)), current)
            }
            Source::Authority(authority) => (Keeper::Authority, Arc::new(authority.issuer()?)),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            keeper,
        })
    }

    /// What a client has to say, decrypted when it speaks TLS (`Right`) and as it came when it
    /// does not: one port serves both, and who minds sends plain requests elsewhere.
    ///
    /// # Errors
    /// When the client says nothing for a while, or does not agree.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<Connection> {
        let mut first = [0];
        let seen = timeout(SILENCE, stream.peek(&mut first)).await;
        let seen = seen.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        if seen == 0 || first[0] != TLS_HANDSHAKE {
            return Ok(Either::Left(stream));
        }
        let accepting = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream);
        timeout(HANDSHAKE, accepting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map(|stream| Either::Right(Box::new(stream)))
    }

    /// Keeps the certificate fresh until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        let keeping = async {
            match &self.keeper {
                Keeper::Files(files, current) => files.watch(current).await,
                Keeper::Acme(acme, current) => acme.renew(current).await,
                Keeper::Authority => {}
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = keeping => {}
        }
    }
}

/// Named everywhere instead of installed once: nothing can then be missing, or there twice.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Where the development authority of a server with this data directory is.
pub fn authority_dir(data: &Path) -> PathBuf {
    data.join("preview").join("authority")
}

#[cfg(test)]
mod tests;
