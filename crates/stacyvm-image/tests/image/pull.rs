//! Pulls from a registry: first, again, resumed, refused.

use std::fs;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use stacyvm_image::{
    Digest, ImageError, ImageStore, LayerStage, PullOptions, PullPolicy, PullProgress, Reference,
};
use tar::EntryType::Regular;

use crate::builder::{Image, Layer, Packing, gzip, noise, rootfs, tar_of};
use crate::fixture::{Fixture, file, refusing};
use crate::proxy::{Action, Proxy};
use crate::registry::{INDEX, Registry, options, reference};

/// A layer with one large file.
fn large(seed: u64, length: usize) -> Layer {
    let content = noise(seed, length);
    Layer::of(&[(Regular, &format!("large-{seed}"), &content, 0o644, 0)])
}

#[test]
fn an_image_is_pulled_once_and_found_ever_after() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = Image::new(vec![
        Layer::of(&rootfs()),
        Layer::new(tar_of(&[(Regular, "b", "zstd", 0o644, 0)]), Packing::Zstd),
        Layer::new(tar_of(&[(Regular, "c", "plain", 0o644, 0)]), Packing::Plain),
    ]);
    let digest = registry.put(&image, "team/app", "1.0");
    let proxy = Proxy::counting(registry.address);
    let reference = reference(proxy.address, "team/app:1.0");
    let fixture = Fixture::new();
    let reported = Mutex::new(Vec::new());
    let pulled = fixture
        .store
        .pull(&reference, &options(), &|state| {
            reported.lock().push(state);
        })
        .unwrap();
    assert!(!pulled.cached);
    assert_eq!(pulled.image.name, reference.to_string());
    assert_eq!(pulled.image.digest, digest.to_string());
    assert_eq!(pulled.image.layers, 3);
    let compressed: usize = image.layers.iter().map(|layer| layer.blob.len()).sum();
    assert_eq!(pulled.downloaded, compressed as u64);
    let reported = reported.into_inner();
    assert_eq!(
        reported[0],
        PullProgress::Resolved {
            digest: digest.to_string(),
            layers: 3,
            bytes: compressed as u64,
        }
    );
    let done = |state: &&PullProgress| {
        matches!(
            state,
            PullProgress::Layer {
                stage: LayerStage::Done,
                ..
            }
        )
    };
    assert_eq!(reported.iter().filter(done).count(), 3);

    let found = fixture.store.find(&reference.to_string()).unwrap();
    assert_eq!(found.layers().len(), 4);
    for (path, content) in [("b", "zstd"), ("c", "plain"), ("usr/bin/sh", "#!shell")] {
        assert_eq!(fs::read_to_string(file(&found, path)).unwrap(), content);
    }
    let passwd = fs::read_to_string(found.top().join("etc/passwd")).unwrap();
    assert!(passwd.contains("user:x:1000:1000:"), "{passwd}");
    let config = found.config();
    assert_eq!(config.env, ["PATH=/usr/bin", "A=b"]);
    assert_eq!(config.working_dir.as_deref(), Some("/srv"));
    assert_eq!(config.user.as_deref(), Some("33:33"));
    assert_eq!((config.entrypoint.len(), config.cmd.len()), (1, 2));
    assert_eq!(config.exposed_ports, ["80/tcp"]);
    assert_eq!(config.labels["who"], "me");
    let details = fixture.store.inspect(&reference.to_string()).unwrap();
    assert_eq!(details.made.as_deref(), Some("2024-01-02T03:04:05Z"));
    assert_eq!(details.names, [reference.canonical()]);
    let diff_ids: Vec<_> = details
        .layer_list
        .iter()
        .map(|layer| layer.diff_id)
        .collect();
    let expected: Vec<_> = image
        .layers
        .iter()
        .map(|layer| Digest::of(&layer.tar))
        .collect();
    assert_eq!(diff_ids, expected);
    assert_eq!(fixture.part("partial"), Vec::<String>::new());

    // What is there is not asked for.
    let asked = proxy.asked().len();
    let again = fixture.store.pull(&reference, &options(), &|_| {}).unwrap();
    assert!(again.cached);
    assert_eq!(proxy.asked().len(), asked);
    // Unless it has to be: then for the manifest alone.
    let always = PullOptions {
        policy: PullPolicy::Always,
        ..options()
    };
    let blobs = proxy.count("/blobs/");
    assert!(
        fixture
            .store
            .pull(&reference, &always, &|_| {})
            .unwrap()
            .cached
    );
    assert_eq!(proxy.count("/blobs/"), blobs);
    assert!(proxy.asked().len() > asked);
}

