//! What happens when a pull dies in the middle, or the disk is full.

use std::fs;
use std::path::Path;

use stacyvm_image::ImageStore;
use tar::EntryType::{Directory, Regular};

use crate::builder::{Image, Layer, noise, rootfs};
use crate::child;
use crate::fixture::{eventually, file, have, part_of, root, skip};
use crate::proxy::{Action, Proxy};
use crate::registry::{Registry, options, reference};

#[test]
fn a_pull_that_is_killed_is_gone_on_with() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let content = noise(1, 500_000);
    let large = Layer::of(&[(Regular, "large", &content, 0o644, 0)]);
    let image = Image::new(vec![Layer::of(&rootfs()), large]);
    registry.put(&image, "app", "latest");
    let (first, second) = (image.layers[0].digest(), image.layers[1].digest());
    let wanted = second.to_string();
    let proxy = Proxy::start(registry.address, move |asked| {
        match asked.path.contains(&wanted) && asked.before == 0 {
            true => Action::Stall(200_000),
            false => Action::Pass,
        }
    });
    let reference = reference(proxy.address, "app");
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("store");
    let mut pulling = child::start(
        "pull",
        &[
            ("STORE", path.to_str().unwrap()),
            ("REFERENCE", &reference.to_string()),
        ],
    );
    // The first layer is whole, and a part of the second is there.
    let root_name = if root() { ".oci" } else { ".oci-user" };
    let partial = path.join(root_name).join("partial").join(second.hex());
    eventually("a part of the layer", || {
        let there = fs::metadata(&partial).map_or(0, |metadata| metadata.len());
        there == 200_000 && part_of(&path, "layers").len() == 1
    });
    pulling.kill().unwrap();
    pulling.wait().unwrap();

    let store = ImageStore::open(&path).unwrap();
    assert_eq!(store.list().unwrap(), []);
    assert!(store.find(&reference.to_string()).is_err());
    assert_eq!(part_of(&path, "making"), Vec::<String>::new());
    store.pull(&reference, &options(), &|_| {}).unwrap();
    assert_eq!(proxy.count(&first.to_string()), 1);
    let last = proxy.asked().pop().unwrap();
    assert_eq!(last.range.as_deref(), Some("bytes=200000-"));
    let found = store.find(&reference.to_string()).unwrap();
    assert_eq!(fs::read_to_string(file(&found, "large")).unwrap(), content);
    assert_eq!(part_of(&path, "partial"), Vec::<String>::new());
}

#[test]
fn wherever_a_pull_is_killed_the_store_is_whole() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let names: Vec<String> = (0..500).map(|number| format!("many/{number}")).collect();
    let mut entries = vec![(Directory, "many", "", 0o755, 0)];
    entries.extend(
        names
            .iter()
            .map(|name| (Regular, name.as_str(), "x", 0o644, 0)),
    );
    let image = Image::new(vec![Layer::of(&rootfs()), Layer::of(&entries)]);
    registry.put(&image, "app", "latest");
    let reference = registry.reference("app");
    let place = tempfile::tempdir().unwrap();
    for round in 0..4 {
        let path = place.path().join(round.to_string());
        // Made before, so that the child's directories are there to look at.
        drop(ImageStore::open(&path).unwrap());
        let mut pulling = child::start(
            "pull",
            &[
                ("STORE", path.to_str().unwrap()),
                ("REFERENCE", &reference.to_string()),
            ],
        );
        // Somewhere in the unpacking, a little later each time; or it was quicker.
        let mut seen = 0;
        eventually("something to be unpacked, or the end", || {
            seen += usize::from(!part_of(&path, "making").is_empty());
            seen > round || pulling.try_wait().unwrap().is_some()
        });
        pulling.kill().unwrap();
        pulling.wait().unwrap();

        let store = ImageStore::open(&path).unwrap();
        assert_eq!(part_of(&path, "making"), Vec::<String>::new());
        store.pull(&reference, &options(), &|_| {}).unwrap();
        let found = store.find(&reference.to_string()).unwrap();
        let many = fs::read_dir(file(&found, "many")).unwrap().count();
        assert_eq!(many, 500);
        assert_eq!(part_of(&path, "layers").len(), 2);
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half() {
    if !root() {
        return skip("a small disk can only be mounted by root");
    }
    if !have("unshare") {
        return;
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    // Too large while it comes in, and too large only when it is unpacked.
    let noisy = noise(2, 1_500_000);
    let smooth = "x".repeat(1_500_000);
    for (tag, content) in [("in", &noisy), ("out", &smooth)] {
        let image = Image::new(vec![Layer::of(&[(Regular, "f", content, 0o644, 0)])]);
        registry.put(&image, "app", tag);
        let place = tempfile::tempdir().unwrap();
        let said = on_small_disk(
            place.path(),
            &registry.reference(&format!("app:{tag}")).to_string(),
        );
        assert!(said.contains("no space left on the disk"), "{said}");
        assert!(said.contains("image prune"), "{said}");
    }
}

/// Runs the part `full` with its store on a disk of one megabyte.
fn on_small_disk(place: &Path, reference: &str) -> String {
    let store = place.join("store");
    let part = child::command(
        "full",
        &[("STORE", store.to_str().unwrap()), ("REFERENCE", reference)],
    );
    let mut command = stacyvm_testing::on_small_disk(place, 1 << 20);
    command.arg(part.get_program()).args(part.get_args());
    for (name, value) in part.get_envs() {
        command.env(name, value.unwrap());
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{error}");
    said
}
