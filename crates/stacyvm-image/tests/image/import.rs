//! Importing root file systems, honest and hostile ones.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use stacyvm_image::{ImageError, ImageStore, Limits};
use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
use tar::{EntryType, Header};

use crate::builder::{TarEntry, rootfs, tar_of};
use crate::fixture::{Fixture, root};

#[test]
fn an_archive_becomes_an_image() {
    let fixture = Fixture::new();
    let path = fixture.archive(&tar_of(&rootfs()));
    let total = fs::metadata(&path).unwrap().len();
    let mut last = None;
    let image = fixture
        .store
        .import(&path, Some("team/base:1"), &mut |progress| {
            assert!(progress.read <= progress.total && progress.total == total);
            last = Some(progress);
        })
        .unwrap();
    assert_eq!(last.unwrap().entries, image.entries);
    assert_eq!((image.name.as_str(), image.entries), ("team/base:1", 10));
    assert!(image.digest.starts_with("sha256:") && image.digest.len() == 71);
    assert_eq!(fixture.store.list().unwrap(), std::slice::from_ref(&image));
    assert_eq!(fixture.store.get("team/base:1").unwrap(), Some(image));
    let at = |path: &str| fixture.file("team/base:1", path);
    assert_eq!(fs::read(at("bin/bash")).unwrap(), b"#!shell");
    let shell = fs::metadata(at("usr/bin/sh")).unwrap();
    assert_eq!(
        (shell.mode() & 0o7777, shell.nlink(), shell.mtime()),
        (0o755, 2, 1_600_000_000)
    );
    let owned = fs::metadata(at("var/owned")).unwrap();
    assert_eq!(owned.mode() & 0o7777, 0o640);
    if root() {
        assert_eq!((owned.uid(), owned.gid()), (33, 33));
    }
    assert_eq!(fs::metadata(at("var")).unwrap().mtime(), 1_600_000_000);
}

#[test]
fn what_a_sandbox_needs_is_added() {
    let fixture = Fixture::new();
    fixture.import(&rootfs()).unwrap();
    let at = |path: &str| fixture.file("image", path);
    let passwd = fs::read_to_string(at("etc/passwd")).unwrap();
    assert_eq!(
        passwd,
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
    );
    let group = fs::read_to_string(at("etc/group")).unwrap();
    assert_eq!(group, "root:x:0:\nuser:x:1000:\n");
    for (name, mode, owner) in [
        ("workspace", 0o755, 1000),
        ("home/user", 0o755, 1000),
        ("tmp", 0o1777, 0),
        ("proc", 0o755, 0),
        ("dev", 0o755, 0),
    ] {
        let metadata = fs::metadata(at(name)).unwrap();
        assert!(metadata.is_dir(), "{name}");
        assert_eq!(metadata.mode() & 0o7777, mode, "{name}");
        if root() {
            assert_eq!(metadata.uid(), owner, "{name}");
        }
    }
}

