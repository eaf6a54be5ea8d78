//! What each operation answers.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use stacyvm_types::FileMode;

use super::{CANARY, Fixture};
use crate::files::FileError;

/// The kind of an error, for short comparisons.
fn kind<T>(result: Result<T, FileError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(FileError::NotFound(_)) => "not found",
        Err(FileError::Invalid(_)) => "invalid",
        Err(FileError::Denied(_)) => "denied",
        Err(FileError::Conflict(_)) => "conflict",
        Err(FileError::Limit(_)) => "limit",
        Err(FileError::Unsupported(_)) => "unsupported",
        Err(FileError::Failed(_)) => "failed",
    }
}

#[test]
fn stat_describes_a_link_itself() {
    let fixture = Fixture::new();
    fixture.write("a/file", b"12345").unwrap();
    symlink("file", fixture.inside("workspace/a/link")).unwrap();
    let file = fixture.service.stat("a/file").unwrap();
    assert_eq!(
        (file.name.as_str(), file.path.as_str(), file.size),
        ("file", "/workspace/a/file", 5)
    );
    assert_eq!(file.mode.to_string(), "0644");
    assert!(!file.is_dir && !file.is_symlink);
    assert_eq!(file.owner, "root");
    assert_eq!(file.group, "0", "there is no /etc/group, so the number");
    let link = fixture.service.stat("/workspace/a/link").unwrap();
    assert!(link.is_symlink && !link.is_dir);
    assert_eq!(link.symlink_target.as_deref(), Some("file"));
    let root = fixture.service.stat("/").unwrap();
    assert_eq!((root.name.as_str(), root.path.as_str()), ("/", "/"));
    assert!(root.is_dir);
    let missing = fixture.service.stat("/x/y").unwrap_err();
    assert_eq!(missing.to_string(), "\"/x/y\" does not exist");
    assert_eq!(kind(fixture.service.stat("a/file/b")), "not found");
    assert_eq!(kind(fixture.service.stat(&"n".repeat(300))), "invalid");
}

#[test]
fn owners_follow_a_changed_table() {
    let fixture = Fixture::new();
    assert_eq!(fixture.service.stat("/etc").unwrap().owner, "root");
    let table = fixture.inside("etc/passwd");
    fs::write(&table, "administrator:x:0:0::/:/bin/sh\n").unwrap();
    assert_eq!(fixture.service.stat("/etc").unwrap().owner, "administrator");
    fs::remove_file(&table).unwrap();
    symlink(fixture.outside().join("canary"), &table).unwrap();
    assert_eq!(fixture.service.stat("/etc").unwrap().owner, "0");
}

#[test]
fn writing_replaces_at_once_and_leaves_nothing_when_given_up() {
    let fixture = Fixture::new();
    fixture.write("deep/er/file", b"old").unwrap();
    let mode = FileMode::from_bits(0o4751);
    let mut pending = fixture
        .service
        .begin_write("deep/er/file", mode, false)
        .unwrap();
    pending.write(b"new").unwrap();
    assert_eq!(fixture.read("deep/er/file").unwrap(), b"old");
    pending.commit().unwrap();
    assert_eq!(fixture.read("deep/er/file").unwrap(), b"new");
    assert_eq!(fixture.service.stat("deep/er/file").unwrap().mode, mode);

    let mut pending = fixture
        .service
        .begin_write("deep/er/file", mode, false)
        .unwrap();
    pending.write(b"given up").unwrap();
    drop(pending);
    assert_eq!(fixture.read("deep/er/file").unwrap(), b"new");
    assert_eq!(fixture.service.list("deep/er", 1).unwrap().len(), 1);

    assert_eq!(kind(fixture.write("deep", b"")), "invalid");
    assert_eq!(kind(fixture.write("/", b"")), "invalid");
    let without_parents = fixture.service.begin_write("no/such/file", mode, false);
    assert_eq!(kind(without_parents), "not found");
    assert_eq!(kind(fixture.write("deep/er/file/below", b"")), "not found");
}

