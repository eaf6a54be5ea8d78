//! Paths that a client sends, in a sandbox whose user has made links that lead everywhere: none may
//! reach a file outside of the sandbox's root.
#![no_main]

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stacyvm_agent::files::FileService;

/// The content of a file outside of the root, which must never be read.
const SECRET: &str = "outside of every sandbox";

static FILES: LazyLock<FileService> =
    LazyLock::new(|| prepare().expect("make the tree to look in"));

fuzz_target!(|path: &str| {
    if let Some(clean) = stacyvm_agent::files::fuzzing::clean_path(path) {
        assert!(clean.starts_with('/'));
        let proper = |part: &str| !part.is_empty() && part != "." && part != "..";
        assert!(clean == "/" || clean[1..].split('/').all(proper), "{clean}");
        // Clean already, so cleaning changes nothing.
        let again = stacyvm_agent::files::fuzzing::clean_path(&clean);
        assert_eq!(again.as_deref(), Some(clean.as_str()));
    }
    let _ = FILES.stat(path);
    if let Ok(listed) = FILES.list(path, 2) {
        assert!(listed.iter().all(|info| info.path.starts_with('/')));
        assert!(listed.iter().all(|info| info.name != "secret"));
    }
    if let Ok(opened) = FILES.open_read(path, 0, Some(64)) {
        let mut content = String::new();
        // Not every file holds text.
        let _ = opened.file.take(64).read_to_string(&mut content);
        assert_ne!(content, SECRET);
    }
});

/// Makes the root and, beside it, a directory that must not be reached.
fn prepare() -> std::io::Result<FileService> {
    let place = std::env::temp_dir().join(format!("paths-{}", std::process::id()));
    let root = place.join("root");
    for directory in ["workspace/a/b/c", "etc", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    let outside = place.join("outside");
    fs::create_dir_all(&outside)?;
    fs::write(outside.join("secret"), SECRET)?;
    fs::write(root.join("workspace/a/f"), "inside")?;
    for (target, name) in [
        (outside.as_path(), "workspace/abs"),
        (Path::new("../../outside"), "workspace/up"),
        (
            Path::new("../../../../../../../outside/secret"),
            "workspace/a/s",
        ),
        (Path::new("/proc/self/root"), "workspace/r"),
        (Path::new("l"), "workspace/l"),
        (Path::new("/"), "workspace/a/b/top"),
        (Path::new(".."), "workspace/a/b/c/d"),
    ] {
        symlink(target, root.join(name))?;
    }
    Ok(FileService::new(File::open(root)?.into()))
}
