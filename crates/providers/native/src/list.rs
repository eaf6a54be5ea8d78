//! Listing the boxes that the table, the disk or the kernel has.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use stacyvm_provider::{BoxInfo, BoxState, ProviderError};
use stacyvm_types::SandboxId;

use crate::boxes::{BoxEntry, BoxTable};
use crate::cgroups;

/// Every box, whether the table has it or only the disk or the kernel. Blocks.
pub(crate) fn list(boxes: &BoxTable, cgroup_parent: &str) -> Result<Vec<BoxInfo>, ProviderError> {
    let entries = boxes.all();
    let mut unknown = boxes.on_disk().map_err(|error| {
        ProviderError::backend("list the sandboxes", error.kind().to_string(), error)
    })?;
    unknown.append(&mut cgroups::sandboxes(&cgroup_parents(
        &entries,
        cgroup_parent,
    )));
    let mut found = Vec::with_capacity(entries.len());
    for entry in entries {
        unknown.remove(&entry.id);
        if !entry.probe {
            found.push(BoxInfo {
                id: entry.id.clone(),
                state: entry.state(),
            });
        }
    }
    let partial = |id: SandboxId| {
        is_unknown(boxes, cgroup_parent, &id).then_some(BoxInfo {
            id,
            state: BoxState::Partial,
        })
    };
    found.extend(unknown.into_iter().filter_map(partial));
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Whether something of this box exists while the table does not have it: one that was made or
/// removed since the table was read is not meant. Blocks.
fn is_unknown(boxes: &BoxTable, cgroup_parent: &str, id: &SandboxId) -> bool {
    let known = || boxes.get(id).is_some();
    let exists = || {
        boxes.dir_of(id).is_dir()
            || cgroup_parents(&[], cgroup_parent)
                .iter()
                .any(|parent| parent.join(id.as_str()).is_dir())
    };
    !known() && exists() && !known()
}

fn cgroup_parents(entries: &[Arc<BoxEntry>], cgroup_parent: &str) -> BTreeSet<PathBuf> {
    // Every launcher puts all sandboxes below the same parents, so those of one box are enough.
    let known = entries
        .iter()
        .map(|entry| entry.resources().cgroups.clone())
        .find(|cgroups| !cgroups.is_empty());
    cgroups::parents(known.as_ref(), cgroup_parent)
}
