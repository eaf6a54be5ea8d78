//! Reaching the agent in a box.

use std::path::Path;
use std::sync::Arc;

use stacyvm_provider::ops::OpError;
use stacyvm_provider::{AgentSandbox, UnixConnector};

pub(crate) use stacyvm_provider::ops::Configure;

use crate::layout::AGENT_SOCKET;

/// Connects to the agent of the box in `dir`; whoever makes the box says `configure`, which sets
/// the sandbox's defaults, and later connections leave them as they are.
pub(crate) async fn connect(
    dir: &Path,
    configure: Option<Configure>,
) -> Result<Arc<AgentSandbox>, OpError> {
    let connector = UnixConnector::new(dir.join(AGENT_SOCKET));
    let sandbox = AgentSandbox::new(connector, configure);
    sandbox.connect().await?;
    Ok(Arc::new(sandbox))
}
