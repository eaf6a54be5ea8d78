//! The one way in which a test says that it did not run, or not all of it.
//!
//! `cargo xtask test` lists every such line at its end. It finds them in the file that the variable
//! [`SKIPPED_TESTS`] names, and on the standard error that nextest keeps in its report.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::thread;

/// The environment variable with the path of the file to which skips are appended.
pub const SKIPPED_TESTS: &str = "STACYVM_SKIPPED_TESTS";

/// Says that the running test is skipped, or a part of it, and why. The caller returns from the test
/// or leaves the part out.
pub fn skip(reason: impl Display) {
    let line = skip_line(&running_test(), &reason.to_string());
    eprintln!("{line}");
    if let Some(path) = std::env::var_os(SKIPPED_TESTS) {
        append(Path::new(&path), &line);
    }
}

/// The line about one skip, without its end.
#[must_use]
pub fn skip_line(test: &str, reason: &str) -> String {
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("SKIP {test}: {reason}")
}

/// The test program and the test, as in `native::limits::swap_is_limited`. The test harness names the
/// thread of a test after it; on another thread only the program is known.
fn running_test() -> String {
    let executable = std::env::current_exe().unwrap_or_default();
    let stem = executable.file_stem().unwrap_or_default().to_string_lossy();
    // Cargo ends the name of a test program with a hash.
    let program = stem.rsplit_once('-').map_or(&*stem, |(name, _)| name);
    match thread::current().name() {
        Some(test) if test != "main" => format!("{program}::{test}"),
        _ => program.to_owned(),
    }
}

/// Appends in one write, so that lines of tests that run at once do not mix.
fn append(path: &Path, line: &str) {
    let opened = OpenOptions::new().append(true).open(path);
    let written = opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("the skip is not noted in {}: {error}", path.display());
    }
}
