//! The store through its public face: import, list, replace, remove, and archives that lie.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use stacyvm_image::{ImageError, ImageStore, UnpackLimits, unpack};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

struct Entry<'a> {
    path: &'a str,
    kind: EntryType,
    link: &'a str,
    data: &'a [u8],
    mode: u32,
    uid: u64,
}

const FILE: Entry<'_> = Entry {
    path: "",
    kind: EntryType::Regular,
    link: "",
    data: b"",
    mode: 0o644,
    uid: 0,
};

/// Writes names raw: the `tar` crate itself refuses to write hostile ones.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..entry.path.len()].copy_from_slice(entry.path.as_bytes());
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.uid);
        header.set_gid(entry.uid);
        header.set_mtime(1_000_000_000);
        header.set_size(entry.data.len() as u64);
        header.set_cksum();
        builder.append(&header, entry.data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn symlink<'a>(path: &'a str, link: &'a str) -> Entry<'a> {
    Entry {
        path,
        kind: EntryType::Symlink,
        link,
        ..FILE
    }
}

fn rootfs_archive(extra: &[u8]) -> Vec<u8> {
    archive(&[
        Entry {
            path: "usr/",
            kind: EntryType::Directory,
            mode: 0o755,
            ..FILE
        },
        Entry {
            path: "usr/bin/tool",
            data: extra,
            mode: 0o4755,
            uid: 12,
            ..FILE
        },
        Entry {
            path: "usr/bin/foreign",
            data: b"f",
            uid: 70_000,
            ..FILE
        },
        symlink("bin", "usr/bin"),
        Entry {
            path: "bin/through-link",
            data: b"t",
            ..FILE
        },
        Entry {
            path: "usr/bin/hard",
            kind: EntryType::Link,
            link: "usr/bin/tool",
            ..FILE
        },
        Entry {
            path: "dev/sda",
            kind: EntryType::Block,
            ..FILE
        },
    ])
}

fn on_disk(directory: &Path, bytes: &[u8]) -> PathBuf {
    let path = directory.join("Small.tar");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn an_import_is_whole_listed_and_removable() {
    let temporary = TempDir::new().unwrap();
    let store = ImageStore::open(&temporary.path().join("images")).unwrap();
    let tar = on_disk(temporary.path(), &rootfs_archive(b"one"));
    let mut last = None;
    let image = store
        .import(&tar, None, &mut |progress| last = Some(progress))
        .unwrap();
    assert_eq!(image.name.as_str(), "small");
    let last = last.unwrap();
    assert_eq!(last.done, last.total, "progress ends at the whole file");
    let rootfs = store.rootfs(&image);
    assert_eq!(fs::read(rootfs.join("usr/bin/tool")).unwrap(), b"one");
    assert_eq!(fs::read(rootfs.join("usr/bin/through-link")).unwrap(), b"t");
    let tool = fs::metadata(rootfs.join("usr/bin/tool")).unwrap();
    assert_eq!(
        tool.permissions().mode() & 0o7777,
        0o755,
        "the setuid bit is gone"
    );
    assert_eq!(
        tool.ino(),
        fs::metadata(rootfs.join("usr/bin/hard")).unwrap().ino()
    );
    assert!(!rootfs.join("dev/sda").exists());
    if rustix::process::geteuid().is_root() {
        assert_eq!(tool.uid(), 12);
        assert_eq!(
            fs::metadata(rootfs.join("usr/bin/foreign")).unwrap().uid(),
            65_534
        );
        assert_eq!(fs::metadata(rootfs.join("workspace")).unwrap().uid(), 1000);
    }
    assert_eq!(
        fs::metadata(rootfs.join("tmp"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o1777
    );
    let passwd = fs::read_to_string(rootfs.join("etc/passwd")).unwrap();
    assert!(passwd.contains("user:x:1000:1000::/home/user:"), "{passwd}");

    assert_eq!(store.list().unwrap(), vec![image.clone()]);
    assert!(matches!(
        store.remove("small", &|_| true),
        Err(ImageError::InUse(_))
    ));
    store.remove("small", &|_| false).unwrap();
    assert!(!rootfs.exists());
    assert!(matches!(store.get("small"), Err(ImageError::NotFound(_))));
}

#[test]
fn gzip_is_undone_and_a_second_import_replaces_the_name_but_not_the_tree() {
    let temporary = TempDir::new().unwrap();
    let store = ImageStore::open(temporary.path()).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&rootfs_archive(b"old")).unwrap();
    let tar = on_disk(temporary.path(), &gzip.finish().unwrap());
    let old = store.import(&tar, Some("team/app:1"), &mut |_| {}).unwrap();
    fs::write(&tar, rootfs_archive(b"new")).unwrap();
    let new = store.import(&tar, Some("team/app:1"), &mut |_| {}).unwrap();
    assert_ne!(old.digest, new.digest);
    assert_eq!(store.get("team/app:1").unwrap(), new);
    assert_eq!(
        fs::read(store.rootfs(&old).join("usr/bin/tool")).unwrap(),
        b"old"
    );

    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(48 * 3600);
    let home = store.rootfs(&old).parent().unwrap().to_owned();
    fs::File::open(&home)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    assert_eq!(
        store.sweep(&BTreeSet::from([old.id.clone()])).unwrap(),
        0,
        "a used tree stays"
    );
    assert_eq!(store.sweep(&BTreeSet::new()).unwrap(), 1);
    assert!(!store.rootfs(&old).exists() && store.rootfs(&new).exists());
}

#[test]
fn what_is_no_root_file_system_is_refused_and_leaves_nothing() {
    let temporary = TempDir::new().unwrap();
    let store = ImageStore::open(&temporary.path().join("images")).unwrap();
    let saved = archive(&[Entry {
        path: "manifest.json",
        data: b"[]",
        ..FILE
    }]);
    for (bytes, word) in [
        (saved, "docker export"),
        (archive(&[]), "not a root file system"),
    ] {
        let tar = on_disk(temporary.path(), &bytes);
        let error = store.import(&tar, Some("x"), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
    let torn = rootfs_archive(&[7; 4096]);
    let tar = on_disk(temporary.path(), &torn[..torn.len() / 2]);
    assert!(store.import(&tar, Some("x"), &mut |_| {}).is_err());
    assert_eq!(
        fs::read_dir(temporary.path().join("images/roots"))
            .unwrap()
            .count(),
        0
    );
    assert!(store.list().unwrap().is_empty());
}

/// A tree with a canary beside it that no archive may touch.
fn unpack_beside_canary(bytes: &[u8], limits: UnpackLimits) -> Result<(), ImageError> {
    let temporary = TempDir::new().unwrap();
    let outside = temporary.path().join("outside");
    let target = temporary.path().join("tree");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(outside.join("canary"), b"alive").unwrap();
    let before = fs::metadata(outside.join("canary")).unwrap().mode();
    let result = unpack(&mut &bytes[..], &target, limits).map(|_| ());
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
    assert_eq!(fs::metadata(outside.join("canary")).unwrap().mode(), before);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 2);
    result
}

#[test]
fn no_entry_leaves_the_tree() {
    let write = |path| Entry {
        path,
        data: b"evil",
        ..FILE
    };
    let hard = |path, link| Entry {
        path,
        kind: EntryType::Link,
        link,
        ..FILE
    };
    let refused: [&[Entry<'_>]; 5] = [
        &[write("../outside/canary")],
        &[write("a/../../outside/canary")],
        &[hard("a", "../outside/canary")],
        &[hard("a", "/outside/canary")],
        &[symlink("loop", "loop"), write("loop/x")],
    ];
    for entries in refused {
        let result = unpack_beside_canary(&archive(entries), UnpackLimits::default());
        assert!(result.is_err(), "{}", entries[0].path);
    }
    let contained: [&[Entry<'_>]; 4] = [
        &[symlink("up", ".."), write("up/outside/canary")],
        &[symlink("up", "../outside"), write("up/canary")],
        &[symlink("file", "../outside/canary"), write("file")],
        &[write("/outside/canary")],
    ];
    for entries in contained {
        // Whether it works inside the tree or is refused: it must not get out, which the helper checks.
        let _ = unpack_beside_canary(&archive(entries), UnpackLimits::default());
    }
}

#[test]
fn bombs_are_stopped() {
    let big = archive(&[Entry {
        path: "usr/big",
        data: &[0; 5000],
        ..FILE
    }]);
    let few_bytes = UnpackLimits {
        bytes: 4999,
        ..UnpackLimits::default()
    };
    assert!(matches!(
        unpack_beside_canary(&big, few_bytes),
        Err(ImageError::Refused { .. })
    ));
    assert!(
        unpack_beside_canary(
            &big,
            UnpackLimits {
                bytes: 5000,
                ..few_bytes
            }
        )
        .is_ok()
    );
    let many = archive(&[Entry { path: "a", ..FILE }, Entry { path: "b", ..FILE }]);
    let one = UnpackLimits {
        entries: 1,
        ..UnpackLimits::default()
    };
    assert!(matches!(
        unpack_beside_canary(&many, one),
        Err(ImageError::Refused { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn hostile_archives_stay_inside(
        steps in prop::collection::vec(
            (0u8..5, "(\\.\\./|/|a/|b/|\\./){0,4}[abc]", "(\\.\\./|/|a/|b/){0,4}(a|b|outside|outside/canary)"),
            1..12,
        )
    ) {
        let kinds = [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link, EntryType::Fifo];
        let entries: Vec<_> = steps
            .iter()
            .map(|(kind, path, link)| {
                let kind = kinds[usize::from(*kind)];
                let data: &[u8] = if kind == EntryType::Regular { b"evil" } else { b"" };
                Entry { path, kind, link, data, mode: 0o777, uid: 5 }
            })
            .collect();
        let _ = unpack_beside_canary(&archive(&entries), UnpackLimits::default());
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = unpack_beside_canary(&bytes, UnpackLimits::default());
    }
}
