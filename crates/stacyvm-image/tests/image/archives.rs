//! Loading and saving archives of images.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use stacyvm_image::{Digest, ImageError, ImageStore};
use tar::EntryType::{Directory, Link, Regular, Symlink};

use crate::builder::{Image, Layer, Packing, TarEntry, gzip, rootfs, tar_of};
use crate::fixture::{Fixture, eventually, file, have, inside, root, skip};

/// Files that an archive has, by name.
fn archive_of(files: &[(String, Vec<u8>)], links: &[TarEntry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, content.as_slice())
            .unwrap();
    }
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(tar_of(links));
    bytes
}

/// An image as `docker save` of an old version writes it.
fn docker_save(image: &Image, tags: &Value) -> Vec<(String, Vec<u8>)> {
    let config = image.config_bytes();
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let mut files = Vec::new();
    let mut names = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        names.push(format!("{number}/layer.tar"));
        files.push((format!("{number}/layer.tar"), layer.tar.clone()));
    }
    files.push((config_name.clone(), config));
    let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
    files.push((
        "manifest.json".to_owned(),
        manifest.to_string().into_bytes(),
    ));
    files
}

fn image() -> Image {
    let mut base = rootfs();
    base.extend([
        (Directory, "gone", "", 0o755, 0),
        (Regular, "gone/a", "x", 0o644, 0),
        (Directory, "opaque", "", 0o700, 12),
        (Regular, "opaque/below", "x", 0o644, 0),
        (Directory, "tmp", "", 0o1777, 0),
    ]);
    let top: &[TarEntry<'_>] = &[
        (Regular, ".wh.gone", "", 0o644, 0),
        (Directory, "opaque", "", 0o700, 12),
        (Regular, "opaque/.wh..wh..opq", "", 0o644, 0),
        (Regular, "opaque/own", "y", 0o600, 33),
        (Link, "opaque/linked", "opaque/own", 0o600, 33),
        (Symlink, "link", "./opaque//own", 0o777, 0),
        (Regular, "tmp/implied", "y", 0o644, 0),
    ];
    Image::new(vec![Layer::of(&base), Layer::of(top)])
}

#[test]
fn what_docker_saves_is_loaded() {
    let image = image();
    let tags = json!(["team/app:1", "localhost:5000/x:latest"]);
    let plain = archive_of(&docker_save(&image, &tags), &[]);
    for (packing, bytes) in [
        ("plain", plain.clone()),
        ("gzip", gzip(&plain)),
        ("zstd", zstd::encode_all(plain.as_slice(), 1).unwrap()),
    ] {
        let fixture = Fixture::new();
        let path = fixture.archive(&bytes);
        let mut last = None;
        let loaded = fixture
            .store
            .load(&path, None, &mut |state| last = Some(state))
            .unwrap();
        let names: Vec<_> = loaded.iter().map(|image| image.name.as_str()).collect();
        assert_eq!(names, ["team/app:1", "localhost:5000/x"], "{packing}");
        assert!(last.is_some());
        assert_eq!(fixture.part("images").len(), 1);
        assert_eq!(loaded[0].id, Digest::of(&image.config_bytes()).to_string());
        let found = fixture.store.find("localhost:5000/x").unwrap();
        assert_eq!(fs::read_to_string(file(&found, "opaque/own")).unwrap(), "y");
        assert_eq!(found.config().user.as_deref(), Some("33:33"));
        assert_eq!(fixture.part("making"), Vec::<String>::new());
    }
}

