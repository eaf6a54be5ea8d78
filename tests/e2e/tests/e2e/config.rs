//! A wrong configuration stops the start, and says which file, which key and why.

use std::fs;

use tempfile::TempDir;

use crate::harness::server::{Finished, bare_command, finish};

struct Refused {
    directory: TempDir,
}

impl Refused {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("stacyvm.yaml"), text).unwrap();
        Self { directory }
    }

    /// The file is found by its name in the working directory.
    fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = bare_command(self.directory.path());
        command.args(arguments).env(
            "STACYVM_SERVER_DATA_DIR",
            self.directory.path().join("data"),
        );
        finish(&mut command)
    }
}

#[track_caller]
fn stops_the_start(text: &str, words: &[&str]) {
    let place = Refused::new(text);
    for arguments in [&["serve"][..], &["config", "lint"]] {
        let finished = place.run(arguments);
        let said = format!("{}{}", finished.stdout, finished.stderr);
        assert_eq!(finished.code, Some(1), "{arguments:?}: {said}");
        for word in words.iter().chain(&["stacyvm.yaml"]) {
            assert!(said.contains(word), "{arguments:?} misses {word:?}: {said}");
        }
    }
}

#[test]
fn a_value_of_the_wrong_type() {
    stops_the_start("server:\n  port: many\n", &["server.port", "many"]);
}

#[test]
fn a_word_that_is_none_of_the_choices() {
    stops_the_start(
        "logging:\n  level: loud\n",
        &["logging.level", "loud", "debug"],
    );
}

#[test]
fn a_duration_that_go_would_not_read() {
    stops_the_start("defaults:\n  ttl: 1d\n", &["defaults.ttl", "1d"]);
}

#[test]
fn authentication_without_a_key() {
    stops_the_start("auth:\n  enabled: true\n", &["auth.api_key"]);
}

#[test]
fn a_collector_that_this_program_cannot_send_to() {
    stops_the_start(
        "telemetry:\n  otlp_endpoint: http://127.0.0.1:4318\n",
        &["telemetry.otlp_endpoint", "otlp"],
    );
}

#[test]
fn an_unknown_key_warns_and_names_the_nearest() {
    let place = Refused::new("server:\n  prot: 1\n");
    let finished = place.run(&["config", "lint"]);
    let said = format!("{}{}", finished.stdout, finished.stderr);
    assert!(
        said.contains("server.prot") && said.contains("port"),
        "{said}"
    );
}

#[test]
fn an_environment_variable_is_named_as_the_culprit() {
    let place = Refused::new("");
    let mut command = bare_command(place.directory.path());
    command.arg("serve").env("STACYVM_SERVER_PORT", "many").env(
        "STACYVM_SERVER_DATA_DIR",
        place.directory.path().join("data"),
    );
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("STACYVM_SERVER_PORT"),
        "{}",
        finished.stderr
    );
}

#[test]
fn show_says_where_a_value_came_from_and_hides_the_key() {
    let place = Refused::new("auth:\n  api_key: k-secret\ndefaults:\n  memory_mb: 123\n");
    let shown = place.run(&["config", "show"]).ok();
    assert!(
        shown.contains("123") && shown.contains("stacyvm.yaml"),
        "{shown}"
    );
    assert!(!shown.contains("k-secret"), "the key is shown");
}