#[test]
fn layers_are_shared_and_a_name_moves_to_the_newer_image() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let base = Layer::of(&rootfs());
    let old = Image::new(vec![base.clone(), large(1, 1000)]);
    let new = Image::new(vec![base.clone(), large(2, 1000)]);
    registry.put(&old, "app", "latest");
    let proxy = Proxy::counting(registry.address);
    let reference = reference(proxy.address, "app");
    let fixture = Fixture::new();
    let first = fixture.store.pull(&reference, &options(), &|_| {}).unwrap();
    let found = fixture.store.find(&reference.to_string()).unwrap();
    assert_eq!(found.id(), first.image.id);
    registry.put(&new, "app", "latest");
    let always = PullOptions {
        policy: PullPolicy::Always,
        ..options()
    };
    let second = fixture.store.pull(&reference, &always, &|_| {}).unwrap();
    assert_eq!(second.downloaded, new.layers[1].blob.len() as u64);
    assert_eq!(proxy.count(&base.digest().to_string()), 1);
    assert_ne!(first.image.id, second.image.id);
    assert_eq!(fixture.part("layers").len(), 3);
    let found = fixture.store.find(&reference.to_string()).unwrap();
    assert_eq!(found.id(), second.image.id);
    let names: Vec<_> = fixture
        .store
        .list()
        .unwrap()
        .into_iter()
        .map(|image| image.name)
        .collect();
    assert!(
        names.contains(&first.image.id) && names.contains(&reference.to_string()),
        "{names:?}"
    );
    // By its digest the old one is found in the registry, and its layers are here.
    let digest = format!("{}/app@{}", proxy.address, first.image.digest);
    let pinned = Reference::parse(&digest).unwrap();
    let third = fixture.store.pull(&pinned, &options(), &|_| {}).unwrap();
    assert!(third.cached);
    assert_eq!(third.image.id, first.image.id);
}

#[test]
fn the_image_for_the_platform_is_taken_from_an_index() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let here = Image::small("here");
    let mut there = Image::small("there");
    there.config["architecture"] = json!("s390x");
    let mut manifests = Vec::new();
    for (image, architecture) in [(&there, "s390x"), (&here, "amd64")] {
        let digest = registry.put(image, "app", architecture);
        let size = serde_json::to_vec(&image.manifest()).unwrap().len();
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    registry.put_manifest("app", "latest", INDEX, &index);
    let reference = registry.reference("app");
    let fixture = Fixture::new();
    let what = || {
        let found = fixture.store.find(&reference.to_string()).unwrap();
        fs::read_to_string(file(&found, "what")).unwrap()
    };
    fixture.store.pull(&reference, &options(), &|_| {}).unwrap();
    assert_eq!(what(), "here");
    let other = PullOptions {
        platform: "linux/s390x".parse().unwrap(),
        ..options()
    };
    // The one that is there is not what is wanted now.
    let pulled = fixture.store.pull(&reference, &other, &|_| {}).unwrap();
    assert_eq!(pulled.image.platform.to_string(), "linux/s390x");
    assert_eq!(what(), "there");
    let none = PullOptions {
        platform: "linux/riscv64".parse().unwrap(),
        ..options()
    };
    for image in ["app", "app:s390x"] {
        let error = fixture
            .store
            .pull(&registry.reference(image), &none, &|_| {});
        let message = error.unwrap_err().to_string();
        assert!(message.contains("only for linux/"), "{message}");
    }
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = Image::new(vec![Layer::of(&rootfs()), large(3, 600_000)]);
    registry.put(&image, "app", "latest");
    let large = image.layers[1].digest().to_string();
    let length = image.layers[1].blob.len() as u64;
    let wanted = large.clone();
    let proxy = Proxy::start(registry.address, move |asked| {
        match asked.path.contains(&wanted) && asked.before < 2 {
            true => Action::Cut(150_000),
            false => Action::Pass,
        }
    });
    let fixture = Fixture::new();
    let retried = Mutex::new(0);
    let pulled = fixture
        .store
        .pull(&reference(proxy.address, "app"), &options(), &|state| {
            if matches!(
                state,
                PullProgress::Layer {
                    stage: LayerStage::Retrying { .. },
                    ..
                }
            ) {
                *retried.lock() += 1;
            }
        })
        .unwrap();
    assert_eq!(*retried.lock(), 2);
    let ranges: Vec<_> = proxy
        .asked()
        .into_iter()
        .filter(|asked| asked.path.contains(&large))
        .map(|asked| asked.range)
        .collect();
    let from = |start: u64| Some(format!("bytes={start}-"));
    assert_eq!(ranges, [None, from(150_000), from(300_000)]);
    // Nothing came twice.
    assert_eq!(
        pulled.downloaded,
        length + image.layers[0].blob.len() as u64
    );
}

