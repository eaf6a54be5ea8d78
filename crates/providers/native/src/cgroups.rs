//! Finding the control groups of sandboxes. The launcher makes them, `stacyvm-sys` measures and
//! removes them.
//!
//! Their paths come from what the launcher reported for each box. Where the box is not known, as
//! after a crash in the middle of a launch, they are found again by name below the parents that
//! this machine's hierarchies would give.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use stacyvm_sys::cgroup::Layout;
use stacyvm_types::SandboxId;

/// Cgroup directories of one sandbox, by controller.
pub(crate) type Cgroups = BTreeMap<String, PathBuf>;

/// Every directory that has groups of this server's sandboxes: the parents of `known`, and those in
/// the mounted hierarchies. Blocks.
pub(crate) fn parents(known: Option<&Cgroups>, parent: &str) -> BTreeSet<PathBuf> {
    let layout = Layout::detect();
    let mounted = layout.v1.values().chain(&layout.unified);
    let mut parents: BTreeSet<PathBuf> = mounted
        .flat_map(|place| [place.mount.join(parent), place.own.join(parent)])
        .filter(|dir| dir.is_dir())
        .collect();
    let known = known.into_iter().flat_map(BTreeMap::values);
    parents.extend(known.filter_map(|dir| dir.parent()).map(Path::to_owned));
    parents
}

/// The groups that a sandbox would have below `parents`; the controllers' names do not matter.
pub(crate) fn possible(parents: BTreeSet<PathBuf>, id: &SandboxId) -> Cgroups {
    parents
        .into_iter()
        .map(|parent| parent.join(id.as_str()))
        .filter(|dir| dir.is_dir())
        .map(|dir| (dir.to_string_lossy().into_owned(), dir))
        .collect()
}

/// Removes the parents of sandboxes' groups where no sandbox is left. Blocks.
pub(crate) fn remove_empty_parents(parent: &str) {
    for dir in parents(None, parent) {
        // The kernel refuses to remove a group that has another one inside.
        let levels = Path::new(parent).components().count();
        for dir in dir.ancestors().take(levels) {
            if std::fs::remove_dir(dir).is_err() {
                break;
            }
        }
    }
}

/// Sandboxes that have a group below one of `parents`. Blocks.
pub(crate) fn sandboxes(parents: &BTreeSet<PathBuf>) -> BTreeSet<SandboxId> {
    parents
        .iter()
        .filter_map(|parent| std::fs::read_dir(parent).ok())
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_are_found_by_name_below_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sb-00000001", "other", "sb-XYZ"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let id = SandboxId::from_u32(1);
        let known = Cgroups::from([("memory".to_owned(), dir.path().join("sb-00000009"))]);
        let parents = parents(Some(&known), "no-such-parent");
        assert_eq!(parents, [dir.path().to_owned()].into());
        assert_eq!(sandboxes(&parents), [id.clone()].into());
        let groups = possible(parents, &id);
        assert_eq!(
            groups.into_values().collect::<Vec<_>>(),
            [dir.path().join("sb-00000001")]
        );
    }
}
