//! The image store through its front door, with honest and hostile archives.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use stacyvm_image::{Image, ImageError, ImageStore, Limits};
use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

/// Name, kind, content or link target, mode, owner.
type Member<'a> = (EntryType, &'a str, &'a str, u32, u64);

/// A tar stream whose names are put into the headers unchecked.
fn tar_of(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content, mode, owner) in members {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_uid(*owner);
        header.set_gid(*owner);
        header.set_mtime(1_600_000_000);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let mut body: &[u8] = b"";
        match kind {
            Regular => body = content.as_bytes(),
            Symlink | Link => header.set_link_name_literal(content).unwrap(),
            _ => {}
        }
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A small root file system.
fn rootfs() -> Vec<Member<'static>> {
    vec![
        (Directory, "./", "", 0o755, 0),
        (Directory, "./etc/", "", 0o755, 0),
        (
            Regular,
            "./etc/passwd",
            "root:x:0:0:root:/root:/bin/sh",
            0o644,
            0,
        ),
        (Directory, "./usr/", "", 0o755, 0),
        (Directory, "./usr/bin/", "", 0o755, 0),
        (Regular, "./usr/bin/sh", "#!shell", 0o755, 0),
        (Symlink, "./bin", "usr/bin", 0o777, 0),
        (Link, "./usr/bin/bash", "./usr/bin/sh", 0o755, 0),
        (Directory, "./var/", "", 0o755, 0),
        (Regular, "./var/owned", "x", 0o640, 33),
    ]
}

struct Fixture {
    place: TempDir,
    store: ImageStore,
}

impl Fixture {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("outside")).unwrap();
        fs::write(place.path().join("outside/canary"), "nobody was here").unwrap();
        let store = ImageStore::open(place.path().join("store")).unwrap();
        Self { place, store }
    }

    fn archive(&self, bytes: &[u8]) -> PathBuf {
        let path = self.place.path().join("archive.tar");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, members: &[Member<'_>]) -> Result<Image, ImageError> {
        let path = self.archive(&tar_of(members));
        self.store.import(&path, Some("image"), &mut |_| {})
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.place.path().join("store"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".lock")
            .collect();
        names.sort();
        names
    }

    fn assert_outside_untouched(&self) {
        let outside = self.place.path().join("outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        let canary = outside.join("canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), "nobody was here");
        assert_eq!(fs::metadata(&canary).unwrap().nlink(), 1);
    }
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

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
    let rootfs = fixture.store.resolve("team/base:1").unwrap();
    assert_eq!(fs::read(rootfs.join("bin/bash")).unwrap(), b"#!shell");
    let shell = fs::metadata(rootfs.join("usr/bin/sh")).unwrap();
    assert_eq!(
        (shell.mode() & 0o7777, shell.nlink(), shell.mtime()),
        (0o755, 2, 1_600_000_000)
    );
    let owned = fs::metadata(rootfs.join("var/owned")).unwrap();
    assert_eq!(owned.mode() & 0o7777, 0o640);
    if root() {
        assert_eq!((owned.uid(), owned.gid()), (33, 33));
    }
    assert_eq!(
        fs::metadata(rootfs.join("var")).unwrap().mtime(),
        1_600_000_000
    );
}

#[test]
fn what_a_sandbox_needs_is_added() {
    let fixture = Fixture::new();
    fixture.import(&rootfs()).unwrap();
    let rootfs = fixture.store.resolve("image").unwrap();
    let passwd = fs::read_to_string(rootfs.join("etc/passwd")).unwrap();
    assert_eq!(
        passwd,
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"
    );
    let group = fs::read_to_string(rootfs.join("etc/group")).unwrap();
    assert_eq!(group, "root:x:0:\nuser:x:1000:\n");
    for (name, mode, owner) in [
        ("workspace", 0o755, 1000),
        ("home/user", 0o755, 1000),
        ("tmp", 0o1777, 0),
        ("proc", 0o755, 0),
        ("dev", 0o755, 0),
    ] {
        let metadata = fs::metadata(rootfs.join(name)).unwrap();
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
    let rootfs = fixture.store.resolve("image").unwrap();
    let amended = fs::read_to_string(rootfs.join("etc/passwd")).unwrap();
    assert_eq!(
        amended,
        format!("{passwd}user1000:x:1000:1000:user1000:/home/user1000:/bin/sh\n")
    );
    assert!(rootfs.join("home/user1000").is_dir());
    assert_eq!(fs::read_to_string(rootfs.join("etc/group")).unwrap(), group);
    assert_eq!(
        fs::metadata(rootfs.join("tmp")).unwrap().mode() & 0o7777,
        0o700
    );
}

#[test]
fn compressed_archives_have_the_same_digest() {
    let fixture = Fixture::new();
    let bytes = tar_of(&rootfs());
    let plain = fixture.place.path().join("plain.tar");
    fs::write(&plain, &bytes).unwrap();
    let packed = fixture.place.path().join("packed.tar.gz");
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
    let rootfs = fixture.store.resolve("image").unwrap();
    assert!(!rootfs.join("null").exists());
    for file in ["su", "wall"] {
        assert_eq!(
            fs::metadata(rootfs.join(file)).unwrap().mode() & 0o7777,
            0o755
        );
    }
    if root() {
        assert_eq!(fs::metadata(rootfs.join("far")).unwrap().uid(), 0);
    }
}

#[test]
fn hostile_archives_leave_nothing_inside_or_outside() {
    let fixture = Fixture::new();
    let outside = fixture.place.path().join("outside");
    let outside = outside.to_str().unwrap();
    let absolute = format!("{outside}/new");
    let climb = "../../../../outside";
    let hostile: Vec<Vec<Member<'_>>> = vec![
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
            (Directory, "l", "", 0o777, 0),
            (Regular, "l/new", "x", 0o644, 0),
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
        vec![
            (Directory, "d", "", 0o755, 0),
            (Regular, "d", "x", 0o644, 0),
        ],
        vec![(Symlink, "s", "", 0o777, 0)],
        vec![(Symlink, "tmp", outside, 0o777, 0)],
        vec![(Symlink, "etc", outside, 0o777, 0)],
        vec![(Regular, "workspace", "x", 0o644, 0)],
    ];
    for members in hostile {
        let result = fixture.import(&members);
        assert!(
            matches!(result, Err(ImageError::Archive(_))),
            "{members:?}: {result:?}"
        );
        assert_eq!(fixture.names(), Vec::<String>::new(), "{members:?}");
        fixture.assert_outside_untouched();
    }
}

