//! The same provider without root, in a process of its own.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::{World, copy_program, launcher, need_root};

/// Tells the second process that it is meant.
const MARK: &str = "STACYVM_TEST_WITHOUT_ROOT";
const NOBODY: &str = "65534";

#[tokio::test]
async fn sandboxes_work_without_root() {
    need_root!();
    let allowed = Command::new("setpriv")
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .args(["unshare", "--user", "true"])
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        return stacyvm_testing::skip("no user namespaces for users here");
    }
    // The target directory may be closed to other users, so both programs move.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let test = dir.path().join("test");
    copy_program(&std::env::current_exe().unwrap(), &test);
    let program = dir.path().join("launcher");
    copy_program(launcher(), &program);
    let output = Command::new("setpriv")
        .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"])
        .arg(&test)
        .args(["unprivileged::part_without_root", "--exact", "--nocapture"])
        .env(MARK, "1")
        .env("TMPDIR", dir.path())
        .env("STACYVM_LAUNCHER_BIN", &program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("part without root is done"), "{said}");
}

#[tokio::test]
async fn part_without_root() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    assert!(!rustix::process::geteuid().is_root());
    let world = World::start().await;
    let sandbox = world.spawn().await;
    assert_eq!(sandbox.sh("id -u").await.ok(), "1000");
    sandbox
        .sh("echo x > /workspace/x && echo x > /tmp/x")
        .await
        .ok();
    assert_eq!(sandbox.python("print(6 * 7)").await.ok(), "42");
    let status = sandbox.sh("cat /proc/self/status").await.ok();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert_ne!(sandbox.sh("cat /etc/shadow").await.exit.exit_code, 0);
    let degraded = stacyvm_provider::ProviderInfo::degradations(&**world.provider());
    assert!(!degraded.is_empty(), "less than root must be said");
    let root = world
        .spawn_with(|spec| spec.user = Some("root".to_owned()))
        .await;
    assert_eq!(root.sh("id -u").await.ok(), "0");
    world.finish().await;
    println!("part without root is done");
}
