//! The REST client: every route that the CLI and the bench use, typed.
//!
//! Owns connections and the reading of answers; knows the public types and nothing of the server.
//! Its one rule: an answer that is no success becomes a [`ClientError`] that a person can act on.
#![forbid(unsafe_code)]

mod connection;
mod error;
mod events;
mod files;
mod images;
mod interactive;
mod lines;
mod logs;
mod request;
mod sandboxes;
mod stream;
mod system;

pub use error::ClientError;
pub use events::{EventStream, ServerEvent};
pub use interactive::{ExecFrame, ExecInput, ExecOutput};
pub use logs::{FollowedLog, LogStream};
pub use stream::{ByteStream, LineStream};

use std::sync::Arc;

use connection::Pool;

/// One server, one caller. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
    api_key: Option<http::HeaderValue>,
    user_id: Option<http::HeaderValue>,
}

impl std::fmt::Debug for Client {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.pool.base())
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `base_url` (`http://host:port`), with the key and the owner that
    /// every request carries. Connects on first use.
    ///
    /// # Errors
    /// `Address` when the URL is not one of plain HTTP, `Header` when key or owner cannot stand in
    /// a header.
    pub fn new(
        base_url: &str,
        api_key: Option<&str>,
        user_id: Option<&str>,
    ) -> Result<Self, ClientError> {
        let header = |name: &'static str, value: Option<&str>| {
            value
                .map(|value| {
                    let mut value = http::HeaderValue::from_bytes(value.as_bytes())
                        .map_err(|_| ClientError::Header(name))?;
                    value.set_sensitive(true);
                    Ok(value)
                })
                .transpose()
        };
        Ok(Self {
            pool: Arc::new(Pool::new(base_url)?),
            api_key: header("API key", api_key)?,
            user_id: header("user id", user_id)?,
        })
    }

    /// The server's address, as `http://host:port`.
    pub fn server(&self) -> &str {
        self.pool.base()
    }
}
