//! What sandboxes can be made from, and which user they run as.

use std::path::Path;

use stacyvm_provider::ProviderError;
use stacyvm_provider::prelude::*;

use crate::support::{World, need_root, spec};

/// A root file system of three programs and their libraries, taken from the host.
fn small_rootfs(root: &Path) {
    for program in ["/bin/sh", "/usr/bin/id", "/usr/bin/cat"] {
        install(root, Path::new(program));
        let listed = std::process::Command::new("ldd")
            .arg(program)
            .output()
            .unwrap();
        for word in String::from_utf8(listed.stdout).unwrap().split_whitespace() {
            if word.starts_with('/') {
                install(root, Path::new(word));
            }
        }
    }
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n",
    )
    .unwrap();
}

fn install(root: &Path, path: &Path) {
    let target = root.join(path.strip_prefix("/").unwrap());
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::fs::copy(path, target).unwrap();
}

#[tokio::test]
async fn a_directory_that_is_allowed_is_an_image() {
    need_root!();
    let world = World::with(|config, home| {
        small_rootfs(&home.join("roots/small"));
        config.rootfs_dirs = vec![home.join("roots")];
    })
    .await;
    let root = world.config.rootfs_dirs[0].join("small");
    let image = root.to_str().unwrap().to_owned();
    world.provider().check_image(&image).await.unwrap();
    let sandbox = world.spawn_with(|spec| spec.image = image.clone()).await;
    assert_eq!(sandbox.sh("id -u; pwd").await.ok(), "1000\n/workspace");
    sandbox
        .sh("echo x > /workspace/x; echo x > /tmp/x; cat /workspace/x")
        .await
        .ok();
    assert_ne!(
        sandbox.sh("cat /usr/bin/env").await.exit.exit_code,
        0,
        "the host shows"
    );

    let web = world
        .spawn_with(|spec| {
            spec.image = image.clone();
            spec.user = Some("web".to_owned());
        })
        .await;
    assert_eq!(
        web.sh("id -u; id -g; echo x > /workspace/x && cat /workspace/x")
            .await
            .ok(),
        "33\n34\nx"
    );
    assert!(
        !root.join("workspace/x").exists(),
        "the image itself was written to"
    );
    world.finish().await;
}

#[tokio::test]
async fn an_imported_archive_is_an_image() {
    need_root!();
    let world = World::start().await;
    let scratch = tempfile::tempdir().unwrap();
    small_rootfs(&scratch.path().join("root"));
    let archive = scratch.path().join("small.tar");
    let status = std::process::Command::new("tar")
        .args(["--numeric-owner", "--owner=0", "--group=0", "-C"])
        .arg(scratch.path().join("root"))
        .arg("-cf")
        .args([archive.as_path(), Path::new(".")])
        .status()
        .unwrap();
    assert!(status.success());
    let store = stacyvm_image::ImageStore::open(stacyvm_native::images_dir(&world.config.data_dir))
        .unwrap();
    store.import(&archive, Some("small"), &mut |_| {}).unwrap();

    world.provider().check_image("small").await.unwrap();
    let sandbox = world
        .spawn_with(|spec| spec.image = "small".to_owned())
        .await;
    assert_eq!(sandbox.sh("id -u").await.ok(), "1000");
    let images = world.provider().images().unwrap();
    let refused = images.remove("small").await.unwrap_err();
    assert!(matches!(refused, ProviderError::Conflict(_)), "{refused:?}");
    world.destroy(&sandbox).await;
    images.remove("small").await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn images_that_are_not_there_are_refused_before_anything_is_made() {
    need_root!();
    let world = World::start().await;
    for (image, wanted) in [
        ("python:3.12", "NotFound"),
        ("/etc", "NotFound"),
        ("/", "NotFound"),
        ("../etc", "Invalid"),
        ("UPPER", "Invalid"),
    ] {
        let checked = world.provider().check_image(image).await.unwrap_err();
        assert!(
            format!("{checked:?}").starts_with(wanted),
            "{image}: {checked:?}"
        );
        let mut spec = spec();
        spec.image = image.to_owned();
        let made = world.provider().create(&spec).await.unwrap_err();
        assert!(format!("{made:?}").starts_with(wanted), "{image}: {made:?}");
        let data = world.config.data_dir.to_str().unwrap();
        assert!(!made.to_string().contains(data), "{made}");
    }
    assert_eq!(world.provider().list().await.unwrap(), []);
    world.finish().await;
}

#[tokio::test]
async fn the_user_of_a_spawn_is_who_commands_run_as() {
    need_root!();
    let world = World::start().await;
    for (user, uid) in [
        ("root", "0"),
        ("0", "0"),
        ("1000", "1000"),
        ("nobody", "65534"),
        ("4242", "4242"),
    ] {
        let sandbox = world
            .spawn_with(|spec| spec.user = Some(user.to_owned()))
            .await;
        assert_eq!(
            sandbox
                .sh("id -u; echo x > /workspace/file; stat -c %u /workspace/file")
                .await
                .ok(),
            format!("{uid}\n{uid}"),
            "{user}"
        );
        world.destroy(&sandbox).await;
    }
    let mut unknown = spec();
    unknown.user = Some("no-such-user".to_owned());
    let refused = world.provider().create(&unknown).await.unwrap_err();
    assert!(matches!(refused, ProviderError::Invalid(_)), "{refused:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_data_directory_that_sandboxes_would_see_is_refused() {
    need_root!();
    let world = World::start().await;
    let below = tempfile::Builder::new()
        .prefix("stacyvm-test-")
        .tempdir_in("/usr/local")
        .unwrap();
    let mut config = world.config.clone();
    config.data_dir = below.path().join("data");
    let refused = stacyvm_native::NativeProvider::start(config)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("move it elsewhere"),
        "{refused}"
    );

    let mut config = world.config.clone();
    config.data_dir = world.config.data_dir.with_file_name("other");
    config.hidden = vec!["/usr/local/etc/stacyvm.yaml".into()];
    let refused = stacyvm_native::NativeProvider::start(config)
        .await
        .unwrap_err();
    assert!(matches!(refused, ProviderError::Invalid(_)), "{refused:?}");
    world.finish().await;
}
