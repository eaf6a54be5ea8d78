//! A skip is printed, noted in the file, and named after its test.
#![allow(clippy::unwrap_used)]

use std::process::Command;

use stacyvm_testing::{SKIPPED_TESTS, skip, skip_line};

/// Set for the process in which a test really skips.
const CHILD: &str = "STACYVM_TESTING_CHILD";

#[test]
fn a_skip_is_printed_and_noted_with_the_name_of_its_test() {
    if std::env::var_os(CHILD).is_some() {
        skip("needs a thing\n  of two lines");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let notes = directory.path().join("skipped");
    std::fs::write(&notes, "").unwrap();
    let test = "a_skip_is_printed_and_noted_with_the_name_of_its_test";
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env(SKIPPED_TESTS, &notes)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let line = "SKIP skips::a_skip_is_printed_and_noted_with_the_name_of_its_test: needs a thing of two lines\n";
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), line);
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(printed.contains(line), "{printed}");
}

#[test]
fn a_line_has_the_test_and_the_reason() {
    assert_eq!(skip_line("a::b", "no nft"), "SKIP a::b: no nft");
}
