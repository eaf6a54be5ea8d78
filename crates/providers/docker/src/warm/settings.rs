//! The settings of warm containers.

use std::collections::BTreeMap;

use stacyvm_types::Vcpus;

/// Which containers are kept warm, and their resources. A sandbox that asks for other memory,
/// processors or processes can use one too, where the runtime can change them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WarmSettings {
    /// The number of containers for each image.
    pub images: BTreeMap<String, u32>,
    /// MiB.
    pub memory_mb: u64,
    /// Processors.
    pub vcpus: Vcpus,
    /// Processes and threads.
    pub pids_limit: u32,
    /// Open files of a process.
    pub open_files: u64,
    /// Size of what they write, MiB; none is no limit.
    pub disk_mb: Option<u64>,
}
