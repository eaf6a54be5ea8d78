//! Reaching the agent in a box, and the ports beside it.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use stacyvm_provider::ops::OpError;
use stacyvm_provider::{AgentConnector, AgentSandbox, ByteStream, PortConnection, UnixConnector};

pub(crate) use stacyvm_provider::ops::Configure;

use crate::boxes::BoxEntry;
use crate::layout::AGENT_SOCKET;
use crate::ports::Ports;

/// The ways into one box.
#[derive(Debug)]
struct Ways {
    agent: UnixConnector,
    ports: Option<Ports>,
    /// The entry holds what holds this.
    entry: Weak<BoxEntry>,
}

#[async_trait]
impl AgentConnector for Ways {
    async fn connect(&self) -> Result<ByteStream, OpError> {
        self.agent.connect().await
    }

    async fn dial(&self, port: u16) -> Option<Result<PortConnection, OpError>> {
        let entry = self.entry.upgrade()?;
        self.ports.as_ref()?.connect(&entry, port).await
    }
}

/// Connects to the agent of a box; whoever makes the box says `configure`, which sets the
/// sandbox's defaults, and later connections leave them as they are.
pub(crate) async fn connect(
    entry: &Arc<BoxEntry>,
    ports: Option<&Ports>,
    configure: Option<Configure>,
) -> Result<Arc<AgentSandbox>, OpError> {
    let ways = Ways {
        agent: UnixConnector::new(entry.dir.join(AGENT_SOCKET)),
        ports: ports.cloned(),
        entry: Arc::downgrade(entry),
    };
    let sandbox = AgentSandbox::new(ways, configure);
    sandbox.connect().await?;
    Ok(Arc::new(sandbox))
}
