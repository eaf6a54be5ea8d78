//! Connections to hosts, at the addresses that the proxy resolved itself.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stacyvm_types::HostName;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::address_filter::AddressFilter;
use crate::resolver::Resolver;

/// Addresses of one name that are tried.
const MAX_TRIED: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The name has no address, or the name servers did not answer.
    #[error("{0} has no address, or no name server answered")]
    Unresolved(HostName),
    /// The host has addresses, and none of them is permitted.
    #[error("{0} leads to {1}, which is not on the public internet")]
    Refused(HostName, IpAddr),
    /// None of the addresses that were tried took the connection.
    #[error("cannot connect to {0}")]
    Unreachable(HostName, #[source] io::Error),
}

/// Resolves hosts and connects to them.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) filter: AddressFilter,
    pub(crate) ipv6: bool,
    /// Time for all addresses of a host together.
    pub(crate) connect_timeout: Duration,
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
            .filter(|address| self.filter.permits_connection(*address))
            .take(MAX_TRIED)
            .collect();
        let Some(share) = u32::try_from(permitted.len())
            .ok()
            .and_then(|count| self.connect_timeout.checked_div(count))
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
