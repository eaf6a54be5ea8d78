//! The programs that tests start: handed over by `cargo xtask test`, or built here by cargo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The agent, from `STACYVM_AGENT_BIN` where that is set.
#[must_use]
pub fn agent() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> =
        LazyLock::new(|| find("STACYVM_AGENT_BIN", "stacyvm-agent"));
    &PROGRAM
}

/// The launcher, from `STACYVM_LAUNCHER_BIN` where that is set.
#[must_use]
pub fn launcher() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> =
        LazyLock::new(|| find("STACYVM_LAUNCHER_BIN", "stacyvm-launcher"));
    &PROGRAM
}

fn find(variable: &str, package: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| build(package), Into::into)
}

fn build(package: &str) -> PathBuf {
    // The test runs from <target>/<profile>/deps/, the program is built to <target>/debug/.
    let test = std::env::current_exe().expect("a test knows its own program");
    let target = test.ancestors().nth(3).expect("cargo built the test");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", package, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    let built = built.expect("cargo is there while tests run");
    assert!(built.success(), "{package} does not build");
    target.join("debug").join(package)
}
