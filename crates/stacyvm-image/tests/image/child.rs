//! Pulls in a process of their own, which can be killed or run in another environment.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use stacyvm_image::{Credentials, ImageError, ImageStore, Reference};

use crate::registry::options;

/// The environment variable that says which part a child process runs.
const PART: &str = "STACYVM_IMAGE_TEST_PART";

fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// The command that runs one part in a child.
pub(crate) fn command(part: &str, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child::a_part_of_another_test", "--nocapture"])
        .env(PART, part)
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
    command
}

/// Runs a part to its end and gives its output. With `path`, programs are looked for there first.
pub(crate) fn run(part: &str, variables: &[(&str, &str)], path: Option<&Path>) -> String {
    let mut command = command(part, variables);
    if let Some(path) = path {
        let usual = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(path.to_owned()).chain(std::env::split_paths(&usual));
        command.env("PATH", std::env::join_paths(paths).unwrap());
    }
    let output = command.output().unwrap();
    let output_text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output_text}{error}");
    output_text
}

/// Starts a part and lets it run.
pub(crate) fn start(part: &str, variables: &[(&str, &str)]) -> Child {
    command(part, variables)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Does nothing in a run of the tests; in a child process it runs the part.
#[test]
fn a_part_of_another_test() {
    let Ok(part) = std::env::var(PART) else {
        return;
    };
    let store = ImageStore::open(variable("STORE")).unwrap();
    let reference = Reference::parse(&variable("REFERENCE")).unwrap();
    let mut options = options();
    match part.as_str() {
        "pull" => {
            store.pull(&reference, &options, &|_| {}).unwrap();
        }
        "helper" => {
            options.registries.credentials = Credentials {
                docker_config: Some(variable("CONFIG").into()),
                ..Credentials::anonymous()
            };
            let error = store.pull(&reference, &options, &|_| {}).unwrap_err();
            println!("{error}");
        }
        "full" => {
            let error = store.pull(&reference, &options, &|_| {}).unwrap_err();
            println!("{error}");
            assert!(matches!(error, ImageError::DiskFull { .. }), "{error:?}");
            assert_eq!(store.list().unwrap(), []);
            for part in ["images", "names", "partial", "making", "trash"] {
                let there = crate::fixture::part_of(Path::new(&variable("STORE")), part);
                assert_eq!(there, Vec::<String>::new(), "{part}");
            }
        }
        other => panic!("no part {other}"),
    }
}