#[test]
fn writing_goes_through_links_inside_the_root() {
    let fixture = Fixture::new();
    fixture.write("real/file", b"old").unwrap();
    let workspace = fixture.inside("workspace");
    symlink("real/file", workspace.join("relative")).unwrap();
    symlink("/workspace/relative", workspace.join("absolute")).unwrap();
    symlink("missing/target", workspace.join("dangling")).unwrap();
    symlink("real", workspace.join("directory")).unwrap();
    symlink("loop", workspace.join("loop")).unwrap();
    fixture.write("absolute", b"new").unwrap();
    assert_eq!(fixture.read("real/file").unwrap(), b"new");
    assert!(fixture.service.stat("absolute").unwrap().is_symlink);
    fixture.write("dangling", b"made").unwrap();
    assert_eq!(fixture.read("missing/target").unwrap(), b"made");
    assert_eq!(kind(fixture.write("directory", b"")), "invalid");
    assert_eq!(kind(fixture.write("loop", b"")), "invalid");

    // A host path means the path of that name inside.
    symlink(fixture.outside().join("canary"), workspace.join("trap")).unwrap();
    fixture.write("trap", b"inside").unwrap();
    let canary = fixture.outside().join("canary");
    let inside = fixture.inside(canary.to_str().unwrap().trim_start_matches('/'));
    assert_eq!(fs::read(inside).unwrap(), b"inside");
    fixture.assert_outside_untouched();
}

#[test]
fn reading_takes_regular_files_only_and_never_waits() {
    let fixture = Fixture::new();
    fixture.write("file", b"0123456789").unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mkfifoat(rustix::fs::CWD, fixture.inside("workspace/pipe"), mode).unwrap();
    let _socket =
        std::os::unix::net::UnixListener::bind(fixture.inside("workspace/socket")).unwrap();
    for (offset, length, expected) in [
        (0, None, "0123456789"),
        (3, Some(4), "3456"),
        (8, Some(100), "89"),
        (10, None, ""),
        (99, None, ""),
    ] {
        use std::io::Read;
        let opened = fixture.service.open_read("file", offset, length).unwrap();
        assert_eq!(opened.length, expected.len() as u64);
        let mut text = String::new();
        opened
            .file
            .take(opened.length)
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, expected);
    }
    for path in ["/", "pipe", "socket"] {
        assert_eq!(kind(fixture.read(path)), "invalid", "{path}");
    }
    assert_eq!(kind(fixture.write("pipe", b"")), "invalid");
    assert_eq!(kind(fixture.read("nothing")), "not found");
}

#[test]
fn listing_is_sorted_and_stops_at_its_depth() {
    let fixture = Fixture::new();
    for path in ["b/file", "a/x/deep", "a.txt"] {
        fixture.write(path, b"").unwrap();
    }
    symlink("a", fixture.inside("workspace/link")).unwrap();
    let paths = |path: &str, depth| -> Vec<String> {
        let files = fixture.service.list(path, depth).unwrap();
        files.into_iter().map(|file| file.path).collect()
    };
    let top = ["a", "a.txt", "b", "link"].map(|name| format!("/workspace/{name}"));
    assert_eq!(paths(".", 1), top);
    assert_eq!(paths("/workspace", 0), top);
    assert_eq!(
        paths(".", 9),
        ["a", "a.txt", "a/x", "a/x/deep", "b", "b/file", "link"]
            .map(|name| format!("/workspace/{name}"))
    );
    assert_eq!(paths("link", 1), ["/workspace/link/x"]);
    assert_eq!(kind(fixture.service.list("a.txt", 1)), "invalid");
    assert_eq!(kind(fixture.service.list("nothing", 1)), "not found");
}

#[test]
fn removing_follows_no_link_and_keeps_what_the_sandbox_needs() {
    let fixture = Fixture::new();
    fixture.lay_traps();
    fixture.write("tree/a/b", b"").unwrap();
    symlink(fixture.outside(), fixture.inside("workspace/tree/trap")).unwrap();
    assert_eq!(kind(fixture.service.remove("tree", false)), "invalid");
    assert_eq!(kind(fixture.service.remove("tree", true)), "ok");
    assert_eq!(kind(fixture.service.remove("tree", true)), "not found");
    for link in ["absolute", "climb", "climb-file", "loop"] {
        assert_eq!(kind(fixture.service.remove(link, true)), "ok", "{link}");
        assert_eq!(kind(fixture.service.stat(link)), "not found");
    }
    for path in ["/", ".", "/workspace", "/tmp", "/../x"] {
        assert_eq!(
            kind(fixture.service.remove(path, true)),
            "invalid",
            "{path}"
        );
    }
    fixture.assert_outside_untouched();
}

