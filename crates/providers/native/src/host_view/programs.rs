//! What the view has above the host's directories of programs: well-known directories that a sandbox's
//! root may add to, and marks that hide what is configuration or data.
//!
//! The rule: a directory is taken over only under a name that every system has, never one that the
//! host's people have made, because here it is open to all whatever becomes of the host's.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::plan::Entry;

/// Directories that belong to the sandbox's root; parents first.
const DIRECTORIES: &[&str] = &[
    "usr/bin",
    "usr/include",
    "usr/lib",
    "usr/lib/node_modules",
    "usr/lib64",
    "usr/libexec",
    "usr/sbin",
    "usr/share",
    "usr/src",
    "usr/local",
    "usr/local/bin",
    "usr/local/include",
    "usr/local/lib",
    "usr/local/lib/node_modules",
    "usr/local/lib64",
    "usr/local/libexec",
    "usr/local/sbin",
    "usr/local/share",
    "usr/local/share/man",
    "usr/local/src",
];

/// Directories of libraries, in which each Python has one for packages.
const LIBRARIES: &[&str] = &["usr/lib", "usr/lib64", "usr/local/lib", "usr/local/lib64"];
const PACKAGES: &[&str] = &["dist-packages", "site-packages"];

/// Settings and data of this host, in each of these places.
const HIDDEN: &[&str] = &["etc", "home", "root", "srv", "var"];
const HIDDEN_BELOW: &[&str] = &["usr", "usr/local"];

/// The entries above the host's directory `root`, which is shown in the sandbox.
pub(super) fn above(host: &Path, root: &str) -> BTreeMap<PathBuf, Entry> {
    let mut entries = BTreeMap::new();
    let mut add = |path: PathBuf| {
        let parent = path.parent().unwrap_or(Path::new(""));
        let beside = parent == Path::new(root) || entries.contains_key(parent);
        if beside && is_open(&host.join(&path)) {
            let directory = Entry::Directory {
                mode: 0o755,
                owned: false,
            };
            entries.insert(path, directory);
        }
    };
    for path in DIRECTORIES {
        add(PathBuf::from(path));
    }
    for library in LIBRARIES {
        for name in pythons(&host.join(library)) {
            let python = Path::new(library).join(name);
            add(python.clone());
            for packages in PACKAGES {
                add(python.join(packages));
            }
        }
    }
    for place in HIDDEN_BELOW {
        if *place == root || entries.contains_key(Path::new(place)) {
            let hidden = HIDDEN.iter().map(|name| Path::new(place).join(name));
            entries.extend(hidden.map(|path| (path, Entry::Hidden)).collect::<Vec<_>>());
        }
    }
    entries
}

/// Whether it is a directory, and no link, that everybody on the host may list and enter.
fn is_open(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir() && metadata.permissions().mode() & 0o005 == 0o005)
}

/// Names of the Pythons' directories in a directory of libraries: `python3`, `python3.13`.
fn pythons(library: &Path) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(library) else {
        return Vec::new();
    };
    let is_python = |name: &String| {
        name.strip_prefix("python3").is_some_and(|rest| {
            rest.bytes()
                .all(|byte| byte == b'.' || byte.is_ascii_digit())
        })
    };
    found
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(is_python)
        .collect()
}
