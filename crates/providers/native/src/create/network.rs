//! The first stage of a create: the network of the sandbox, when it asks for one. A loopback alone
//! is the launcher's work.

use stacyvm_launcher::control::NetworkFiles;
use stacyvm_provider::{Egress, NetworkMode, ProviderError};
use stacyvm_types::SandboxId;

use crate::network::{AllocatedNetwork, Lease, NetworkError, NetworkSupport};

/// Allocates the network of this mode; none for a loopback alone.
pub(super) async fn allocate(
    support: &NetworkSupport,
    mode: &NetworkMode,
) -> Result<Option<AllocatedNetwork>, ProviderError> {
    let NetworkMode::Bridge(egress) = mode else {
        return Ok(None);
    };
    let network = support.offered().ok_or_else(|| {
        ProviderError::Unsupported("provider native lacks the capability network-bridge".to_owned())
    })?;
    if *egress != Egress::Open && !network.limits_by_name() {
        return Err(ProviderError::Unsupported(
            "provider native lacks the capability egress-domains".to_owned(),
        ));
    }
    Ok(Some(network.allocate(egress).await?))
}

/// Lets the sandbox resolve names and reach the servers of its lease.
pub(super) async fn register(
    support: &NetworkSupport,
    id: &SandboxId,
    lease: Option<&Lease>,
) -> Result<(), NetworkError> {
    match (support.existing(), lease) {
        (Some(network), Some(lease)) => network.register(id, lease).await,
        _ => Ok(()),
    }
}

/// Applies the rules for what the sandbox may reach. Blocks for a moment.
pub(super) fn set_group(
    support: &NetworkSupport,
    allocated: Option<&AllocatedNetwork>,
) -> Result<(), NetworkError> {
    match (support.existing(), allocated) {
        (Some(network), Some(allocated)) => {
            network.set_group(allocated.device, &allocated.lease.egress())
        }
        _ => Ok(()),
    }
}

/// The files inside that describe the network.
pub(super) fn files(
    support: &NetworkSupport,
    id: &SandboxId,
    lease: Option<&Lease>,
) -> Option<NetworkFiles> {
    let network = support.existing()?;
    Some(network.files(lease?, id.as_str()))
}