#[test]
fn links_within_an_archive_lead_to_its_own_files() {
    let image = Image::new(vec![Layer::of(&rootfs())]);
    let mut files = docker_save(&image, &json!(null));
    files[0].0 = "real/layer.tar".to_owned();
    let links = [(Symlink, "0/layer.tar", "../real/layer.tar", 0o777, 0)];
    let fixture = Fixture::new();
    let path = fixture.path("my-app.tar");
    fs::write(&path, archive_of(&files, &links)).unwrap();
    let loaded = fixture.store.load(&path, None, &mut |_| {}).unwrap();
    assert_eq!(loaded[0].name, "my-app");

    let secret = fixture.path("outside/canary");
    for target in [
        secret.to_str().unwrap(),
        "../../outside/canary",
        "0/layer.tar",
    ] {
        let links = [(Symlink, "0/layer.tar", target, 0o777, 0)];
        fs::write(&path, archive_of(&files, &links)).unwrap();
        let store = ImageStore::open(fixture.path("other")).unwrap();
        let result = store.load(&path, None, &mut |_| {});
        assert!(
            matches!(result, Err(ImageError::Archive(_))),
            "{target}: {result:?}"
        );
        assert_eq!(store.list().unwrap(), []);
    }
    // Nor does a layout on the disk lead out of its directory.
    let layout = fixture.path("layout");
    image.write_layout(&layout, &json!({}));
    let blob = layout
        .join("blobs/sha256")
        .join(image.layers[0].digest().hex());
    fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(&secret, &blob).unwrap();
    let store = ImageStore::open(fixture.path("other")).unwrap();
    let result = store.load(&layout, Some("x"), &mut |_| {});
    assert!(matches!(result, Err(ImageError::Archive(_))), "{result:?}");
}

#[test]
fn a_layout_is_loaded_under_the_name_it_gives() {
    for (annotations, name) in [
        (
            json!({"io.containerd.image.name": "docker.io/library/app:2"}),
            "app:2",
        ),
        (
            json!({"org.opencontainers.image.ref.name": "ghcr.io/a/b:3"}),
            "ghcr.io/a/b:3",
        ),
        (
            json!({"org.opencontainers.image.ref.name": "4"}),
            "layout:4",
        ),
        (json!({}), "layout"),
    ] {
        let fixture = Fixture::new();
        let image = Image::new(vec![
            Layer::of(&rootfs()),
            Layer::new(tar_of(&[(Regular, "z", "z", 0o644, 0)]), Packing::Zstd),
        ]);
        let place = fixture.path("layout");
        image.write_layout(&place, &annotations);
        let loaded = fixture.store.load(&place, None, &mut |_| {}).unwrap();
        assert_eq!(loaded[0].name, name);
        let manifest = serde_json::to_vec(&image.manifest()).unwrap();
        assert_eq!(loaded[0].digest, Digest::of(&manifest).to_string());
        assert_eq!(fixture.store.find(name).unwrap().layers().len(), 3);
    }
}

#[test]
fn what_is_no_archive_of_images_is_refused_with_the_reason() {
    let fixture = Fixture::new();
    let image = image();
    let mut wrong = docker_save(&image, &json!(["a:1"]));
    wrong[0].1 = tar_of(&rootfs());
    let mut missing = docker_save(&image, &json!(["a:1"]));
    missing.remove(0);
    for files in [
        wrong,
        missing,
        vec![("manifest.json".to_owned(), b"[{".to_vec())],
    ] {
        let path = fixture.archive(&archive_of(&files, &[]));
        let result = fixture.store.load(&path, None, &mut |_| {});
        assert!(
            matches!(
                result,
                Err(ImageError::Archive(_) | ImageError::Digest { .. })
            ),
            "{result:?}"
        );
        assert_eq!(fixture.store.list().unwrap(), []);
        assert_eq!(fixture.part("making"), Vec::<String>::new());
    }
    let path = fixture.archive(&tar_of(&rootfs()));
    let error = fixture.store.load(&path, None, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("image import"), "{error}");
    // And the other way round.
    let path = fixture.archive(&archive_of(&docker_save(&image, &json!(["a:1"])), &[]));
    let error = fixture.store.import(&path, None, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("image load"), "{error}");
}