#[test]
fn account_files_that_are_links_are_not_followed() {
    let fixture = Fixture::new();
    let canary = fixture.place.path().join("outside/canary");
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
    assert_eq!(fixture.names(), Vec::<String>::new());
}

#[test]
fn limits_end_an_import() {
    let fixture = Fixture::new();
    let limits = |bytes, entries| {
        let directory = fixture.place.path().join("limited");
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
    let rootfs = fixture.store.resolve("image").unwrap();
    let refused = fixture.store.remove("image", &|asked| {
        assert_eq!(asked.top(), rootfs);
        true
    });
    assert!(matches!(refused, Err(ImageError::InUse(_))), "{refused:?}");
    assert!(rootfs.is_dir());
    fixture.store.remove("image", &|_| false).unwrap();
    let gone = fixture.store.remove("image", &|_| false);
    assert!(matches!(gone, Err(ImageError::NotFound(_))), "{gone:?}");
    assert_eq!(fixture.names(), Vec::<String>::new());
}

#[test]
fn opening_removes_what_crashes_left_unless_somebody_works() {
    let fixture = Fixture::new();
    let directory = fixture.place.path().join("store");
    for left in [".import-dead", ".trash-dead"] {
        fs::create_dir_all(directory.join(left).join("rootfs/etc")).unwrap();
        symlink(
            fixture.place.path().join("outside"),
            directory.join(left).join("link"),
        )
        .unwrap();
    }
    let path = fixture.archive(&tar_of(&rootfs()));
    fixture
        .store
        .import(&path, Some("image"), &mut |_| {
            // Another process opens the store in the middle of this import.
            ImageStore::open(&directory).unwrap();
        })
        .unwrap();
    assert_eq!(fixture.names(), [".import-dead", ".trash-dead", "image"]);
    ImageStore::open(&directory).unwrap();
    assert_eq!(fixture.names(), ["image"]);
    fixture.assert_outside_untouched();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_archive_reaches_outside(
        members in proptest::collection::vec(
            (0..4_usize, "[ab]|etc|tmp|etc/passwd|a/b|(\\.\\./){1,4}outside/canary|[ab]/canary|/?[ab./]{1,8}",
             "[ab]|\\.\\.|(\\.\\./){1,6}outside(/canary)?|OUTSIDE(/canary)?|[ab./]{1,6}"),
            1..12,
        )
    ) {
        let fixture = Fixture::new();
        let outside = fixture.place.path().join("outside").to_str().unwrap().to_owned();
        let filled: Vec<_> = members
            .iter()
            .map(|(kind, name, content)| {
                ([Regular, Directory, Symlink, Link][*kind], name, content.replace("OUTSIDE", &outside))
            })
            .collect();
        let borrowed: Vec<Member<'_>> = filled
            .iter()
            .map(|(kind, name, content)| (*kind, name.as_str(), content.as_str(), 0o755, 0))
            .collect();
        let imported = fixture.import(&borrowed);
        fixture.assert_outside_untouched();
        let expected = if imported.is_ok() { vec!["image".to_owned()] } else { vec![] };
        prop_assert_eq!(fixture.names(), expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let fixture = Fixture::new();
        let path = fixture.archive(&bytes);
        drop(fixture.store.import(&path, Some("image"), &mut |_| {}));
    }
}
