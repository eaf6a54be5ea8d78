//! Running nft(8).

use std::io::{ErrorKind, Write};
use std::process::{Command, Stdio};

use crate::FirewallError;

/// The prefix of the names of all providers' tables.
pub const TABLE_PREFIX: &str = "stacyvm_";
/// How much of an error message of nft is kept, characters.
const MAX_MESSAGE_CHARS: usize = 300;

/// Runs commands in one transaction: all of them take effect, or none. Blocks for some tens of
/// milliseconds.
///
/// # Errors
/// When nft refused them, or is not installed.
pub fn apply(commands: &str) -> Result<(), FirewallError> {
    let mut child = nft()
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_run)?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(commands.as_bytes()));
    let output = child.wait_with_output().map_err(not_run)?;
    if output.status.success() {
        return written.map_err(not_run);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(FirewallError::Refused(message(&stderr)))
}

fn not_run(error: std::io::Error) -> FirewallError {
    match error.kind() {
        ErrorKind::NotFound => FirewallError::NoNft,
        _ => FirewallError::Refused(error.to_string()),
    }
}

/// The first line that names an error, or all of it where none does; bounded.
fn message(stderr: &str) -> String {
    let first = stderr.lines().find(|line| line.contains("rror"));
    first
        .unwrap_or(stderr)
        .chars()
        .take(MAX_MESSAGE_CHARS)
        .collect()
}

/// The commands that remove a table, whether it exists or not. `family` is nft's word: `inet`.
pub fn removal_commands(family: &str, table: &str) -> String {
    format!("add table {family} {table}\ndelete table {family} {table}\n")
}

/// Whether a table exists and its listing contains all of these texts, each of which stands for a
/// part that could have been removed on its own. Blocks for some milliseconds.
pub fn is_loaded(family: &str, table: &str, texts: &[&str]) -> bool {
    list(&["list", "table", family, table]).is_some_and(|listing| contains_all(&listing, texts))
}

fn contains_all(listing: &str, texts: &[&str]) -> bool {
    texts.iter().all(|text| listing.contains(text))
}

/// The output of nft for these arguments; none when it fails. Blocks for some milliseconds.
pub fn list(arguments: &[&str]) -> Option<String> {
    let output = nft()
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then_some(text)
}

/// The system's nft. The directories of administrators' programs are searched too, because the
/// `PATH` of a service often lacks them.
fn nft() -> Command {
    let mut command = Command::new("nft");
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_may_not_exist_is_added_before_it_is_deleted() {
        assert_eq!(
            removal_commands("inet", "stacyvm_1"),
            "add table inet stacyvm_1\ndelete table inet stacyvm_1\n"
        );
    }

    #[test]
    fn a_table_with_a_part_missing_does_not_count_as_loaded() {
        let listing =
            "table inet stacyvm_1 {\n chain forward {\n  iifname \"svm1\" jump outwards\n }\n}\n";
        assert!(contains_all(listing, &[]));
        assert!(contains_all(listing, &["jump outwards", "\"svm1\""]));
        assert!(!contains_all(listing, &["jump outwards", "jump to_host"]));
        assert!(!contains_all("", &["jump outwards"]));
    }

    #[test]
    fn the_line_with_the_error_is_what_is_kept_of_a_refusal() {
        let stderr = "warning: x\n/dev/stdin:3:1-5: Error: syntax error\ntable bad\n^^^^^\n";
        assert_eq!(message(stderr), "/dev/stdin:3:1-5: Error: syntax error");
        assert_eq!(message("no such thing\n"), "no such thing\n");
        let long = format!("Error: {}", "ü".repeat(1000));
        assert_eq!(message(&long).chars().count(), MAX_MESSAGE_CHARS);
    }

    #[test]
    fn a_missing_program_is_told_from_a_refusal() {
        assert!(matches!(
            not_run(ErrorKind::NotFound.into()),
            FirewallError::NoNft
        ));
        assert!(matches!(
            not_run(ErrorKind::BrokenPipe.into()),
            FirewallError::Refused(_)
        ));
    }
}
