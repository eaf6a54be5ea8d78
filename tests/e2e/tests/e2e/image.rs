//! `stacyvm image`: a root file system out of a tar file.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::oci::busybox;
use crate::harness::server::{Options, finish};
use crate::harness::{Server, need_root, skip};

/// A root file system that is one program and a few names for it.
fn make_tar(busybox: &Path, directory: &Path) -> PathBuf {
    let root = directory.join("rootfs");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "ls", "id", "echo"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/motd"), "from a tar file\n").unwrap();
    let tar = directory.join("small.tar");
    let finished = finish(
        std::process::Command::new("tar")
            .arg("-cf")
            .arg(&tar)
            .arg("-C")
            .arg(&root)
            .arg("."),
    );
    finished.ok();
    tar
}

#[test]
fn a_tar_file_becomes_an_image_and_a_sandbox() {
    need_root!();
    let Some(busybox) = busybox() else {
        skip("needs the package busybox-static");
        return;
    };
    let server = Server::with(Options {
        more: "images:\n  pull: never\n".to_owned(),
        ..Options::default()
    });
    let tar = make_tar(&busybox, &server.scratch(""));
    server
        .cli(&["image", "import", tar.to_str().unwrap(), "small"])
        .ok();
    assert!(server.cli(&["image", "list"]).ok().contains("small"));

    let id = server.spawn(json!({"image": "small"}));
    let answer = server.exec(&id, "cat /etc/motd; ls /; id -u; echo x > /workspace/y");
    assert_eq!(answer["exit_code"], 0, "{answer}");
    let text = answer["stdout"].as_str().unwrap();
    assert!(text.starts_with("from a tar file\n"), "{text}");
    assert!(text.ends_with("1000\n"), "{text}");
    assert!(!text.contains("boot"), "the host's root shows: {text}");
    server
        .request("DELETE", &format!("/sandboxes/{id}"), None)
        .expect(200);

    server.cli(&["image", "rm", "small"]).ok();
    let refused = server.request("POST", "/sandboxes", Some(json!({"image": "small"})));
    assert_eq!(refused.expect(404)["code"], "NOT_FOUND");
}

#[test]
fn images_that_are_not_there_are_refused_with_a_hint() {
    need_root!();
    let server = Server::with(Options {
        more: "images:\n  pull: never\n".to_owned(),
        ..Options::default()
    });
    for image in ["python:3.99", "/etc", "../..", "/"] {
        let response = server.request("POST", "/sandboxes", Some(json!({"image": image})));
        assert!(
            matches!(response.status, 400 | 404),
            "{image}: {} {}",
            response.status,
            response.text()
        );
    }
    assert_eq!(server.list(), Vec::<String>::new());
}