#[test]
fn what_a_failed_pull_left_is_the_start_of_the_next() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = Image::new(vec![Layer::of(&rootfs()), large(4, 600_000)]);
    registry.put(&image, "app", "latest");
    let large = image.layers[1].digest();
    let wanted = large.to_string();
    let proxy = Proxy::start(registry.address, move |asked| {
        match asked.path.contains(&wanted) && asked.before < 1 {
            true => Action::Cut(200_000),
            false => Action::Pass,
        }
    });
    let reference = reference(proxy.address, "app");
    let fixture = Fixture::new();
    let once = PullOptions {
        attempts: 1,
        ..options()
    };
    let error = fixture.store.pull(&reference, &once, &|_| {}).unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");
    assert_eq!(fixture.store.list().unwrap(), []);
    assert!(fixture.part("partial").contains(&large.hex()));
    // Another process goes on.
    let store = ImageStore::open(fixture.path("store")).unwrap();
    let pulled = store.pull(&reference, &once, &|_| {}).unwrap();
    assert!(pulled.downloaded < 600_000, "{}", pulled.downloaded);
    let mut asked = proxy.asked();
    asked.retain(|asked| asked.path.contains(&large.to_string()));
    assert_eq!(asked[1].range.as_deref(), Some("bytes=200000-"));

    // What is left is not trusted: when it is wrong, the blob is fetched once more.
    let other = Fixture::new();
    fs::create_dir_all(other.path("store")).unwrap();
    let partial = match crate::fixture::root() {
        true => other.path("store/.oci/partial"),
        false => other.path("store/.oci-user/partial"),
    };
    fs::write(partial.join(large.hex()), "something else").unwrap();
    other.store.pull(&reference, &once, &|_| {}).unwrap();
}

#[test]
fn damaged_content_is_never_taken() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = Image::new(vec![large(5, 100_000)]);
    registry.put(&image, "app", "latest");
    let layer = image.layers[0].digest().to_string();
    let config = Digest::of(&image.config_bytes()).to_string();
    for (part, what) in [
        ("/manifests/".to_owned(), "the manifest"),
        (config, "the configuration"),
        (layer, "a layer"),
    ] {
        let proxy = Proxy::start(registry.address, move |asked| {
            match asked.path.contains(&part) {
                true => Action::Flip(60),
                false => Action::Pass,
            }
        });
        let fixture = Fixture::new();
        let result = fixture
            .store
            .pull(&reference(proxy.address, "app"), &options(), &|_| {});
        match result {
            Err(ImageError::Digest { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
        fixture.assert_empty();
    }
}

#[test]
fn a_layer_that_unpacks_to_something_else_is_refused() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let mut image = Image::small("x");
    image.config["rootfs"]["diff_ids"] = json!([Digest::of(b"other")]);
    registry.put(&image, "app", "latest");
    let fixture = Fixture::new();
    let error = fixture
        .store
        .pull(&registry.reference("app"), &options(), &|_| {})
        .unwrap_err();
    assert!(
        matches!(
            error,
            ImageError::Digest {
                what: "the content of a layer",
                ..
            }
        ),
        "{error}"
    );
    fixture.assert_empty();
    // A layer that the configuration does not know, and one that is no tar.
    image.config["rootfs"]["diff_ids"] = json!([]);
    registry.put(&image, "app", "short");
    let garbage = Layer {
        blob: gzip(b"no tar"),
        tar: b"no tar".to_vec(),
        packing: Packing::Gzip,
    };
    registry.put(&Image::new(vec![garbage]), "app", "garbage");
    for tag in ["short", "garbage"] {
        let reference = registry.reference(&format!("app:{tag}"));
        let error = fixture
            .store
            .pull(&reference, &options(), &|_| {})
            .unwrap_err();
        assert!(matches!(error, ImageError::Archive(_)), "{tag}: {error}");
        fixture.assert_empty();
    }
}

#[test]
fn what_is_not_there_is_said_to_be_missing() {
    let Some(registry) = Registry::start() else {
        return;
    };
    registry.put(&Image::small("x"), "app", "latest");
    let fixture = Fixture::new();
    for image in ["app:none", "none", &format!("app@{}", Digest::of(b"none"))] {
        let error = fixture
            .store
            .pull(&registry.reference(image), &options(), &|_| {})
            .unwrap_err();
        match &error {
            ImageError::Unknown { registry: name, .. } => assert_eq!(*name, registry.name()),
            other => panic!("{other}"),
        }
        assert!(error.to_string().contains(&registry.name()), "{error}");
    }
}

#[test]
fn a_registry_that_is_down_is_named() {
    let fixture = Fixture::new();
    let (_bound, port) = refusing();
    let mut quick = PullOptions {
        attempts: 2,
        ..options()
    };
    quick.registries.private.insert(port.to_string());
    let error = fixture
        .store
        .pull(&reference(port, "app"), &quick, &|_| {})
        .unwrap_err();
    match &error {
        ImageError::Registry { registry, .. } => assert_eq!(*registry, port.to_string()),
        other => panic!("{other}"),
    }
    assert!(error.to_string().contains("connection refused"), "{error}");
    let nowhere = Reference::parse("nowhere.invalid/app").unwrap();
    let error = fixture.store.pull(&nowhere, &quick, &|_| {}).unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");
}

#[test]
fn a_registry_that_falls_silent_is_given_up() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = Image::new(vec![large(6, 300_000)]);
    registry.put(&image, "app", "latest");
    let layer = image.layers[0].digest().to_string();
    let proxy = Proxy::start(registry.address, move |asked| {
        match asked.path.contains(&layer) {
            true => Action::Stall(if asked.before == 0 { 100_000 } else { 0 }),
            false => Action::Pass,
        }
    });
    let fixture = Fixture::new();
    let impatient = PullOptions {
        stall_timeout: Duration::from_millis(300),
        attempts: 2,
        ..options()
    };
    let error = fixture
        .store
        .pull(&reference(proxy.address, "app"), &impatient, &|_| {})
        .unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");
    assert_eq!(fixture.store.list().unwrap(), []);
}

