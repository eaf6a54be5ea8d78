//! The file service against a root full of traps, with a canary outside of it.
#![allow(clippy::unwrap_used)]

mod archive;
mod operations;
mod races;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use stacyvm_types::FileMode;
use tempfile::TempDir;

use super::{FileError, FileService};

const CANARY: &str = "nobody was here";

/// A root directory, and beside it a directory that nothing may touch.
struct Fixture {
    place: TempDir,
    service: FileService,
}

impl Fixture {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        for directory in ["root/workspace", "root/tmp", "root/etc", "outside/sub"] {
            fs::create_dir_all(place.path().join(directory)).unwrap();
        }
        fs::write(place.path().join("outside/canary"), CANARY).unwrap();
        fs::write(place.path().join("outside/sub/canary"), CANARY).unwrap();
        fs::write(place.path().join("outside/seen"), "by nobody").unwrap();
        let canary = place.path().join("outside/canary");
        fs::set_permissions(&canary, fs::Permissions::from_mode(0o640)).unwrap();
        let root = place.path().join("root");
        fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(&root, flags, Mode::empty()).unwrap();
        Self {
            place,
            service: FileService::new(descriptor),
        }
    }

    /// A path inside, seen from outside.
    fn inside(&self, path: &str) -> PathBuf {
        self.place.path().join("root").join(path)
    }

    fn outside(&self) -> PathBuf {
        self.place.path().join("outside")
    }

    fn write(&self, path: &str, content: &[u8]) -> Result<(), FileError> {
        let mut pending = self.service.begin_write(path, FileMode::FILE, true)?;
        pending.write(content)?;
        pending.commit()
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, FileError> {
        use std::io::Read;
        let opened = self.service.open_read(path, 0, None)?;
        let mut content = Vec::new();
        opened
            .file
            .take(opened.length)
            .read_to_end(&mut content)
            .unwrap();
        Ok(content)
    }

    /// Nothing outside was changed, added or taken away.
    fn assert_outside_untouched(&self) {
        let mut seen: Vec<_> = fs::read_dir(self.outside())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        seen.sort();
        assert_eq!(seen, ["canary", "seen", "sub"]);
        assert_eq!(fs::read_dir(self.outside().join("sub")).unwrap().count(), 1);
        for path in ["canary", "sub/canary"] {
            let content = fs::read_to_string(self.outside().join(path)).unwrap();
            assert_eq!(content, CANARY);
        }
        let metadata = fs::metadata(self.outside().join("canary")).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o640);
        assert_eq!(metadata.nlink(), 1);
        let mut beside: Vec<_> = fs::read_dir(self.place.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        beside.sort();
        assert_eq!(beside, ["outside", "root"]);
    }

    /// Links that a hostile workload would lay. None leads further than this fixture's own
    /// directory: a bug must cost the test, not the machine it runs on.
    fn lay_traps(&self) {
        let outside = self.outside();
        for (name, target) in [
            ("absolute", outside.clone()),
            ("absolute-file", outside.join("canary")),
            ("climb", PathBuf::from("../../outside")),
            ("climb-file", PathBuf::from("../../outside/canary")),
            ("climb-far", PathBuf::from("../..")),
            ("loop", PathBuf::from("loop")),
            ("up", PathBuf::from("..")),
            ("here", PathBuf::from(".")),
        ] {
            symlink(target, self.inside("workspace").join(name)).unwrap();
        }
    }
}

/// Names of paths that go through the traps.
fn hostile_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("absolute"),
        Just("absolute-file"),
        Just("climb"),
        Just("climb-file"),
        Just("climb-far"),
        Just("loop"),
        Just("up"),
        Just("here"),
        Just(".."),
        Just("canary"),
        Just("outside"),
        Just("sub"),
        Just("new"),
    ];
    (any::<bool>(), proptest::collection::vec(part, 1..5)).prop_map(|(absolute, parts)| {
        let start = if absolute { "/workspace/" } else { "" };
        format!("{start}{}", parts.join("/"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn no_path_reaches_outside(
        steps in proptest::collection::vec((0..9_u8, hostile_path(), hostile_path()), 1..24)
    ) {
        let fixture = Fixture::new();
        fixture.lay_traps();
        for (step, path, other) in steps {
            let service = &fixture.service;
            // What each answers is for the other tests; here only the canary counts.
            match step {
                0 => drop(fixture.write(&path, b"overwritten")),
                1 => drop(service.remove(&path, true)),
                2 => drop(service.chmod(&path, FileMode::from_bits(0o777))),
                3 => drop(service.rename(&path, &other)),
                4 => drop(service.mkdir(&path, FileMode::DIRECTORY)),
                5 => if let Ok(content) = fixture.read(&path) {
                    prop_assert_ne!(content, CANARY.as_bytes());
                },
                6 => if let Ok(found) = service.list(&path, 3) {
                    prop_assert!(found.iter().all(|file| file.name != "seen"));
                },
                7 => if let Ok(found) = service.glob(&format!("{path}/**/seen")) {
                    prop_assert_eq!(found, Vec::<String>::new());
                },
                _ => {
                    let mut packed = Vec::new();
                    if service.archive_out(&path, &mut packed).is_ok() {
                        let text = String::from_utf8_lossy(&packed);
                        prop_assert!(!text.contains(CANARY));
                    }
                }
            }
        }
        fixture.assert_outside_untouched();
    }
}
