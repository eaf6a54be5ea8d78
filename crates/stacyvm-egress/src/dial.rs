//! Connecting to where a name leads, by our own knowledge of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stacyvm_types::HostName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::judge::Judge;
use crate::resolver::Resolver;

/// Addresses of one name that are tried.
const MAX_TRIED: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The name servers know no address.
    #[error("{0} has no address, or no name server answered")]
    Unresolved(HostName),
    /// There are addresses, and none of them may be reached.
    #[error("{0} leads to {1}, which is not on the public internet")]
    Refused(HostName, IpAddr),
    /// Nobody answered at any of them.
    #[error("cannot connect to {0}")]
    Unreachable(HostName, #[source] io::Error),
}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) judge: Judge,
    pub(crate) ipv6: bool,
    pub(crate) patience: Duration,
}

impl Dialer {
    /// Connects to a host that the sandbox may reach.
    pub(crate) async fn dial(&self, host: &HostName, port: u16) -> Result<TcpStream, DialError> {
        let unresolved = || DialError::Unresolved(host.clone());
        let addresses = match (host.address(), host.name()) {
            (Some(address), _) => vec![address],
            (None, Some(name)) => {
                let found = self.resolver.addresses(name, self.ipv6).await;
                found.map_err(|_| unresolved())?
            }
            (None, None) => Vec::new(),
        };
        let first = *addresses.first().ok_or_else(unresolved)?;
        let permitted: Vec<IpAddr> = addresses
            .into_iter()
            .filter(|address| self.judge.permits_connection(*address))
            .take(MAX_TRIED)
            .collect();
        let Some(share) = u32::try_from(permitted.len())
            .ok()
            .and_then(|count| self.patience.checked_div(count))
        else {
            return Err(DialError::Refused(host.clone(), first));
        };
        let mut last = io::ErrorKind::TimedOut.into();
        for address in permitted {
            let address = SocketAddr::new(address, port);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(DialError::Unreachable(host.clone(), last))
    }
}
