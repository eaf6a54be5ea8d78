//! Changing the servers that a sandbox reaches.

use std::sync::Arc;

use stacyvm_provider::{Egress, ProviderError};

use crate::boxes::BoxEntry;
use crate::meta;
use crate::network::NetworkSupport;

/// Changes what a box reaches. The caller holds its lock.
pub(crate) async fn change(
    network: &NetworkSupport,
    entry: &Arc<BoxEntry>,
    egress: &Egress,
) -> Result<(), ProviderError> {
    let lease = entry.resources().network.clone();
    let (Some(mut lease), Some(network)) = (lease, network.existing().cloned()) else {
        return Err(ProviderError::Unsupported(format!(
            "sandbox {} has no network",
            entry.id
        )));
    };
    if !network.limits_by_name() {
        return Err(ProviderError::Unsupported(
            "provider native lacks the capability egress-domains".to_owned(),
        ));
    }
    lease.set_egress(egress);
    let (subject, recorded) = (entry.clone(), lease.clone());
    // Recorded first: after a crash the next server applies what the record has.
    tokio::task::spawn_blocking(move || {
        let mut meta = meta::read(&subject.dir, &subject.id)?;
        meta.network = Some(recorded);
        meta::write(&subject.dir, &meta)
    })
    .await
    .map_err(|error| ProviderError::backend("record what a sandbox reaches", "", error))?
    .map_err(|error: std::io::Error| {
        let kind = error.kind().to_string();
        ProviderError::backend("record what a sandbox reaches", kind, error)
    })?;
    entry.resources().network = Some(lease.clone());
    network.register(&entry.id, &lease).await?;
    tokio::task::spawn_blocking(move || network.set_group_of(&lease))
        .await
        .map_err(|error| ProviderError::backend("change what a sandbox reaches", "", error))??;
    Ok(())
}
