//! Keep-alive connections to one server.
//!
//! A connection serves one request at a time and goes back to the pool when its answer has been
//! read to the end; a broken one is forgotten. TLS is not part of this build.

use std::io;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::ClientError;

/// The body of a request.
pub(crate) type Body = UnsyncBoxBody<bytes::Bytes, io::Error>;
/// A connection that is free for one request.
pub(crate) type Connection = SendRequest<Body>;

/// Idle connections that are kept; further ones are closed.
const MAX_IDLE: usize = 256;
/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The idle connections to one server.
pub(crate) struct Pool {
    base: String,
    authority: String,
    prefix: String,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(crate) fn new(url: &str) -> Result<Self, ClientError> {
        let bad = |reason| ClientError::Address {
            url: url.to_owned(),
            reason,
        };
        let uri: http::Uri = url.parse().map_err(|_| bad("it is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(bad("TLS is not in this build, use http://")),
            _ => return Err(bad("it must start with http://")),
        }
        if uri
            .authority()
            .is_some_and(|text| text.as_str().contains('@'))
        {
            return Err(bad("it has a user name, pass a key instead"));
        }
        if uri.query().is_some() {
            return Err(bad("it has a query"));
        }
        let host = uri.host().ok_or_else(|| bad("it names no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Self {
            base: url.trim_end_matches('/').to_owned(),
            authority,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            idle: Mutex::new(Vec::new()),
        })
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// The value of the `Host` header.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The path of the base URL, which stands before every path.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A free connection that was open when last seen, if there is one.
    pub(crate) fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock();
        while let Some(connection) = idle.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Takes a connection back whose answer has been read.
    pub(crate) fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE && !connection.is_closed() {
            idle.push(connection);
        }
    }

    pub(crate) async fn connect(&self) -> Result<Connection, ClientError> {
        let refused = |source| ClientError::Connect {
            server: self.base.clone(),
            source,
        };
        let connecting = TcpStream::connect(&self.authority);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream))
                .await
                .map_err(|source| ClientError::Transport {
                    server: self.base.clone(),
                    source,
                })?;
        // Ends by itself when the sender is dropped or the server closes, or hands the stream over
        // when an answer upgrades it.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::Pool;

    #[test]
    fn addresses_are_taken_apart() {
        for (url, authority, prefix) in [
            ("http://localhost:7423", "localhost:7423", ""),
            ("http://localhost:7423/", "localhost:7423", ""),
            ("http://example.org/vm/", "example.org:80", "/vm"),
            ("http://[::1]:7423", "[::1]:7423", ""),
        ] {
            let pool = Pool::new(url).unwrap();
            assert_eq!(pool.authority(), authority, "{url}");
            assert_eq!(pool.prefix(), prefix, "{url}");
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (url, words) in [
            ("localhost:7423", "http://"),
            ("", "URL"),
            ("ftp://localhost", "http://"),
            ("https://localhost:7423", "TLS"),
            ("http://user:secret@localhost", "user name"),
            ("http://localhost?a=b", "query"),
        ] {
            let error = Pool::new(url).map(drop).unwrap_err().to_string();
            assert!(error.contains(words), "{url}: {error}");
        }
    }
}