#[test]
fn a_very_deep_tree_can_be_made_listed_and_removed() {
    let fixture = Fixture::new();
    // Deeper than any path is long: each level is entered by itself.
    let mut here: std::os::fd::OwnedFd =
        fs::File::open(fixture.inside("workspace")).unwrap().into();
    for _ in 0..1500 {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mkdirat(&here, "level", mode).unwrap();
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        here = rustix::fs::openat(&here, "level", flags, rustix::fs::Mode::empty()).unwrap();
    }
    assert!(fixture.service.list(".", u32::MAX).unwrap().len() > 600);
    fixture.service.remove("level", true).unwrap();
    assert_eq!(fixture.service.list("/workspace", 1).unwrap(), []);
}

#[test]
fn moving_makes_parents_and_refuses_what_makes_no_sense() {
    let fixture = Fixture::new();
    fixture.write("file", b"1").unwrap();
    fixture.write("tree/inner", b"2").unwrap();
    fixture.service.rename("file", "new/place/name").unwrap();
    assert_eq!(fixture.read("new/place/name").unwrap(), b"1");
    assert_eq!(kind(fixture.service.rename("file", "x")), "not found");
    assert_eq!(kind(fixture.service.stat("x")), "not found");
    assert_eq!(kind(fixture.service.rename("no", "p/q")), "not found");
    assert_eq!(kind(fixture.service.stat("p")), "not found");
    assert_eq!(kind(fixture.service.rename("tree", "tree/in")), "invalid");
    assert_eq!(kind(fixture.service.rename("tree", "/")), "invalid");
    assert_eq!(kind(fixture.service.rename("/tmp", "x")), "invalid");
    assert_eq!(
        kind(fixture.service.rename("new/place/name", "tree")),
        "conflict"
    );
    assert_eq!(kind(fixture.service.rename("tree", "new")), "conflict");
    fixture.write("other", b"3").unwrap();
    fixture.service.rename("other", "new/place/name").unwrap();
    assert_eq!(fixture.read("new/place/name").unwrap(), b"3");
}

#[test]
fn mkdir_is_idempotent_and_exact_about_the_mode() {
    let fixture = Fixture::new();
    let mode = FileMode::from_bits(0o777);
    fixture.service.mkdir("a/b/c", mode).unwrap();
    assert_eq!(fixture.service.stat("a/b/c").unwrap().mode, mode);
    fixture
        .service
        .mkdir("a/b/c", FileMode::from_bits(0o700))
        .unwrap();
    assert_eq!(fixture.service.stat("a/b/c").unwrap().mode, mode);
    fixture.service.mkdir("/", mode).unwrap();
    fixture.write("file", b"").unwrap();
    assert_eq!(kind(fixture.service.mkdir("file", mode)), "conflict");
    assert_eq!(kind(fixture.service.mkdir("file/x", mode)), "not found");
}

#[test]
fn chmod_follows_links_inside_only() {
    let fixture = Fixture::new();
    fixture.lay_traps();
    fixture.write("file", b"").unwrap();
    symlink("file", fixture.inside("workspace/link")).unwrap();
    let unreadable = FileMode::from_bits(0o200);
    fixture.service.chmod("link", unreadable).unwrap();
    assert_eq!(fixture.service.stat("file").unwrap().mode, unreadable);
    fixture.service.chmod("file", FileMode::FILE).unwrap();
    let mode = fs::metadata(fixture.inside("workspace/file")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o7777, 0o644);
    for trap in ["absolute-file", "climb-file"] {
        assert_eq!(kind(fixture.service.chmod(trap, unreadable)), "not found");
    }
    assert_eq!(kind(fixture.service.chmod("loop", unreadable)), "invalid");
    fixture.assert_outside_untouched();
}

