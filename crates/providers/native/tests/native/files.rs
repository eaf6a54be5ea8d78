//! File operations against a sandbox that tries to lead them out.

use std::time::Duration;

use stacyvm_provider::ops::OpError;

use crate::support::{Canary, World, command, need_root};

#[tokio::test]
async fn links_and_dots_stay_inside() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let canary = Canary::below("/root");
    let target = &canary.path;
    sandbox
        .sh(&format!(
            "cd /workspace; ln -s {target} absolute; ln -s ../../../../../..{target} dots; ln -s / top; ln -s /proc/self/root root; ln -s /proc/1/root first; ln -s loop loop"
        ))
        .await
        .ok();
    for path in [
        target.clone(),
        "absolute".to_owned(),
        "dots".to_owned(),
        format!("top{target}"),
        format!("root{target}"),
        format!("first{target}"),
        format!("../../../../..{target}"),
        format!("/workspace/../..{target}"),
        format!("/proc/self/root{target}"),
        format!("/proc/1/root{target}"),
        format!("/proc/1/cwd{target}"),
        "loop".to_owned(),
    ] {
        let read = sandbox.read(&path).await;
        assert!(read.is_err(), "{path} gave {read:?}");
    }
    // Writing through a link may make a file, but only inside.
    for path in ["absolute", "dots"] {
        let _ = sandbox.write(path, "overwritten").await;
    }
    let _ = sandbox.write(target, "overwritten").await;
    let _ = sandbox.ops.remove(&format!("top{target}"), true).await;
    let _ = sandbox
        .ops
        .rename("absolute", &format!("/proc/self/root{target}"))
        .await;
    canary.assert_untouched();
    world.finish().await;
}

#[tokio::test]
async fn what_is_inside_is_reached_through_links() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    sandbox
        .write("/workspace/real/file", "content")
        .await
        .unwrap();
    sandbox.sh("ln -s /workspace/real /tmp/link").await.ok();
    assert_eq!(sandbox.read("/tmp/link/file").await.unwrap(), b"content");
    assert_eq!(
        sandbox.sh("stat -c %U:%a /workspace/real/file").await.ok(),
        "user:644"
    );
    world.finish().await;
}

#[tokio::test]
async fn hard_links_to_the_lower_layers_change_nothing_below() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let below = std::fs::read("/usr/bin/env").unwrap();
    let passwd = std::fs::read("/etc/passwd").unwrap();
    sandbox
        .sh_as(
            "root",
            "ln /usr/bin/env /usr/bin/linked; ln /etc/passwd /etc/linked; echo changed > /usr/bin/linked; echo changed > /etc/linked; chmod 666 /etc/linked",
        )
        .await
        .ok();
    assert!(sandbox.sh("cat /etc/passwd").await.ok().contains("changed"));
    assert_eq!(std::fs::read("/usr/bin/env").unwrap(), below);
    assert_eq!(std::fs::read("/etc/passwd").unwrap(), passwd);
    let fresh = world.spawn().await;
    assert!(!fresh.sh("cat /etc/passwd").await.ok().contains("changed"));
    world.finish().await;
}

#[tokio::test]
async fn the_users_rights_are_the_apis_rights() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    sandbox
        .sh_as("root", "echo secret > /tmp/closed; chmod 600 /tmp/closed")
        .await
        .ok();
    assert!(matches!(
        sandbox.read("/tmp/closed").await,
        Err(OpError::Denied(_))
    ));
    assert!(matches!(
        sandbox.write("/etc/new", "x").await,
        Err(OpError::Denied(_))
    ));
    world.finish().await;
}

#[tokio::test]
async fn a_file_swapped_for_a_link_between_two_looks_stays_inside() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let canary = Canary::below("/root");
    let dir = canary.path.rsplit_once('/').unwrap().0.to_owned();
    let swapper = format!(
        r"
import os
os.chdir('/workspace')
os.makedirs('real', exist_ok=True)
open('real/canary', 'w').write('mine')
open('mine', 'w').write('mine')
os.symlink('{path}', 'bad')
os.symlink('{dir}', 'baddir')
os.symlink('/workspace/real', 'dir')
print('swapping', flush=True)
while True:
    for good, bad, name in (('mine', 'bad', 'file'),):
        for source in (good, bad):
            if source == 'mine': os.link('mine', 'next')
            else: os.symlink('{path}', 'next')
            os.rename('next', name)
    for target in ('{dir}', '/workspace/real'):
        os.symlink(target, 'nextdir')
        os.rename('nextdir', 'dir')
",
        path = canary.path,
    );
    let mut spec = command(["python3", "-c", &swapper]);
    spec.timeout = Some(Duration::from_secs(40));
    let mut session = sandbox.ops.exec(spec).await.unwrap();
    session.events.recv().await.unwrap();

    let mut seen = 0;
    for round in 0..300 {
        for path in ["file", "dir/canary"] {
            if let Ok(content) = sandbox.read(path).await {
                assert_ne!(content, Canary::SECRET.as_bytes(), "{path} led out");
                seen += usize::from(!content.is_empty());
            }
        }
        if round % 3 == 0 {
            let _ = sandbox.write("dir/canary", "mine").await;
            let _ = sandbox.write("file", "mine").await;
            let _ = sandbox
                .ops
                .chmod("dir/canary", "0600".parse().unwrap())
                .await;
        }
    }
    assert!(seen > 0, "nothing was ever read, so nothing was tried");
    canary.assert_untouched();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&canary.path).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o666);
    drop(session);
    world.finish().await;
}
