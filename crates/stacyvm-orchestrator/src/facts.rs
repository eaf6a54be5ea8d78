//! What never changes about a sandbox.

use std::collections::BTreeMap;

use stacyvm_types::{Isolation, OwnerId, PreviewAccess, SandboxId, Timestamp, Vcpus};

/// What never changes about a sandbox.
#[derive(Clone, Debug)]
pub(crate) struct SandboxFacts {
    pub(crate) id: SandboxId,
    pub(crate) provider: String,
    pub(crate) image: String,
    pub(crate) memory_mb: u64,
    pub(crate) vcpus: Vcpus,
    pub(crate) disk_mb: Option<u64>,
    pub(crate) owner: Option<OwnerId>,
    pub(crate) template: Option<String>,
    pub(crate) isolation: Isolation,
    pub(crate) created_at: Timestamp,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) preview: Option<PreviewAccess>,
}
