//! What a test needs of the machine; a test without it skips.

use crate::skip;

/// Whether the test runs as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the test runs as root; it is skipped when not.
#[must_use]
pub fn root_or_skip() -> bool {
    let is_root = is_root();
    if !is_root {
        skip("needs root");
    }
    is_root
}

/// Whether a program is installed.
#[must_use]
pub fn has_program(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    // Administrators' programs are not on the path of every user.
    let more = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&paths)
        .chain(more)
        .any(|path| path.join(name).is_file())
}

/// Whether all of these programs are installed; the test is skipped when not.
#[must_use]
pub fn programs_or_skip(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|name| !has_program(name)).collect();
    for name in &missing {
        skip(format_args!("{name} is not installed"));
    }
    missing.is_empty()
}
