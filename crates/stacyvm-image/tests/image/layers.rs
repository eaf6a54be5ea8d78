//! Layers on top of each other as a sandbox sees them, and hostile layers.

use std::fs;
use std::os::unix::fs::MetadataExt;

use stacyvm_image::{ImageError, ImageStore, Limits};
use tar::EntryType::{Char, Directory, Fifo, Link, Regular, Symlink};
use tar::{Builder, Header};

use crate::builder::{Image, Layer, Packing, TarEntry, rootfs, tar_of};
use crate::fixture::{Fixture, file, inside, root, skip};

/// Loads an image of these layers, the lowest first.
fn load(fixture: &Fixture, layers: Vec<Layer>) -> Result<(), ImageError> {
    let image = Image::new(layers);
    let place = fixture.path("layout");
    let _ = fs::remove_dir_all(&place);
    image.write_layout(&place, &serde_json::json!({}));
    fixture
        .store
        .load(&place, Some("image"), &mut |_| {})
        .map(|_| ())
}

fn layer(entries: &[TarEntry<'_>]) -> Layer {
    Layer::new(tar_of(entries), Packing::Plain)
}

const FILE: (u32, u64) = (0o644, 0);

fn regular<'a>(name: &'a str, content: &'a str) -> TarEntry<'a> {
    (Regular, name, content, FILE.0, FILE.1)
}

fn directory(name: &str) -> TarEntry<'_> {
    (Directory, name, "", 0o755, 0)
}

#[test]
fn a_sandbox_sees_what_the_layers_mean() {
    if !root() {
        return skip("overlays of layers are looked into as root");
    }
    let fixture = Fixture::new();
    let mut base = rootfs();
    base.extend([
        directory("gone"),
        regular("gone/a", "1"),
        regular("removed", "1"),
        directory("opaque"),
        regular("opaque/below", "1"),
        directory("again"),
        regular("again/below", "1"),
        directory("later"),
        regular("later/below", "1"),
        regular("file-then-dir", "1"),
        directory("dir-then-file"),
        regular("dir-then-file/a", "1"),
        directory("implied"),
        regular("implied/below", "1"),
        (Directory, "sticky", "", 0o1777, 0),
        (Directory, "owned", "", 0o750, 33),
    ]);
    load(
        &fixture,
        vec![
            layer(&base),
            layer(&[
                regular(".wh.gone", ""),
                regular(".wh.removed", ""),
                directory("opaque"),
                // Before and after its mark: both are this layer's own.
                regular("opaque/first", "2"),
                regular("opaque/.wh..wh..opq", ""),
                regular("opaque/second", "2"),
                regular(".wh.again", ""),
                directory("again"),
                regular("again/own", "2"),
                directory("later"),
                regular("later/own", "2"),
                regular(".wh.later", ""),
                directory("file-then-dir"),
                regular("file-then-dir/a", "2"),
                regular("dir-then-file", "2"),
                regular("implied/.wh.below", ""),
                regular("implied/own", "2"),
                regular("sticky/deep/er", "2"),
                regular("owned/own", "2"),
                regular(".wh.never-was", ""),
                regular(".wh..wh.plnk/1", ""),
                regular("kept", "2"),
                regular(".wh.kept", ""),
            ]),
            layer(&[regular("removed", "3")]),
        ],
    )
    .unwrap();
    let found = fixture.store.find("image").unwrap();
    let list = inside(
        &found,
        "find . -mindepth 1 \\( -path './[a-l]*' -o -path './[o-t]*' \\) -not -path './etc*' -not -path './proc*' -not -path './dev*' -not -path './bin*' -not -path './home*' -not -path './root*' -not -path './run*' -not -path './tmp*' -not -path './sys*' | sort",
    );
    let expected = [
        "./again",
        "./again/own",
        "./dir-then-file",
        "./file-then-dir",
        "./file-then-dir/a",
        "./implied",
        "./implied/own",
        "./kept",
        "./later",
        "./later/own",
        "./opaque",
        "./opaque/first",
        "./opaque/second",
        "./owned",
        "./owned/own",
        "./removed",
        "./sticky",
        "./sticky/deep",
        "./sticky/deep/er",
    ];
    assert_eq!(list.lines().collect::<Vec<_>>(), expected);
    // A layer that only passes through a directory does not change what it is like.
    let looks = inside(&found, "stat -c '%a %u %g' sticky owned sticky/deep etc");
    assert_eq!(looks, "1777 0 0\n750 33 33\n755 0 0\n755 0 0\n");
    assert_eq!(inside(&found, "cat removed dir-then-file"), "32");
    let user = inside(&found, "grep :1000: etc/passwd; stat -c %u workspace");
    assert_eq!(user, "user:x:1000:1000:user:/home/user:/bin/sh\n1000\n");
}

