//! Files of the host mean nothing inside: with the image `host` everybody is a stranger to them.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::support::{Sandbox, World, need_root};

const SECRET: &str = "of-this-host-alone";

/// Files in a directory below the host's `/usr/local`, and one straight in `/usr/local/lib`.
struct HostFiles {
    directory: tempfile::TempDir,
    settings: Option<tempfile::TempDir>,
    beside: PathBuf,
}

impl Drop for HostFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.beside);
    }
}

impl HostFiles {
    fn new() -> Self {
        let directory = below("/usr/local");
        let settings = Path::new("/usr/local/etc");
        let files = Self {
            settings: settings.is_dir().then(|| below("/usr/local/etc")),
            beside: Path::new("/usr/local/lib").join(directory.path().file_name().unwrap()),
            directory,
        };
        for (name, owner, group, mode) in [
            ("open", 0, 0, 0o644),
            ("of-root", 0, 0, 0o600),
            ("of-the-first-user", 1000, 1000, 0o600),
            ("of-the-group-of-root", 4711, 0, 0o640),
            ("of-a-group", 0, 1000, 0o640),
            ("of-another", 4242, 4242, 0o400),
            ("of-nobody", 65_534, 65_534, 0o600),
            ("to-all-but-a-group", 0, 1000, 0o604),
            ("setuid", 1000, 1000, 0o6700),
        ] {
            make(&files.path(name), owner, group, mode);
        }
        let closed = files.path("closed");
        std::fs::create_dir(&closed).unwrap();
        make(&closed.join("open"), 0, 0, 0o644);
        chown(&closed, Some(1000), Some(1000)).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        make(&files.beside, 0, 0, 0o600);
        if let Some(settings) = &files.settings {
            make(&settings.path().join("open"), 0, 0, 0o644);
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

fn below(parent: &str) -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("stacyvm-test-")
        .tempdir_in(parent)
        .unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

fn make(path: &Path, owner: u32, group: u32, mode: u32) {
    std::fs::write(path, SECRET).unwrap();
    chown(path, Some(owner), Some(group)).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Tries to read every file, also after taking what an owner could take.
async fn read_all(sandbox: &Sandbox, files: &HostFiles, user: &str) -> String {
    let code = format!(
        r"
import os
for base, dirs, names in os.walk({directory:?}):
    for name in sorted(names) + sorted(dirs):
        path = os.path.join(base, name)
        for change in (lambda: None, lambda: os.chmod(path, 0o777), lambda: os.chown(path, os.getuid(), os.getgid()),
                       lambda: os.rename(path, path + '.moved'), lambda: os.link(path, '/usr/local/lib/linked'),
                       lambda: os.truncate(path, 3)):
            try: change()
            except OSError: pass
            else:
                if change.__code__.co_code != (lambda: None).__code__.co_code: print('changed', name)
        try: found = os.listdir(path) if os.path.isdir(path) else open(path).read()
        except OSError: continue
        print(os.path.basename(path), found)
",
        directory = files.directory.path(),
    );
    sandbox.python_as(user, &code).await.ok()
}

#[tokio::test]
async fn everybody_inside_is_a_stranger_to_files_of_the_host() {
    need_root!();
    let files = HostFiles::new();
    let world = World::start().await;
    let default = world.spawn().await;
    let root = world
        .spawn_with(|spec| spec.user = Some("root".to_owned()))
        .await;
    let another = world
        .spawn_with(|spec| spec.user = Some("4242".to_owned()))
        .await;
    let read_only = world.spawn_with(|spec| spec.read_only_rootfs = true).await;
    for sandbox in [&default, &root, &another, &read_only] {
        for user in ["user", "root", "4242", "4711", "65534"] {
            let seen = read_all(sandbox, &files, user).await;
            let expected = format!("open {SECRET}\nto-all-but-a-group {SECRET}");
            assert_eq!(seen, expected, "{user}");
        }
        for name in ["of-root", "of-the-first-user", "of-another", "closed/open"] {
            let path = files.path(name);
            assert!(
                sandbox.read(path.to_str().unwrap()).await.is_err(),
                "{name}"
            );
        }
    }
    for name in ["open", "of-root", "of-the-first-user", "setuid"] {
        let text = std::fs::read_to_string(files.path(name)).unwrap();
        assert_eq!(text, SECRET, "{name}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_private_file_stays_private_where_root_may_change_the_directory() {
    need_root!();
    let files = HostFiles::new();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let file = files.beside.display();
    let script = format!(
        "cat {file}; ln {file} {file}.linked; cat {file}.linked; mv {file} {file}.moved; cat {file}.moved; \
         chmod 644 {file}.moved; cp {file}.moved /tmp/copy; cat {file}.moved /tmp/copy; echo end"
    );
    assert_eq!(sandbox.sh_as("root", &script).await.ok(), "end");
    assert!(files.beside.exists());
    // It can be taken out of the way, as any file of that directory.
    let script = format!("rm -f {file}.moved {file}.linked && ls {file}*; true");
    assert_eq!(sandbox.sh_as("root", &script).await.ok(), "");
    // And root can add to the usual places.
    let script = "for d in bin lib local/bin local/lib share; do echo x > /usr/$d/stacyvm-new || exit 1; done";
    sandbox.sh_as("root", script).await.ok();
    assert_ne!(
        sandbox.sh("echo x > /usr/local/bin/y").await.exit.exit_code,
        0
    );
    world.finish().await;
}

#[tokio::test]
async fn settings_below_usr_are_not_shown() {
    need_root!();
    let files = HostFiles::new();
    let Some(settings) = &files.settings else {
        return stacyvm_testing::skip("this host has no /usr/local/etc");
    };
    let world = World::start().await;
    let sandbox = world.spawn().await;
    for user in ["user", "root"] {
        let script = format!(
            "cat {0}/open; ls -d {0} /usr/local/etc; true",
            settings.path().display()
        );
        assert_eq!(sandbox.sh_as(user, &script).await.ok(), "", "{user}");
    }
    // Its own root may have settings there.
    sandbox
        .sh_as(
            "root",
            "mkdir /usr/local/etc && echo x > /usr/local/etc/x && [ \"$(ls /usr/local/etc)\" = x ]",
        )
        .await
        .ok();
    world.finish().await;
}
