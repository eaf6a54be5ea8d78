//! What a user without privilege gets.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::confined::{EACCES, EROFS, LOOK, assert_confined};
use crate::scripted;
use crate::support::{Fixture, Launcher};

/// A user id that nobody has.
const SOMEBODY: u32 = 12_345;

#[test]
fn without_root_it_works_with_less_and_says_so() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("somebody");
    // Where the build is may be closed to others. By another process: one that is forked off here
    // while the copy is written would keep it busy.
    let copy = home.directory.path().join("launcher");
    let copied = Command::new("cp")
        .arg(&program)
        .arg(&copy)
        .status()
        .unwrap();
    assert!(copied.success());

    let facts = look_as_somebody(&home, &copy, "somebody", &[], false);
    assert_eq!(facts["writes"]["/etc/owned-by-root"], EACCES);
    assert_eq!(facts["writes"]["/usr/new"], 0, "its layers are its own");
    let facts = look_as_somebody(&home, &copy, "somebody-read-only", &[], true);
    assert_eq!(facts["writes"]["/etc/for-everybody"], EROFS);
    let arguments = ["--overlay-by-path"];
    look_as_somebody(&home, &copy, "somebody-by-path", &arguments, false);
}

/// Launches as a user without privilege and answers what the sandbox saw.
fn look_as_somebody(
    home: &Fixture,
    program: &Path,
    id: &str,
    arguments: &[&str],
    read_only: bool,
) -> Value {
    let mut request = home.request(id, read_only, LOOK);
    let workspace = request.box_dir.join("layers/0/upper/workspace");
    fs::write(workspace.join("inside.py"), include_str!("inside.py")).unwrap();
    give_to(&home.directory.path().join("boxes"), SOMEBODY);
    let mut launcher = Launcher::start(program, arguments, Some(SOMEBODY));
    let mut sandbox = launcher.launch(&mut request).unwrap();
    sandbox.set_up().unwrap();
    assert!(sandbox.ended());
    let facts = fs::read_to_string(workspace.join("facts.json")).unwrap();
    let facts: Value = serde_json::from_str(&facts).unwrap();
    assert_confined(&facts, id);
    assert_eq!(facts["ids"][0], serde_json::json!([1000, 1000, 1000]));
    assert_eq!(fs::metadata(workspace.join("new")).unwrap().uid(), SOMEBODY);
    let degraded = sandbox.launched.degraded.join("\n");
    for word in [
        "one user id only",
        "memory is not limited",
        "processes is not limited",
    ] {
        assert!(degraded.contains(word), "{word} in:\n{degraded}");
    }
    facts
}

fn give_to(path: &Path, uid: u32) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give_to(&entry.unwrap().path(), uid);
        }
    }
}