#[test]
fn sixty_layers_are_one_image() {
    let fixture = Fixture::new();
    let names: Vec<String> = (0..60).map(|number| format!("layer-{number}")).collect();
    let mut layers = vec![layer(&rootfs())];
    layers.extend(
        names
            .iter()
            .map(|name| layer(&[regular(name, "x"), regular("last", name)])),
    );
    // One that comes twice counts once, and an empty one is one.
    layers.push(layers[1].clone());
    layers.push(layer(&[]));
    load(&fixture, layers).unwrap();
    let found = fixture.store.find("image").unwrap();
    assert_eq!(found.layers().len(), 63);
    assert_eq!(fixture.store.get("image").unwrap().unwrap().layers, 63);
    if !root() {
        return skip("overlays of layers are looked into as root");
    }
    assert_eq!(inside(&found, "ls -d layer-* | wc -l"), "60\n");
    assert_eq!(inside(&found, "cat last"), "layer-0");
}

#[test]
fn what_covers_everything_below_leaves_nothing_of_it() {
    let fixture = Fixture::new();
    load(
        &fixture,
        vec![
            layer(&[
                regular("below", "1"),
                directory("etc"),
                regular("etc/passwd", "x:x:1000:"),
            ]),
            layer(&[regular(".wh..wh..opq", ""), regular("above", "2")]),
        ],
    )
    .unwrap();
    let found = fixture.store.find("image").unwrap();
    assert_eq!(found.layers().len(), 2);
    assert!(!file(&found, "below").exists() && file(&found, "above").exists());
    let passwd = fs::read_to_string(found.top().join("etc/passwd")).unwrap();
    assert!(passwd.contains("user:x:1000:1000:"), "{passwd}");
}

#[test]
fn links_attributes_and_later_entries_are_kept_as_they_should() {
    let fixture = Fixture::new();
    let long = "d".repeat(100) + "/" + &"f".repeat(200);
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o4755);
    header.set_uid(70_000);
    header.set_gid(7);
    let attributes: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.user.kept", b"value"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (
            "SCHILY.xattr.security.capability",
            b"\x01\0\0\x02\0\x20\0\0",
        ),
    ];
    builder.append_pax_extensions(attributes).unwrap();
    builder
        .append_data(&mut header, "attributes", &b"test"[..])
        .unwrap();
    header.set_size(2);
    builder.append_data(&mut header, &long, &b"ok"[..]).unwrap();
    let first = builder.into_inner().unwrap();
    let rest = tar_of(&[
        regular("/absolute", "in a layer, seen from its root"),
        regular("a", "1"),
        (Link, "b", "a", 0o644, 0),
        (Link, "c", "/b", 0o644, 0),
        (Symlink, "s", "/outside/of/this", 0o777, 0),
        (Link, "t", "s", 0o777, 0),
        directory("d"),
        regular("d/x", "1"),
        regular("d", "now a file"),
        regular("e", "1"),
        directory("e"),
        regular("e/x", "in what was a file"),
        regular("a", "2"),
        (Char, "null", "", 0o666, 0),
        (Fifo, "pipe", "", 0o666, 0),
    ]);
    // The first archive without its end mark, and the second.
    let mut tar = first[..first.len() - 1024].to_vec();
    tar.extend(rest);
    load(
        &fixture,
        vec![layer(&rootfs()), Layer::new(tar, Packing::Plain)],
    )
    .unwrap();
    let found = fixture.store.find("image").unwrap();
    let own = &found.layers()[1];
    let read = |name: &str| fs::read_to_string(own.join(name)).unwrap();
    assert_eq!(read(&long), "ok");
    assert_eq!(read("absolute"), "in a layer, seen from its root");
    // The later `a` is another file; its first links keep the earlier one.
    assert_eq!(
        (read("a"), read("b"), read("c")),
        ("2".into(), "1".into(), "1".into())
    );
    assert_eq!(fs::metadata(own.join("b")).unwrap().nlink(), 2);
    assert_eq!(
        fs::read_link(own.join("t")).unwrap().to_str(),
        Some("/outside/of/this")
    );
    assert_eq!(
        (read("d"), read("e/x")),
        ("now a file".into(), "in what was a file".into())
    );
    assert!(!own.join("null").exists() && !own.join("pipe").exists());
    let image = fixture.store.get("image").unwrap().unwrap();
    assert_eq!((image.skipped.devices, image.skipped.xattrs), (2, 3));
    assert_eq!(
        (image.skipped.setuid_bits, image.skipped.foreign_ids),
        (2, 2)
    );
    let metadata = fs::metadata(own.join("attributes")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o755);
    if root() {
        assert_eq!((metadata.uid(), metadata.gid()), (0, 7));
    }
    let mut value = [0_u8; 16];
    let path = own.join("attributes");
    let length = rustix::fs::getxattr(&path, "user.kept", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"value");
    let mut names = vec![0_u8; 1024];
    let length = rustix::fs::listxattr(&path, &mut names[..]).unwrap();
    assert_eq!(&names[..length], b"user.kept\0");
}

