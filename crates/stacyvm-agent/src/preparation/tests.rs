//! Hostile images, in a directory that stands for the root; nothing of this machine is changed.

#![allow(clippy::unwrap_used)]
use std::fs::{create_dir, create_dir_all, metadata, read_to_string, write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use super::*;

/// Runs `steps` on a root; ids are the caller's own, so that this works without root too.
fn on<T>(root: &Path, steps: impl FnOnce(&Preparation<'_>) -> T) -> T {
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    let root = rustix::fs::open(root, directory, Mode::empty()).unwrap();
    let preparation = Preparation {
        root: root.as_fd(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    steps(&preparation)
}

fn with_ids<T>(root: &Path, uid: u32, gid: u32, steps: impl FnOnce(&Preparation<'_>) -> T) -> T {
    on(root, |preparation| {
        steps(&Preparation {
            uid,
            gid,
            ..*preparation
        })
    })
}

#[test]
fn an_empty_root_becomes_a_sandbox() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    on(root, |preparation| preparation.workspace()).unwrap();
    with_ids(root, 1000, 1001, |preparation| {
        preparation.group().unwrap();
        preparation.user().unwrap();
        // Twice is once.
        preparation.group().unwrap();
        preparation.user().unwrap();
    });
    assert!(metadata(root.join("workspace")).unwrap().is_dir());
    let passwd = read_to_string(root.join("etc/passwd")).unwrap();
    assert_eq!(passwd, "user:x:1000:1001::/home/user:/bin/sh\n");
    let group = read_to_string(root.join("etc/group")).unwrap();
    assert_eq!(group, "user:x:1001:\n");
    let (uid, gid) = on(root, |preparation| (preparation.uid, preparation.gid));
    with_ids(root, uid, gid, |preparation| preparation.home()).unwrap();
    assert!(root.join("home").is_dir() || uid == 0);
}

#[test]
fn everybody_may_write_to_the_temporary_directory() {
    let root = tempfile::tempdir().unwrap();
    let mode = || metadata(root.path().join("tmp")).unwrap().mode() & 0o7777;
    on(root.path(), |preparation| preparation.temporary()).unwrap();
    assert_eq!(mode(), 0o1777, "made");
    fchmod(
        std::fs::File::open(root.path().join("tmp")).unwrap(),
        Mode::from_raw_mode(0o755),
    )
    .unwrap();
    on(root.path(), |preparation| preparation.temporary()).unwrap();
    assert_eq!(mode(), 0o1777, "opened");
}

#[test]
fn accounts_that_are_there_are_left_alone() {
    let root = tempfile::tempdir().unwrap();
    create_dir(root.path().join("etc")).unwrap();
    let file = root.path().join("etc/passwd");
    for (before, after) in [
        ("app:x:1000:1000::/app:/bin/sh\n", ""),
        // A line that has no end yet, and a name that is taken.
        (
            "user:x:7:7::/:/bin/sh",
            "\nsandbox:x:1000:1000::/home/user:/bin/sh\n",
        ),
        ("user:x:7:7::/:\nsandbox:x:8:8::/:\n", ""),
        ("broken\n:::\n", "user:x:1000:1000::/home/user:/bin/sh\n"),
    ] {
        write(&file, before).unwrap();
        with_ids(root.path(), 1000, 1000, |preparation| preparation.user()).unwrap();
        assert_eq!(read_to_string(&file).unwrap(), format!("{before}{after}"));
    }
}

#[test]
fn links_lead_nowhere_outside() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    create_dir_all(root.join("etc")).unwrap();
    let outside = directory.path().join("outside");
    write(&outside, "untouched\n").unwrap();
    symlink(&outside, root.join("etc/passwd")).unwrap();
    symlink("../../outside", root.join("etc/group")).unwrap();
    symlink(directory.path().join("new"), root.join("workspace")).unwrap();
    with_ids(&root, 1000, 1000, |inside| {
        assert!(inside.user().is_err());
        assert!(inside.group().is_err());
        assert!(inside.workspace().is_err());
    });
    assert_eq!(read_to_string(&outside).unwrap(), "untouched\n");
    assert!(!directory.path().join("new").exists());
}

#[test]
fn a_workspace_may_be_a_link_inside() {
    let root = tempfile::tempdir().unwrap();
    create_dir(root.path().join("app")).unwrap();
    symlink("/app", root.path().join("workspace")).unwrap();
    on(root.path(), |preparation| preparation.workspace()).unwrap();
    let owner = metadata(root.path().join("app")).unwrap().uid();
    assert_eq!(owner, rustix::process::geteuid().as_raw());
}

#[test]
fn what_is_no_file_is_not_written_to() {
    let root = tempfile::tempdir().unwrap();
    create_dir_all(root.path().join("etc/group")).unwrap();
    let fifo = root.path().join("etc/passwd");
    let kind = FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, Mode::from_raw_mode(0o644), 0).unwrap();
    with_ids(root.path(), 1000, 1000, |preparation| {
        assert!(preparation.user().is_err());
        assert!(preparation.group().is_err());
    });
}

#[test]
fn nothing_of_the_kernels_or_ours_is_given_away() {
    for (path, may) in [
        ("/workspace", true),
        ("/app", true),
        ("/process", true),
        ("/", false),
        ("/proc", false),
        ("/proc/1", false),
        ("/sys/fs", false),
        ("/dev/shm", false),
        ("/.stacyvm", false),
        ("/.stacyvm/run", false),
        ("(unreachable)/x", false),
    ] {
        assert_eq!(is_unprotected(path), may, "{path}");
    }
}