#[test]
fn globs_find_what_shells_find_without_following_links_downwards() {
    let fixture = Fixture::new();
    for path in [
        "src/main.rs",
        "src/lib.rs",
        "src/deep/er/mod.rs",
        "readme.md",
        "notes.txt",
        ".hidden",
        "odd[1].txt",
    ] {
        fixture.write(path, b"").unwrap();
    }
    let workspace = fixture.inside("workspace");
    symlink(".", workspace.join("src/cycle")).unwrap();
    symlink("src", workspace.join("alias")).unwrap();
    symlink("nowhere", workspace.join("broken.md")).unwrap();
    symlink(fixture.outside(), workspace.join("trap")).unwrap();
    let found = |pattern: &str| -> Vec<String> {
        let paths = fixture.service.glob(pattern).unwrap();
        let relative = |path: String| path.replace("/workspace/", "");
        paths.into_iter().map(relative).collect()
    };
    assert_eq!(found("src/*.rs"), ["src/lib.rs", "src/main.rs"]);
    assert_eq!(found("**/mod.rs"), ["src/deep/er/mod.rs"]);
    assert_eq!(
        found("/workspace/**/*.rs"),
        ["src/deep/er/mod.rs", "src/lib.rs", "src/main.rs"]
    );
    assert_eq!(
        found("*.{md,txt}"),
        ["broken.md", "notes.txt", "odd[1].txt", "readme.md"]
    );
    assert_eq!(found("{src/main,notes}.*"), ["notes.txt", "src/main.rs"]);
    assert_eq!(found("alias/ma?n.r[a-s]"), ["alias/main.rs"]);
    assert_eq!(found("odd\\[1\\].txt"), ["odd[1].txt"]);
    assert_eq!(found("src/deep/**"), ["src/deep/er", "src/deep/er/mod.rs"]);
    assert_eq!(found("./src/../readme.md"), ["readme.md"]);
    assert_eq!(found("trap/*"), Vec::<String>::new());
    assert_eq!(found("nothing/**"), Vec::<String>::new());
    for wrong in ["", "a[", "{a", "x\0", "*/../../.."] {
        assert_eq!(kind(fixture.service.glob(wrong)), "invalid", "{wrong:?}");
    }
}

#[test]
fn files_that_the_kernel_makes_up_are_read_whole() {
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let root = rustix::fs::open("/", flags, rustix::fs::Mode::empty()).unwrap();
    let service = crate::files::FileService::new(root);
    let opened = service.open_read("/proc/self/status", 0, None).unwrap();
    assert_eq!(opened.info.size, opened.length);
    let text = std::io::read_to_string(opened.file).unwrap();
    assert_eq!(text.len() as u64, opened.length);
    assert!(text.starts_with("Name:"));
    // The magic links of /proc lead anywhere; they are never followed.
    for path in ["/proc/self/root/etc/passwd", "/proc/self/cwd/Cargo.toml"] {
        assert_eq!(kind(service.open_read(path, 0, None)), "invalid", "{path}");
    }
    assert_ne!(CANARY, text);
}

#[test]
fn moving_between_file_systems_copies_and_removes() {
    use std::os::unix::fs::MetadataExt;
    let Ok(there) = tempfile::tempdir_in("/dev/shm") else {
        return stacyvm_testing::skip("there is no /dev/shm");
    };
    let here = tempfile::tempdir().unwrap();
    if fs::metadata(here.path()).unwrap().dev() == fs::metadata(there.path()).unwrap().dev() {
        return stacyvm_testing::skip("/dev/shm and the temporary directory are one file system");
    }
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let root = rustix::fs::open("/", flags, rustix::fs::Mode::empty()).unwrap();
    let service = crate::files::FileService::new(root);
    let path = |place: &tempfile::TempDir, name: &str| {
        place.path().join(name).to_str().unwrap().to_owned()
    };
    fs::create_dir_all(here.path().join("tree/closed")).unwrap();
    fs::write(here.path().join("tree/file"), "content").unwrap();
    symlink("file", here.path().join("tree/link")).unwrap();
    fs::write(here.path().join("outside"), CANARY).unwrap();
    symlink(here.path().join("outside"), here.path().join("tree/trap")).unwrap();
    let closed = fs::Permissions::from_mode(0o500);
    fs::set_permissions(here.path().join("tree/closed"), closed).unwrap();
    let before = service.list(&path(&here, "tree"), 9).unwrap();
    let from = path(&here, "tree");
    service.rename(&from, &path(&there, "new/tree")).unwrap();
    assert_eq!(kind(service.stat(&from)), "not found");
    let after = service.list(&path(&there, "new/tree"), 9).unwrap();
    let facts = |files: Vec<stacyvm_types::FileInfo>| -> Vec<_> {
        let fact = |file: stacyvm_types::FileInfo| (file.name, file.mode, file.symlink_target);
        files.into_iter().map(fact).collect()
    };
    assert_eq!(facts(after), facts(before));
    let file = there.path().join("new/tree/file");
    assert_eq!(fs::read_to_string(&file).unwrap(), "content");
    assert_eq!(
        fs::read_to_string(here.path().join("outside")).unwrap(),
        CANARY
    );

    // A file in the way of a tree: nothing is lost, and no half copy stays.
    fs::write(here.path().join("plain"), "plain").unwrap();
    let back = service.rename(&path(&there, "new/tree"), &path(&here, "plain"));
    assert_eq!(kind(back), "conflict");
    assert!(file.exists());
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 2);
}
