//! What gets into a view of a made-up host, and of the one that the test runs on.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A host with one harmless setting of each kind and every secret that a view must not have.
fn made_up_host() -> tempfile::TempDir {
    let host = tempfile::tempdir().unwrap();
    let etc = host.path().join("etc");
    for dir in [
        "usr/bin",
        "lib64",
        "etc/ssh",
        "etc/ssl/certs",
        "etc/ssl/private",
        "etc/ld.so.conf.d",
        "etc/alternatives",
        "etc/python3",
        "etc/perl/closed",
        "root",
    ] {
        std::fs::create_dir_all(host.path().join(dir)).unwrap();
    }
    symlink("usr/bin", host.path().join("bin")).unwrap();
    for (path, content) in [
        (
            "passwd",
            "root:x:0:0:Boss:/root:/bin/zsh\ndaemon:x:1:1:d:/d:/bin/sh\nalice:x:1001:1001:Alice Liddell:/home/alice:/bin/sh\nuser:x:500:500::/:/bin/sh\n",
        ),
        ("group", "root:x:0:alice\nsudo:x:27:alice\nalice:x:1001:\n"),
        ("shadow", "root:$6$SECRET"),
        ("gshadow", "SECRET"),
        ("hostname", "SECRET"),
        ("machine-id", "SECRET"),
        ("hosts", "10.0.0.1 SECRET"),
        ("resolv.conf", "nameserver SECRET"),
        ("environment", "TOKEN=SECRET"),
        ("ssh/ssh_host_key", "SECRET"),
        ("ssl/private/server.pem", "SECRET"),
        ("ssl/certs/public.crt", "public"),
        (
            "ssl/certs/mixed.pem",
            "-----BEGIN RSA PRIVATE KEY-----\nSECRET",
        ),
        ("ssl/certs/server.key", "SECRET"),
        ("python3/sitecustomize.py", "harmless"),
        ("python3/closed.conf", "SECRET"),
        ("perl/closed/x", "SECRET"),
        ("mime.types", "text/plain txt"),
        ("ld.so.conf", "include"),
        ("unknown.conf", "SECRET"),
    ] {
        std::fs::write(etc.join(path), content).unwrap();
    }
    for path in ["etc/python3/closed.conf", "etc/perl/closed"] {
        let closed = Permissions::from_mode(if path.ends_with("conf") { 0o640 } else { 0o750 });
        std::fs::set_permissions(host.path().join(path), closed).unwrap();
    }
    symlink("/usr/bin/vim.basic", etc.join("alternatives/editor")).unwrap();
    symlink("/usr/share/man/x.1.gz", etc.join("alternatives/x.1.gz")).unwrap();
    symlink("../root/SECRET", etc.join("alternatives/out")).unwrap();
    symlink("../shadow", etc.join("ssl/certs/sneaky")).unwrap();
    symlink("/usr/share/zoneinfo/Etc/UTC", etc.join("localtime")).unwrap();
    symlink("/root", etc.join("terminfo")).unwrap();
    symlink("/root", etc.join("maven")).unwrap();
    host
}

fn quiet(_: usize, _: usize) {}

fn open(views: &Path, host: &Path) -> HostView {
    HostView::open(views, host, &quiet).unwrap()
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        visit(&entry.path());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), visit);
        }
    }
}

#[test]
fn nothing_secret_and_nobodys_name_gets_in() {
    let (host, views) = (made_up_host(), tempfile::tempdir().unwrap());
    let view = open(views.path(), host.path());
    walk(&view.path, &mut |path| {
        if path.is_file() && !path.is_symlink() {
            let content = std::fs::read_to_string(path).unwrap();
            for word in ["SECRET", "alice", "Liddell", "Boss"] {
                assert!(!content.contains(word), "{} holds {word}", path.display());
            }
        }
        if path.is_symlink() {
            let target = std::fs::read_link(path).unwrap();
            assert!(
                !target.to_string_lossy().contains("SECRET") && !target.ends_with("shadow"),
                "{} leads to {}",
                path.display(),
                target.display()
            );
        }
    });
    for absent in [
        "shadow",
        "gshadow",
        "ssh",
        "ssl/private",
        "ssl/certs/server.key",
        "ssl/certs/mixed.pem",
        "hostname",
        "machine-id",
        "environment",
        "unknown.conf",
        "terminfo",
        "alternatives/x.1.gz",
        "maven",
    ] {
        let path = view.path.join("etc").join(absent);
        assert!(path.symlink_metadata().is_err(), "/etc/{absent} is there");
    }
}

