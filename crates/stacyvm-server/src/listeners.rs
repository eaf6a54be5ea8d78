//! The addresses that the server listens on.

use std::net::SocketAddr;

use tokio::net::TcpListener;

/// The sockets that accept connections.
#[derive(Debug)]
pub struct Listeners {
    pub(crate) all: Vec<Listener>,
}

/// A socket on one address.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    /// Serves previews and nothing of the API.
    pub(crate) previews_only: bool,
}

impl Listeners {
    /// One listener for everything: the API, and previews.
    pub fn new(socket: TcpListener) -> Self {
        Self {
            all: vec![Listener {
                socket,
                previews_only: false,
            }],
        }
    }

    /// A further listener for previews only.
    #[must_use]
    pub fn with_previews(mut self, socket: TcpListener) -> Self {
        self.all.push(Listener {
            socket,
            previews_only: true,
        });
        self
    }

    /// The address of the API's listener.
    pub(crate) fn api_address(&self) -> std::io::Result<Option<SocketAddr>> {
        let api = self.all.iter().find(|listener| !listener.previews_only);
        api.map(|listener| listener.socket.local_addr()).transpose()
    }
}

impl From<TcpListener> for Listeners {
    fn from(socket: TcpListener) -> Self {
        Self::new(socket)
    }
}
