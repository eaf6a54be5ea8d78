//! Removing: what is used stays, what is not needed goes.

use std::fs;
use std::thread;

use serde_json::json;
use stacyvm_image::{ImageError, ImageStore, PruneOptions, StoredImage};
use tar::EntryType::Regular;

use crate::builder::{Image, Layer, rootfs};
use crate::fixture::{Fixture, eventually};

/// Loads an image with a common layer and one of its own.
fn load(fixture: &Fixture, name: &str) {
    let own = Layer::of(&[(Regular, "own", name, 0o644, 0)]);
    let place = fixture.path("layout");
    let _ = fs::remove_dir_all(&place);
    Image::new(vec![Layer::of(&rootfs()), own]).write_layout(&place, &json!({}));
    fixture.store.load(&place, Some(name), &mut |_| {}).unwrap();
}

const NOT_IN_USE: &dyn Fn(&StoredImage) -> bool = &|_| false;

fn everything() -> PruneOptions {
    PruneOptions {
        all: true,
        ..PruneOptions::default()
    }
}

#[test]
fn the_last_name_takes_the_image_and_the_last_image_its_layers() {
    let fixture = Fixture::new();
    load(&fixture, "a");
    load(&fixture, "b");
    fixture.store.tag("a", "again:2").unwrap();
    assert_eq!(
        (fixture.part("layers").len(), fixture.part("images").len()),
        (3, 2)
    );
    let removed = fixture.store.remove("a", NOT_IN_USE).unwrap();
    assert_eq!(
        (removed.names, removed.images.len()),
        (vec!["a".to_owned()], 0)
    );
    assert!(fixture.store.find("again:2").is_ok());
    let removed = fixture.store.remove("again:2", NOT_IN_USE).unwrap();
    assert_eq!((removed.images.len(), removed.layers.len()), (1, 1));
    assert!(removed.freed > 0);
    assert_eq!(
        (fixture.part("layers").len(), fixture.part("images").len()),
        (2, 1)
    );
    let id = fixture.store.find("b").unwrap().id().to_owned();
    // By the first digits of its id.
    fixture.store.remove(&id[..20], NOT_IN_USE).unwrap();
    fixture.assert_empty();
}

#[test]
fn what_is_used_or_held_stays() {
    let fixture = Fixture::new();
    load(&fixture, "a");
    load(&fixture, "b");
    let (a, b) = (
        fixture.store.find("a").unwrap(),
        fixture.store.find("b").unwrap(),
    );
    drop(b);
    // Held, though it is not reported as used yet.
    let refused = fixture.store.remove("a", NOT_IN_USE);
    assert!(matches!(refused, Err(ImageError::InUse(_))), "{refused:?}");
    let second = ImageStore::open(fixture.path("store")).unwrap();
    let removed = second.prune(&everything(), NOT_IN_USE).unwrap();
    assert_eq!(
        (removed.names, removed.layers.len()),
        (vec!["b".to_owned()], 1)
    );
    assert!(a.layers().iter().all(|layer| layer.is_dir()));
    let top = a.top().to_owned();
    drop(a);
    // Used, though it is not held any more.
    let used = |image: &StoredImage| image.top() == top;
    let refused = fixture.store.remove("a", &used);
    assert!(matches!(refused, Err(ImageError::InUse(_))), "{refused:?}");
    let removed = fixture.store.prune(&everything(), &used).unwrap();
    assert_eq!(removed, stacyvm_image::Removed::default());
    assert!(fixture.store.find("a").is_ok());
    fixture.store.prune(&everything(), NOT_IN_USE).unwrap();
    fixture.assert_empty();
}

#[test]
fn without_all_only_what_has_no_name_is_pruned() {
    let fixture = Fixture::new();
    load(&fixture, "a");
    load(&fixture, "b");
    // The name goes over, and leaves an image without one.
    fixture.store.tag("b", "a").unwrap();
    let before = fixture.store.list().unwrap();
    assert_eq!(before.len(), 3);
    let dry = PruneOptions {
        dry_run: true,
        ..PruneOptions::default()
    };
    let would = fixture.store.prune(&dry, NOT_IN_USE).unwrap();
    assert_eq!((would.images.len(), would.layers.len()), (1, 1));
    assert_eq!(fixture.store.list().unwrap(), before);
    let removed = fixture
        .store
        .prune(&PruneOptions::default(), NOT_IN_USE)
        .unwrap();
    assert_eq!(removed, would);
    let names: Vec<_> = fixture
        .store
        .list()
        .unwrap()
        .into_iter()
        .map(|image| image.name)
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(fixture.part("layers").len(), 2);
}

#[test]
fn an_image_is_never_found_without_its_files_while_others_prune() {
    let fixture = Fixture::new();
    let layout = fixture.path("layout");
    Image::small("x").write_layout(&layout, &json!({}));
    let other = ImageStore::open(fixture.path("store")).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let done = &done;
    thread::scope(|scope| {
        scope.spawn(move || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                other.prune(&everything(), NOT_IN_USE).unwrap();
            }
        });
        for _ in 0..40 {
            let loaded = fixture.store.load(&layout, Some("x"), &mut |_| {}).unwrap();
            assert_eq!(loaded.len(), 1);
            match fixture.store.find("x") {
                Ok(found) => {
                    for layer in found.layers() {
                        assert!(layer.is_dir(), "{}", layer.display());
                    }
                    assert!(found.layers()[1].join("what").exists());
                }
                Err(ImageError::NotFound(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    fixture.store.prune(&everything(), NOT_IN_USE).unwrap();
    eventually("the store to be empty", || {
        fixture.part("layers").is_empty()
    });
    fixture.assert_empty();
}

#[test]
fn images_of_the_former_format_are_found_and_removed() {
    let fixture = Fixture::new();
    let place = fixture.path("store/team~old@1");
    fs::create_dir_all(place.join("rootfs/etc")).unwrap();
    let record = json!({
        "name": "team/old:1",
        "digest": "sha256:0",
        "size": 5,
        "entries": 1,
        "created": 7,
    });
    fs::write(place.join("image.json"), record.to_string()).unwrap();
    let store = ImageStore::open(fixture.path("store")).unwrap();
    let names: Vec<_> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|image| image.name)
        .collect();
    assert_eq!(names, ["team/old:1"]);
    let found = store.find("team/old:1").unwrap();
    assert_eq!(found.layers(), [place.join("rootfs")]);
    assert_eq!(store.inspect("team/old:1").unwrap().names, ["team/old:1"]);
    let refused = store.remove("team/old:1", NOT_IN_USE);
    assert!(matches!(refused, Err(ImageError::InUse(_))), "{refused:?}");
    drop(found);
    assert!(matches!(
        store.tag("team/old:1", "new"),
        Err(ImageError::Archive(_))
    ));
    store.remove("team/old:1", NOT_IN_USE).unwrap();
    assert!(!place.exists());
    fixture.assert_empty();
}
