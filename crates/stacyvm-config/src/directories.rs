//! The directories that are used when none is configured.

use std::path::PathBuf;

/// The user's home directory, from `HOME`.
pub fn home_dir() -> Option<PathBuf> {
    absolute("HOME")
}

/// Database, images and sandboxes: `/var/lib/stacyvm` for root, else `stacyvm` in the user's data
/// directory (XDG Base Directory Specification: `XDG_DATA_HOME`, default `~/.local/share`).
pub fn default_data_dir(root: bool) -> PathBuf {
    if root {
        return PathBuf::from("/var/lib/stacyvm");
    }
    absolute("XDG_DATA_HOME")
        .or_else(|| home_dir().map(|home| home.join(".local/share")))
        .unwrap_or_else(std::env::temp_dir)
        .join("stacyvm")
}

/// The directory that a variable names; relative ones are ignored, as the specification asks.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}