#[test]
fn what_is_saved_is_loaded_as_the_same_image() {
    let fixture = Fixture::new();
    let layout = fixture.path("layout");
    image().write_layout(&layout, &json!({}));
    fixture
        .store
        .load(&layout, Some("app:1"), &mut |_| {})
        .unwrap();
    fixture.store.tag("app:1", "other/app").unwrap();
    fixture.import(&rootfs()).unwrap();
    let saved = fixture.path("saved.tar");
    let names = ["app:1", "other/app", "image"];
    fixture.store.save(&names, &saved).unwrap();
    let again = fixture.store.save(&names, &saved);
    assert!(matches!(again, Err(ImageError::Exists(_))), "{again:?}");

    // Another second: nothing in the archive is from the time of its making.
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let before = now();
    eventually("the next second", || now() > before);
    let second = ImageStore::open(fixture.path("second")).unwrap();
    let loaded = second.load(&saved, None, &mut |_| {}).unwrap();
    assert_eq!(
        loaded
            .iter()
            .map(|image| image.name.as_str())
            .collect::<Vec<_>>(),
        names
    );
    let (before, after) = (
        fixture.store.find("app:1").unwrap(),
        second.find("app:1").unwrap(),
    );
    assert_eq!(before.config(), after.config());
    if stacyvm_testing::root_or_skip() && have("unshare") {
        let script =
            "find . -not -path './proc*' -printf '%p %y %m %U %G %l %n\\n' | sort; cat opaque/own";
        let (first, second) = (inside(&before, script), inside(&after, script));
        assert_eq!(first, second);
        assert!(first.contains("./opaque/linked f 600 33 33  2"), "{first}");
        assert!(
            first.contains("./link l 777 0 0 ./opaque//own 1"),
            "{first}"
        );
        assert!(
            !first.contains("gone") && !first.contains("below"),
            "{first}"
        );
        assert!(first.contains("./tmp d 1777"), "{first}");
    }
    // Saved once more it is the same to the last byte: nothing gets lost from now on.
    let twice = fixture.path("twice.tar");
    second.save(&names, &twice).unwrap();
    assert!(fs::read(&saved).unwrap() == fs::read(&twice).unwrap());
    let mut stream = Vec::new();
    second.save_to(&names, &mut stream).unwrap();
    assert!(fs::read(&saved).unwrap() == stream);
}

#[test]
fn other_tools_read_what_is_saved() {
    if !have("skopeo") {
        return;
    }
    if !root() {
        return skip("skopeo without root wants ranges of user ids");
    }
    let fixture = Fixture::new();
    let layout = fixture.path("layout");
    image().write_layout(&layout, &json!({}));
    fixture
        .store
        .load(&layout, Some("app:1"), &mut |_| {})
        .unwrap();
    let saved = fixture.path("saved.tar");
    fixture.store.save(&["app:1"], &saved).unwrap();
    let skopeo = |words: &[&str]| {
        let output = Command::new("skopeo").args(words).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {error}");
        output.stdout
    };
    for transport in ["oci-archive", "docker-archive"] {
        let name = format!("{transport}:{}", saved.display());
        let shown: Value = serde_json::from_slice(&skopeo(&["inspect", &name])).unwrap();
        assert_eq!(shown["Architecture"], "amd64", "{shown}");
        assert_eq!(shown["Layers"].as_array().unwrap().len(), 2, "{shown}");
        assert_eq!(shown["Labels"]["who"], "me", "{shown}");
        // Copied, every blob is read and its digest is compared.
        let copy = fixture.path(transport);
        let to = format!("dir:{}", copy.display());
        skopeo(&["--insecure-policy", "copy", &name, &to]);
        assert!(copy.join("manifest.json").exists());
    }
    // And what they write is read.
    let theirs = fixture.path("theirs.tar");
    let from = format!("oci:{}", layout.display());
    let to = format!("docker-archive:{}:they/wrote:it", theirs.display());
    skopeo(&["--insecure-policy", "copy", &from, &to]);
    loaded_as(&fixture, &theirs, "they/wrote:it");
    let theirs = fixture.path("theirs-too.tar");
    let to = format!("oci-archive:{}:they/wrote:too", theirs.display());
    skopeo(&["--insecure-policy", "copy", &from, &to]);
    loaded_as(&fixture, &theirs, "they/wrote:too");
}

fn loaded_as(fixture: &Fixture, archive: &Path, name: &str) {
    let loaded = fixture.store.load(archive, None, &mut |_| {}).unwrap();
    assert_eq!(loaded[0].name, name);
    let found = fixture.store.find(name).unwrap();
    assert_eq!(fs::read_to_string(file(&found, "opaque/own")).unwrap(), "y");
}
