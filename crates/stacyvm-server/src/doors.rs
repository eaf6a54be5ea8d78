//! The addresses that the server is reached at.

use std::net::SocketAddr;

use tokio::net::TcpListener;

/// Where connections come in.
#[derive(Debug)]
pub struct Doors {
    pub(crate) all: Vec<Door>,
}

/// One address.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    /// Previews and nothing of the API.
    pub(crate) previews_only: bool,
}

impl Doors {
    /// One for everything: the API, and previews.
    pub fn new(listener: TcpListener) -> Self {
        Self {
            all: vec![Door {
                listener,
                previews_only: false,
            }],
        }
    }

    /// And one where there are previews only.
    #[must_use]
    pub fn with_previews(mut self, listener: TcpListener) -> Self {
        self.all.push(Door {
            listener,
            previews_only: true,
        });
        self
    }

    /// Where the API is, if the system still knows.
    pub(crate) fn api_address(&self) -> std::io::Result<Option<SocketAddr>> {
        let api = self.all.iter().find(|door| !door.previews_only);
        api.map(|door| door.listener.local_addr()).transpose()
    }
}

impl From<TcpListener> for Doors {
    fn from(listener: TcpListener) -> Self {
        Self::new(listener)
    }
}
