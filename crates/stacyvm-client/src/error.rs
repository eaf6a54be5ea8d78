//! What can go wrong between a client and the server.

use std::io;

use stacyvm_types::{ApiError, ErrorCode};

/// A request that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address cannot be used.
    #[error("invalid server address {url:?}: {reason}")]
    Address {
        /// As it was given.
        url: String,
        /// Why not.
        reason: &'static str,
    },
    /// The key or owner has a character that no header can carry.
    #[error("the {0} has characters that cannot be sent")]
    Header(&'static str),
    /// No server accepts connections at the address.
    #[error("cannot connect to the StacyVM server at {server}")]
    Connect {
        /// `http://host:port`.
        server: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or what came over it is not HTTP.
    #[error("the connection to {server} failed")]
    Transport {
        /// `http://host:port`.
        server: String,
        /// What broke.
        #[source]
        source: hyper::Error,
    },
    /// A WebSocket broke or fell silent.
    #[error("the connection to {server} was lost")]
    Socket {
        /// `http://host:port`.
        server: String,
        /// What broke.
        #[source]
        source: io::Error,
    },
    /// The server refused the request or failed at it.
    #[error("{error}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// What it said.
        error: ApiError,
    },
    /// The answer is not what this version of the client understands.
    #[error("unexpected answer from {server}: {reason}")]
    Answer {
        /// `http://host:port`.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading the data to be sent failed.
    #[error("cannot read what is to be sent")]
    Input(#[source] io::Error),
}

impl ClientError {
    /// The kind of failure, when the server said one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api { error, .. } => Some(error.code),
            _ => None,
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Connect { .. } => {
                Some("start the server with \"stacyvm serve\", or name another with --server")
            }
            Self::Api { status: 401, .. } => Some("pass the key with --api-key or STACYVM_API_KEY"),
            _ => None,
        }
    }
}