#[test]
fn a_pull_ends_when_it_is_told_to() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = Image::new(vec![large(7, 300_000), large(8, 300_000)]);
    registry.put(&image, "app", "latest");
    let fixture = Fixture::new();
    let options = options();
    let cancel = options.cancel.clone();
    let error = fixture
        .store
        .pull(&registry.reference("app"), &options, &|state| {
            if matches!(state, PullProgress::Layer { .. }) {
                cancel.cancel();
            }
        })
        .unwrap_err();
    assert!(matches!(error, ImageError::Cancelled), "{error}");
    assert_eq!(fixture.store.list().unwrap(), []);
    assert_eq!(fixture.part("making"), Vec::<String>::new());
}

#[test]
fn many_pulls_at_once_fetch_each_blob_once() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let layers = (10..16).map(|seed| large(seed, 50_000)).collect();
    let image = Image::new(layers);
    registry.put(&image, "app", "latest");
    let proxy = Proxy::counting(registry.address);
    let reference = reference(proxy.address, "app");
    let fixture = Fixture::new();
    // As another process would have it.
    let second = ImageStore::open(fixture.path("store")).unwrap();
    let barrier = Barrier::new(6);
    let made = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..6 {
            let store = if number % 2 == 0 {
                &fixture.store
            } else {
                &second
            };
            let (barrier, reference, made) = (&barrier, &reference, &made);
            scope.spawn(move || {
                barrier.wait();
                store
                    .pull(reference, &options(), &|state| {
                        if let PullProgress::Layer { stage, .. } = state
                            && stage == LayerStage::Done
                        {
                            made.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                    .unwrap();
            });
        }
    });
    assert_eq!(made.into_inner(), image.layers.len());
    for layer in &image.layers {
        assert_eq!(proxy.count(&layer.digest().to_string()), 1);
    }
    assert_eq!(fixture.part("images").len(), 1);
    assert_eq!(fixture.store.list().unwrap().len(), 1);
}

#[test]
fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let image = Image::new(vec![large(20, 50_000)]);
    registry.put(&image, "app", "latest");
    let layer = image.layers[0].digest().to_string();
    let origin = Proxy::counting(registry.address);
    let wanted = layer.clone();
    let spoils = Proxy::start(registry.address, move |asked| {
        match asked.path.contains(&wanted) {
            true => Action::Flip(100),
            false => Action::Pass,
        }
    });
    let (_bound, closed) = refusing();
    let mut options = options();
    options.attempts = 1;
    let mirrors = vec![
        format!("http://{closed}"),
        format!("http://{}", spoils.address),
    ];
    let reference = reference(origin.address, "app");
    options
        .registries
        .mirrors
        .insert(origin.address.to_string(), mirrors);
    let fixture = Fixture::new();
    fixture.store.pull(&reference, &options, &|_| {}).unwrap();
    assert_eq!(
        (spoils.count("/manifests/"), origin.count("/manifests/")),
        (1, 0)
    );
    assert_eq!((spoils.count(&layer), origin.count(&layer)), (1, 1));
}

#[test]
fn too_many_requests_are_told_as_such() {
    let unused = "127.0.0.1:9".parse().unwrap();
    let proxy = Proxy::start(unused, |asked| {
        let status = if asked.path == "/v2/" { 200 } else { 429 };
        Action::Answer(status, vec!["retry-after: 0".to_owned()], String::new())
    });
    let fixture = Fixture::new();
    let error = fixture
        .store
        .pull(&reference(proxy.address, "app"), &options(), &|_| {})
        .unwrap_err();
    assert!(
        matches!(error, ImageError::TooManyRequests { .. }),
        "{error}"
    );
    assert_eq!(proxy.count("/manifests/"), 4);
}
