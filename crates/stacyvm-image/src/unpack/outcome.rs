//! What came of unpacking an archive, and what of it was left out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What of an archive was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Skipped {
    /// Device nodes and named pipes: not made.
    pub devices: u64,
    /// Files that lost their setuid or setgid bit.
    pub setuid_bits: u64,
    /// Files whose owner or group is beyond what a sandbox has: given to root.
    pub foreign_ids: u64,
    /// Extended attributes other than `user.`, and those that the disk does not take.
    pub xattrs: u64,
}

impl Skipped {
    /// Adds what was left out of another layer.
    pub(crate) fn add(&mut self, other: Self) {
        self.devices += other.devices;
        self.setuid_bits += other.setuid_bits;
        self.foreign_ids += other.foreign_ids;
        self.xattrs += other.xattrs;
    }
}

/// What was unpacked.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    pub(crate) skipped: Skipped,
    /// Directories of a layer that no entry describes: a lower layer may describe them.
    pub(crate) implied: BTreeSet<PathBuf>,
    /// Whether the layer hides everything of the layers below.
    pub(crate) opaque: bool,
}
