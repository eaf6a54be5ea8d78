//! A whole Debian as an image. Making it takes minutes, once; it is kept beside the programs.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::harness::oci::Image;
use crate::harness::registry::{Registry, on_the_path};
use crate::harness::server::finish;
use crate::harness::{Server, need_root, skip};

/// The tar of a small Debian, made once and kept; none, loudly, where it cannot be made.
fn debian() -> Option<PathBuf> {
    if !on_the_path("debootstrap") {
        skip("needs the package debootstrap");
        return None;
    }
    let exe = std::env::current_exe().unwrap();
    let place = exe.ancestors().nth(3).unwrap().join("e2e-images");
    fs::create_dir_all(&place).unwrap();
    // One test makes it, others of other processes wait for it.
    let lock = fs::File::create(place.join("lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let tar = place.join("minbase.tar");
    if tar.is_file() {
        return Some(tar);
    }
    // The site that this machine's own packages come from.
    let sources = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(CODENAME)",
            "Created-By: Packages",
        ])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let first = sources.lines().next().and_then(|line| line.split_once(' '));
    let Some((mirror, suite)) = first else {
        skip("this machine's apt has no source of packages");
        return None;
    };
    let root = tempfile::Builder::new()
        .prefix("root-")
        .tempdir_in(&place)
        .unwrap();
    let made = finish(
        Command::new("debootstrap")
            .args(["--variant=minbase", suite])
            .arg(root.path())
            .arg(mirror),
    );
    if made.code != Some(0) {
        let last = made.stdout.lines().last().unwrap_or_default().to_owned();
        skip(format!("debootstrap made no image: {last}"));
        return None;
    }
    let part = place.join("minbase.tar.part");
    finish(
        Command::new("tar")
            .args([
                "--numeric-owner",
                "--xattrs",
                "--exclude=./dev/*",
                "--exclude=./proc/*",
            ])
            .args([
                "--exclude=./sys/*",
                "--exclude=./var/cache/apt/archives/*.deb",
            ])
            .args(["--exclude=./var/lib/apt/lists/*", "-C"])
            .arg(root.path())
            .arg("-cf")
            .arg(&part)
            .arg("."),
    )
    .ok();
    fs::rename(&part, &tar).unwrap();
    Some(tar)
}

#[test]
fn a_whole_distribution_works() {
    need_root!();
    let Some(registry) = Registry::start() else {
        return;
    };
    let Some(tar) = debian() else {
        return;
    };
    let image = Image::empty()
        .ready_layer(&tar)
        .set("Cmd", json!(["bash"]))
        .set(
            "Env",
            json!(["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]),
        );
    registry.push(&image, "debian:minbase");
    let server = Server::start();
    let name = registry.image("debian:minbase");
    let id = server.spawn(json!({ "image": name }));
    let answer = server.exec(
        &id,
        "grep -c ^ID=debian /etc/os-release; dpkg --version | head -1 | grep -c dpkg; bash -c 'id -un'; perl -e 'print 6*7'",
    );
    assert_eq!(answer["stdout"], "1\n1\nuser\n42", "{answer}");
    // As root of the sandbox the system's own files are its own.
    let root = json!({
        "command": "echo friend:x:2000:2000::/:/bin/sh >> /etc/passwd && id -un 2000 && dpkg -l | wc -l",
        "user": "root",
    });
    let answer = server.exec_with(&id, root).expect(200);
    assert_eq!(answer["exit_code"], 0, "{answer}");
    assert!(
        answer["stdout"].as_str().unwrap().starts_with("friend\n"),
        "{answer}"
    );
    let read = server.request(
        "GET",
        &format!("/sandboxes/{id}/files?path=/etc/debian_version"),
        None,
    );
    assert_eq!(read.status, 200, "{}", read.text());
    let other = server.spawn(json!({ "image": name }));
    let answer = server.exec(&other, "id friend");
    assert_ne!(
        answer["exit_code"], 0,
        "one sandbox sees another's user: {answer}"
    );
}
