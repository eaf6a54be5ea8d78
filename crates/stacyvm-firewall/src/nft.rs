//! Running nft(8).

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use crate::FirewallError;

/// How the tables of all providers begin.
pub const TABLE: &str = "stacyvm_";
/// How much of a complaint is worth keeping.
const COMPLAINT: usize = 300;

/// Carries commands out, all or none. Blocks for some tens of milliseconds.
///
/// # Errors
/// When they were refused, or there is no nft.
pub fn apply(commands: &str) -> Result<(), FirewallError> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => FirewallError::NoNft,
        _ => FirewallError::Refused(error.to_string()),
    };
    let mut child = nft()
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(commands.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return written.map_err(failed);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let first = complaint.lines().find(|line| line.contains("rror"));
    let first = first.unwrap_or(&complaint);
    Err(FirewallError::Refused(
        first.chars().take(COMPLAINT).collect(),
    ))
}

/// Commands that remove a table, whether it is there or not. `family` is nft's word: `inet`.
pub fn removal(family: &str, table: &str) -> String {
    format!("add table {family} {table}\ndelete table {family} {table}\n")
}

/// Whether a table stands as it was loaded: with all of these words in its text. Blocks for some
/// milliseconds.
pub fn stands(family: &str, table: &str, words: &[&str]) -> bool {
    listed(&["list", "table", family, table])
        .is_some_and(|text| words.iter().all(|word| text.contains(word)))
}

/// What nft answers to these arguments; none when it refuses. Blocks for some milliseconds.
pub fn listed(arguments: &[&str]) -> Option<String> {
    let output = nft()
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// A program of the system's, found where administrators' programs are also when the server's own
/// path does not lead there.
fn nft() -> Command {
    let mut command = Command::new("nft");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command
}