#[test]
fn hostile_layers_are_refused_and_leave_nothing() {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    let outside = outside.to_str().unwrap();
    let deep = "d/".repeat(40);
    let deeper = format!("{}/f", "d/".repeat(300));
    let hostile: Vec<Vec<TarEntry<'_>>> = vec![
        vec![regular("../new", "x")],
        vec![regular("/../new", "x")],
        vec![(Symlink, "l", outside, 0o777, 0), regular("l/new", "x")],
        vec![
            (Symlink, "l", "../../../../../outside", 0o777, 0),
            regular("l/.wh.canary", ""),
        ],
        vec![
            (Symlink, "l", "../../../../../outside", 0o777, 0),
            regular("l/.wh..wh..opq", ""),
        ],
        vec![(Link, "h", "usr/bin/sh", 0o644, 0)],
        vec![(Link, "h", outside, 0o644, 0)],
        vec![(Link, "h", "/", 0o644, 0)],
        vec![directory("d"), (Link, "h", "d", 0o644, 0)],
        vec![regular(".wh.x", ""), (Link, "h", "x", 0o644, 0)],
        vec![regular(".wh.", "")],
        vec![regular(".wh..", "")],
        vec![regular("etc/.wh...", "")],
        vec![regular(".wh.a/b", "")],
        vec![regular("f", "x"), regular("f/g", "x")],
        vec![(Symlink, "etc", outside, 0o777, 0)],
    ];
    for entries in hostile {
        let result = load(&fixture, vec![layer(&rootfs()), layer(&entries)]);
        assert!(
            matches!(result, Err(ImageError::Archive(_))),
            "{entries:?}: {result:?}"
        );
        assert_eq!(fixture.part("images"), Vec::<String>::new(), "{entries:?}");
        assert_eq!(fixture.part("making"), Vec::<String>::new(), "{entries:?}");
        fixture.assert_outside_untouched();
    }
    // Deep is one thing, too deep another.
    load(&fixture, vec![layer(&[regular(&format!("{deep}f"), "x")])]).unwrap();
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(0);
    builder.append_data(&mut header, deeper, &b""[..]).unwrap();
    let tar = builder.into_inner().unwrap();
    let result = load(&fixture, vec![Layer::new(tar, Packing::Plain)]);
    assert!(matches!(result, Err(ImageError::Archive(_))), "{result:?}");
}

#[test]
fn bombs_are_refused() {
    let fixture = Fixture::new();
    // A gigabyte of zeros packed into a few kilobytes; of a device, so that none of it is written.
    let mut header = Header::new_gnu();
    header.set_entry_type(Char);
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_size(1 << 30);
    header.set_cksum();
    let place = fixture.path("bomb.tar.zst");
    let mut packed = zstd::stream::Encoder::new(fs::File::create(&place).unwrap(), 1).unwrap();
    std::io::Write::write_all(&mut packed, header.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..1025 {
        std::io::Write::write_all(&mut packed, &zeros).unwrap();
    }
    packed.finish().unwrap();
    let result = fixture.store.import(&place, Some("bomb"), &mut |_| {});
    match result {
        Err(ImageError::Limit(reason)) => assert!(reason.contains("200 times"), "{reason}"),
        other => panic!("{other:?}"),
    }
    fixture.assert_empty();
    // Layers that are small enough alone, and too many together.
    let limits = Limits {
        bytes: 1000,
        entries: 100,
    };
    let store = ImageStore::open(fixture.path("limited"))
        .unwrap()
        .with_limits(limits);
    let content = "x".repeat(600);
    let layers = vec![
        layer(&[regular("a", &content)]),
        layer(&[regular("b", &content)]),
    ];
    let layout = fixture.path("layout");
    Image::new(layers).write_layout(&layout, &serde_json::json!({}));
    let result = store.load(&layout, Some("image"), &mut |_| {});
    assert!(matches!(result, Err(ImageError::Limit(_))), "{result:?}");
}