#[test]
fn what_is_there_stays() {
    let fixture = Fixture::new();
    let passwd = "root:x:0:0::/:/bin/sh\nuser:x:7:7::/:/bin/sh\n";
    let group = "staff:x:1000:\n";
    fixture
        .import(&[
            (Directory, "etc", "", 0o755, 0),
            (Regular, "etc/passwd", passwd, 0o644, 0),
            (Regular, "etc/group", group, 0o644, 0),
            (Directory, "tmp", "", 0o700, 0),
            (Symlink, "etc/shadow", "/outside", 0o777, 0),
        ])
        .unwrap();
    let at = |path: &str| fixture.file("image", path);
    let amended = fs::read_to_string(at("etc/passwd")).unwrap();
    assert_eq!(
        amended,
        format!("{passwd}user1000:x:1000:1000:user1000:/home/user1000:/bin/sh\n")
    );
    assert!(at("home/user1000").is_dir());
    assert_eq!(fs::read_to_string(at("etc/group")).unwrap(), group);
    assert_eq!(fs::metadata(at("tmp")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn compressed_archives_have_the_same_digest() {
    let fixture = Fixture::new();
    let bytes = tar_of(&rootfs());
    let plain = fixture.path("plain.tar");
    fs::write(&plain, &bytes).unwrap();
    let packed = fixture.path("packed.tar.gz");
    let file = fs::File::create(&packed).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap();
    let first = fixture.store.import(&plain, None, &mut |_| {}).unwrap();
    let second = fixture.store.import(&packed, None, &mut |_| {}).unwrap();
    assert_eq!(
        (first.name.as_str(), second.name.as_str()),
        ("plain", "packed")
    );
    assert_eq!(first.digest, second.digest);
    assert_eq!(fixture.store.list().unwrap().len(), 2);
}

#[test]
fn what_is_dropped_is_counted() {
    let fixture = Fixture::new();
    let image = fixture
        .import(&[
            (Directory, "etc", "", 0o755, 0),
            (Char, "null", "", 0o666, 0),
            (Block, "disk", "", 0o660, 0),
            (Fifo, "pipe", "", 0o666, 0),
            (Regular, "su", "x", 0o4755, 0),
            (Regular, "wall", "x", 0o2755, 0),
            (Regular, "far", "x", 0o644, 70_000),
        ])
        .unwrap();
    assert_eq!((image.skipped.devices, image.skipped.setuid_bits), (3, 2));
    assert_eq!((image.skipped.foreign_ids, image.entries), (1, 4));
    let at = |path: &str| fixture.file("image", path);
    assert!(!at("null").exists());
    for file in ["su", "wall"] {
        assert_eq!(fs::metadata(at(file)).unwrap().mode() & 0o7777, 0o755);
    }
    if root() {
        assert_eq!(fs::metadata(at("far")).unwrap().uid(), 0);
    }
}

#[test]
fn hostile_archives_leave_nothing_inside_or_outside() {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    let outside = outside.to_str().unwrap();
    let absolute = format!("{outside}/new");
    let climb = "../../../../outside";
    let hostile: Vec<Vec<TarEntry<'_>>> = vec![
        vec![(Regular, &absolute, "x", 0o644, 0)],
        vec![(Regular, "../new", "x", 0o644, 0)],
        vec![(Regular, "a/../../new", "x", 0o644, 0)],
        vec![
            (Symlink, "l", outside, 0o777, 0),
            (Regular, "l/new", "x", 0o644, 0),
        ],
        vec![
            (Symlink, "l", climb, 0o777, 0),
            (Regular, "l/canary", "x", 0o644, 0),
        ],
        vec![
            (Symlink, "l", climb, 0o777, 0),
            (Link, "h", "l/canary", 0o644, 0),
        ],
        vec![(Link, "h", "../../../outside/canary", 0o644, 0)],
        vec![(Link, "h", outside, 0o644, 0)],
        vec![(Link, "h", "not-there", 0o644, 0)],
        vec![
            (Regular, "f", "x", 0o644, 0),
            (Regular, "f/g", "x", 0o644, 0),
        ],
        vec![(Regular, ".wh.", "", 0o644, 0)],
        vec![(Regular, "a/.wh...", "", 0o644, 0)],
        vec![(Regular, ".wh.a/b", "", 0o644, 0)],
        vec![(Symlink, "s", "", 0o777, 0)],
        vec![(Symlink, "tmp", outside, 0o777, 0)],
        vec![(Symlink, "etc", outside, 0o777, 0)],
        vec![(Regular, "workspace", "x", 0o644, 0)],
    ];
    for entries in hostile {
        eprintln!("{entries:?}");
        let result = fixture.import(&entries);
        assert!(
            matches!(result, Err(ImageError::Archive(_))),
            "{entries:?}: {result:?}"
        );
        fixture.assert_empty();
        fixture.assert_outside_untouched();
    }
}

#[test]
fn account_files_that_are_links_are_not_followed() {
    let fixture = Fixture::new();
    let canary = fixture.path("outside/canary");
    fixture
        .import(&[
            (Directory, "etc", "", 0o755, 0),
            (Symlink, "etc/passwd", canary.to_str().unwrap(), 0o777, 0),
            (Symlink, "etc/group", "../../../../outside/canary", 0o777, 0),
        ])
        .unwrap();
    fixture.assert_outside_untouched();
}

#[test]
fn what_is_no_root_file_system_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let whole = tar_of(&rootfs());
    for bytes in [
        &b""[..],
        b"no tar at all, but some text",
        &[0; 1024],
        &whole[..700],
        &[0x1f, 0x8b, 8, 0],
    ] {
        let path = fixture.archive(bytes);
        let result = fixture.store.import(&path, Some("image"), &mut |_| {});
        assert!(matches!(result, Err(ImageError::Archive(_))), "{result:?}");
    }
    let layers = [
        (Regular, "manifest.json", "[]", 0o644, 0),
        (Regular, "abc/layer.tar", "", 0o644, 0),
    ];
    let message = fixture.import(&layers).unwrap_err().to_string();
    assert!(message.contains("docker export"), "{message}");
    let missing = Path::new("/no/such/archive.tar");
    let result = fixture.store.import(missing, None, &mut |_| {});
    assert!(matches!(result, Err(ImageError::Io { .. })), "{result:?}");
    fixture.assert_empty();
}

#[test]
fn limits_end_an_import() {
    let fixture = Fixture::new();
    let limits = |bytes, entries| {
        let directory = fixture.path("limited");
        ImageStore::open(directory)
            .unwrap()
            .with_limits(Limits { bytes, entries })
    };
    let path = fixture.archive(&tar_of(&rootfs()));
    for store in [limits(20, 1000), limits(1 << 20, 5)] {
        let result = store.import(&path, Some("image"), &mut |_| {});
        assert!(matches!(result, Err(ImageError::Limit(_))), "{result:?}");
        assert_eq!(store.list().unwrap(), []);
    }
    limits(1 << 20, 10)
        .import(&path, Some("image"), &mut |_| {})
        .unwrap();

    // A name that says it has a terabyte.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(4 << 20, b'a');
    let path = fixture.archive(&bytes);
    let result = fixture.store.import(&path, Some("image"), &mut |_| {});
    let message = result.unwrap_err().to_string();
    assert!(message.contains("too long"), "{message}");
}

#[test]
fn names_are_taken_once_and_removed_when_nobody_uses_them() {
    let fixture = Fixture::new();
    fixture.import(&rootfs()).unwrap();
    let again = fixture.import(&rootfs());
    assert!(matches!(again, Err(ImageError::Exists(_))), "{again:?}");
    assert!(fixture.store.get("image:latest").unwrap().is_some());
    assert!(fixture.store.get("other").unwrap().is_none());
    assert!(matches!(
        fixture.store.resolve("other"),
        Err(ImageError::NotFound(_))
    ));
    assert!(matches!(
        fixture.store.resolve("../image"),
        Err(ImageError::Name { .. })
    ));
    let top = fixture.store.resolve("image").unwrap();
    let refused = fixture.store.remove("image", &|asked| {
        assert_eq!(asked.top(), top);
        true
    });
    assert!(matches!(refused, Err(ImageError::InUse(_))), "{refused:?}");
    assert!(top.is_dir());
    fixture.store.remove("image", &|_| false).unwrap();
    let gone = fixture.store.remove("image", &|_| false);
    assert!(matches!(gone, Err(ImageError::NotFound(_))), "{gone:?}");
    fixture.assert_empty();
}

#[test]
fn opening_removes_what_crashes_left_unless_somebody_works() {
    let fixture = Fixture::new();
    let directory = fixture.path("store");
    let rubbish = match root() {
        true => [
            ".import-dead",
            ".trash-dead",
            ".oci/making/.dead",
            ".oci/trash/.dead",
        ],
        false => [
            ".import-dead",
            ".trash-dead",
            ".oci-user/making/.dead",
            ".oci-user/trash/.dead",
        ],
    };
    for left in rubbish {
        fs::create_dir_all(directory.join(left).join("rootfs/etc")).unwrap();
        symlink(fixture.path("outside"), directory.join(left).join("link")).unwrap();
    }
    let there = || rubbish.map(|left| directory.join(left).exists());
    let path = fixture.archive(&tar_of(&rootfs()));
    fixture
        .store
        .import(&path, Some("image"), &mut |_| {
            // Another process opens the store in the middle of this import.
            ImageStore::open(&directory).unwrap();
        })
        .unwrap();
    assert_eq!(there(), [true; 4]);
    ImageStore::open(&directory).unwrap();
    assert_eq!(there(), [false; 4]);
    assert_eq!(fixture.store.list().unwrap().len(), 1);
    fixture.assert_outside_untouched();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_archive_reaches_outside(
        entries in proptest::collection::vec(
            (0..4_usize, "[ab]|etc|tmp|etc/passwd|a/b|(\\.\\./){1,4}outside/canary|[ab]/canary|/?[ab./]{1,8}",
             "[ab]|\\.\\.|(\\.\\./){1,6}outside(/canary)?|OUTSIDE(/canary)?|[ab./]{1,6}"),
            1..12,
        )
    ) {
        let fixture = Fixture::new();
        let outside = fixture.path("outside").to_str().unwrap().to_owned();
        let filled: Vec<_> = entries
            .iter()
            .map(|(kind, name, content)| {
                ([Regular, Directory, Symlink, Link][*kind], name, content.replace("OUTSIDE", &outside))
            })
            .collect();
        let borrowed: Vec<TarEntry<'_>> = filled
            .iter()
            .map(|(kind, name, content)| (*kind, name.as_str(), content.as_str(), 0o755, 0))
            .collect();
        let imported = fixture.import(&borrowed);
        fixture.assert_outside_untouched();
        let count = fixture.part("images").len();
        prop_assert_eq!(count, usize::from(imported.is_ok()));
        prop_assert_eq!(fixture.part("making"), Vec::<String>::new());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let fixture = Fixture::new();
        let path = fixture.archive(&bytes);
        drop(fixture.store.import(&path, Some("image"), &mut |_| {}));
    }
}