#[test]
fn what_programs_need_is_there() {
    let (host, views) = (made_up_host(), tempfile::tempdir().unwrap());
    let view = open(views.path(), host.path());
    let read = |path: &str| std::fs::read_to_string(view.path.join(path)).unwrap();
    assert_eq!(read("etc/ssl/certs/public.crt"), "public");
    assert_eq!(read("etc/python3/sitecustomize.py"), "harmless");
    assert_eq!(read("etc/resolv.conf"), "");
    let passwd = read("etc/passwd");
    for line in [
        "root:x:0:0:root:/root:/bin/sh",
        "daemon:x:1:1::/nonexistent:/usr/sbin/nologin",
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin",
        "user:x:1000:1000::/home/user:/bin/sh",
    ] {
        assert!(passwd.lines().any(|have| have == line), "{line}\n{passwd}");
    }
    assert_eq!(passwd.matches("user:x:").count(), 1);
    assert!(read("etc/group").contains("sudo:x:27:\n"));
    let link = |path: &str| std::fs::read_link(view.path.join(path)).unwrap();
    assert_eq!(link("bin"), Path::new("usr/bin"));
    assert_eq!(
        link("etc/alternatives/editor"),
        Path::new("/usr/bin/vim.basic")
    );
    assert_eq!(
        view.mounts,
        [
            ("/lib64".into(), host.path().join("lib64")),
            ("/usr".into(), host.path().join("usr")),
        ]
    );
    let mode = |path: &str| {
        let metadata = view.path.join(path).metadata().unwrap();
        metadata.permissions().mode() & 0o7777
    };
    assert_eq!(
        (mode("tmp"), mode("root"), mode("etc")),
        (0o1777, 0o700, 0o755)
    );
}

#[test]
fn a_change_of_a_setting_makes_a_new_view_and_the_old_one_is_swept_when_unused() {
    let (host, views) = (made_up_host(), tempfile::tempdir().unwrap());
    let first = open(views.path(), host.path());
    assert_eq!(open(views.path(), host.path()).generation, first.generation);
    std::fs::write(host.path().join("etc/shadow"), "changed").unwrap();
    assert_eq!(
        HostView::current_generation(host.path()).unwrap(),
        first.generation,
        "a file that is not in the view must not change it"
    );

    std::fs::write(host.path().join("etc/mime.types"), "text/plain txt text").unwrap();
    let second = open(views.path(), host.path());
    assert_ne!(first.generation, second.generation);

    std::fs::create_dir(views.path().join("unfinished-1-1")).unwrap();
    let trash = |path: &Path| std::fs::remove_dir_all(path);
    sweep(views.path(), &|_| false, &trash).unwrap();
    assert!(first.path.is_dir(), "a held view was swept");
    assert!(!views.path().join("unfinished-1-1").exists());

    let (old, generation) = (first.path.clone(), first.generation.clone());
    drop(first);
    sweep(views.path(), &|name| name == generation, &trash).unwrap();
    assert!(old.is_dir(), "a view that a sandbox stands on was swept");
    sweep(views.path(), &|_| false, &trash).unwrap();
    assert!(!old.exists());
    assert!(second.path.is_dir());
}

#[test]
fn a_view_of_this_host_has_no_secret_of_this_host() {
    let views = tempfile::tempdir().unwrap();
    let steps = std::sync::Mutex::new(Vec::new());
    let progress = |done, total| steps.lock().unwrap().push((done, total));
    let view = HostView::open(views.path(), Path::new("/"), &progress).unwrap();
    let steps = steps.into_inner().unwrap();
    assert!(matches!(steps.last(), Some((done, total)) if done == total && *done > 0));

    let mut secrets = Vec::new();
    for path in ["/etc/machine-id", "/etc/hostname"] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.trim().len() > 3 {
            secrets.push(text.trim().to_owned());
        }
    }
    walk(&view.path, &mut |path| {
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(!name.contains("shadow"), "{}", path.display());
        if path.is_file() && !path.is_symlink() {
            let content = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
            assert!(!content.contains("PRIVATE KEY-----"), "{}", path.display());
            for secret in &secrets {
                assert!(!content.contains(secret), "{}", path.display());
            }
        }
    });
    for absent in ["ssh", "sudoers", "ssl/private", "apt", "machine-id"] {
        assert!(!view.path.join("etc").join(absent).exists(), "{absent}");
    }
}

#[test]
fn well_known_directories_of_programs_are_the_sandboxs_own_and_settings_are_hidden() {
    let (host, views) = (made_up_host(), tempfile::tempdir().unwrap());
    for dir in [
        "usr/share",
        "usr/sbin",
        "usr/local/etc",
        "usr/local/bin",
        "usr/local/project",
        "usr/local/lib/python3.13/dist-packages",
        "usr/local/lib/python3-private",
    ] {
        std::fs::create_dir_all(host.path().join(dir)).unwrap();
    }
    symlink("bin", host.path().join("usr/libexec")).unwrap();
    std::fs::set_permissions(host.path().join("usr/sbin"), Permissions::from_mode(0o711)).unwrap();
    let view = open(views.path(), host.path());
    let kind = |path: &str| view.path.join(path).symlink_metadata();
    for own in [
        "usr/bin",
        "usr/share",
        "usr/local/bin",
        "usr/local/lib/python3.13/dist-packages",
    ] {
        let metadata = kind(own).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        assert_eq!((metadata.is_dir(), mode), (true, 0o755), "{own}");
    }
    for left in [
        "usr/sbin",
        "usr/libexec",
        "usr/local/project",
        "usr/local/lib/python3-private",
        "usr/lib",
        "lib64/etc",
    ] {
        assert!(kind(left).is_err(), "{left}");
    }
    for hidden in ["usr/etc", "usr/local/etc", "usr/local/var"] {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let metadata = kind(hidden).unwrap();
        assert!(
            metadata.file_type().is_char_device() && metadata.rdev() == 0,
            "{hidden}"
        );
    }
}
