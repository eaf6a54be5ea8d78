//! Connecting to the agent in a box, and to ports inside without it.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use stacyvm_provider::ops::{Configure, OpError};
use stacyvm_provider::{AgentConnector, AgentSandbox, ByteStream, PortConnection, UnixConnector};

use crate::boxes::BoxEntry;
use crate::layout::AGENT_SOCKET;
use crate::sockets::SocketFactory;

/// Connects to one box.
#[derive(Debug)]
struct BoxConnector {
    agent: UnixConnector,
    sockets: Option<SocketFactory>,
    /// Weak, because the entry owns the agent's connection, which owns this.
    entry: Weak<BoxEntry>,
}

#[async_trait]
impl AgentConnector for BoxConnector {
    async fn connect(&self) -> Result<ByteStream, OpError> {
        self.agent.connect().await
    }

    async fn dial(&self, port: u16) -> Option<Result<PortConnection, OpError>> {
        let entry = self.entry.upgrade()?;
        self.sockets.as_ref()?.connect(&entry, port).await
    }
}

/// Connects to the agent of a box. The first connection sets the sandbox's defaults with
/// `configure`; later ones leave them as they are.
pub(crate) async fn connect(
    entry: &Arc<BoxEntry>,
    sockets: Option<&SocketFactory>,
    configure: Option<Configure>,
) -> Result<Arc<AgentSandbox>, OpError> {
    let connector = BoxConnector {
        agent: UnixConnector::new(entry.dir.join(AGENT_SOCKET)),
        sockets: sockets.cloned(),
        entry: Arc::downgrade(entry),
    };
    let sandbox = AgentSandbox::new(connector, configure);
    sandbox.connect().await?;
    Ok(Arc::new(sandbox))
}
