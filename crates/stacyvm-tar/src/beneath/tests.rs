//! Links and files that stand in the way: nothing is made through them.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use crate::Directories;

/// A root directory `root`, and a directory `outside` that must never change.
struct Fixture {
    place: tempfile::TempDir,
    root: OwnedFd,
}

impl Fixture {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        for name in ["root", "outside"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        fs::write(place.path().join("outside/canary"), "untouched").unwrap();
        let root = File::open(place.path().join("root")).unwrap().into();
        Self { place, root }
    }

    fn inside(&self, name: &str) -> PathBuf {
        self.place.path().join("root").join(name)
    }

    fn outside(&self) -> PathBuf {
        self.place.path().join("outside")
    }

    /// Opens a directory below the root, and makes what is missing of it.
    fn open(&self, path: &str) -> Result<OwnedFd, Errno> {
        open_directory(
            &self.root,
            Path::new(path),
            &mut |missing| match missing.occupied {
                true => Err(Errno::NOTDIR),
                false => make_directory(missing.parent, missing.name, 0o755).map(drop),
            },
        )
    }

    fn assert_outside_untouched(&self) {
        let canary = self.outside().join("canary");
        assert_eq!(fs::read_to_string(&canary).unwrap(), "untouched");
        assert_eq!(canary.metadata().unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(self.outside()).unwrap().count(), 1);
    }
}

#[test]
fn directories_on_the_way_are_made_but_not_through_links_or_files() {
    let fixture = Fixture::new();
    let made = fixture.open("a/b/c").unwrap();
    create_file(&made, OsStr::new("f")).unwrap();
    assert!(fixture.inside("a/b/c/f").is_file());
    fixture.open("").unwrap();
    symlink(fixture.outside(), fixture.inside("absolute")).unwrap();
    symlink("../outside", fixture.inside("a/relative")).unwrap();
    symlink("b", fixture.inside("a/within")).unwrap();
    for (path, errno) in [
        ("absolute", Errno::LOOP),
        ("absolute/new", Errno::LOOP),
        ("a/relative/new", Errno::LOOP),
        ("a/within/new", Errno::LOOP),
        ("a/b/c/f/new", Errno::NOTDIR),
        ("../outside", Errno::XDEV),
        ("a/../../outside", Errno::XDEV),
    ] {
        assert_eq!(fixture.open(path).err(), Some(errno), "{path}");
    }
    fixture.assert_outside_untouched();
}

#[test]
fn files_and_directories_are_not_made_through_a_link_of_their_name() {
    let fixture = Fixture::new();
    let canary = fixture.outside().join("canary");
    symlink(&canary, fixture.inside("f")).unwrap();
    symlink(fixture.outside().join("new"), fixture.inside("n")).unwrap();
    symlink(fixture.outside(), fixture.inside("d")).unwrap();
    for name in ["f", "n", "d"] {
        let name = OsStr::new(name);
        assert_eq!(create_file(&fixture.root, name).err(), Some(Errno::EXIST));
        let made = make_directory(&fixture.root, name, 0o755);
        assert_eq!(made.err(), Some(Errno::EXIST));
    }
    // The link is replaced, not what it leads to.
    let name = OsStr::new("f");
    let make = || create_file(&fixture.root, name);
    replace(make, || remove_file(&fixture.root, name)).unwrap();
    assert!(fixture.inside("f").symlink_metadata().unwrap().is_file());
    assert!(remove_all(&fixture.root, OsStr::new("f")).is_ok_and(|directory| !directory));
    assert!(remove_all(&fixture.root, OsStr::new("d")).is_ok_and(|directory| !directory));
    fixture.assert_outside_untouched();
}

#[test]
fn hard_links_lead_to_entries_below_the_root_only() {
    let fixture = Fixture::new();
    symlink(fixture.outside(), fixture.inside("out")).unwrap();
    symlink(fixture.outside().join("canary"), fixture.inside("link")).unwrap();
    for (target, errno) in [
        ("out/canary", Errno::LOOP),
        ("../outside/canary", Errno::XDEV),
        ("none/x", Errno::NOENT),
        ("", Errno::NOENT),
    ] {
        let opened = open_link_target(&fixture.root, Path::new(target));
        assert_eq!(opened.err(), Some(errno), "{target}");
    }
    let (from, name) = open_link_target(&fixture.root, Path::new("link")).unwrap();
    hard_link((&from, name), &fixture.root, OsStr::new("copy")).unwrap();
    let copy = fixture.inside("copy").symlink_metadata().unwrap();
    assert!(copy.file_type().is_symlink());
    fixture.assert_outside_untouched();
}

#[test]
fn a_tree_is_removed_without_following_its_links() {
    let fixture = Fixture::new();
    let deep = fixture.open("t/a/b").unwrap();
    create_file(&deep, OsStr::new("f")).unwrap();
    symlink(fixture.outside(), fixture.inside("t/a/out")).unwrap();
    let name = OsStr::new("t");
    assert_eq!(remove_file(&fixture.root, name), Err(Errno::EXIST));
    assert_eq!(remove_all(&fixture.root, name), Ok(true));
    assert_eq!(remove_all(&fixture.root, name), Ok(false));
    fixture.assert_outside_untouched();
}

#[test]
fn directories_get_their_modes_from_the_deepest_up() {
    let fixture = Fixture::new();
    fixture.open("closed/inner").unwrap();
    fixture.open("removed/inner").unwrap();
    symlink(fixture.outside(), fixture.inside("swapped")).unwrap();
    let before = fixture.outside().metadata().unwrap().mode();
    let mut directories = Directories::default();
    for path in [
        "closed",
        "closed/inner",
        "removed",
        "removed/inner",
        "swapped",
    ] {
        directories.describe(path.into(), 0o500, 1_700_000_000);
    }
    directories.forget(Path::new("removed"));
    assert_eq!(directories.count(), 3);
    let failures = Cell::new(0);
    let applied = directories.apply(&fixture.root, &mut |path, errno| {
        assert_eq!((path, errno), (Path::new("swapped"), Errno::LOOP));
        failures.set(failures.get() + 1);
        Ok::<(), Errno>(())
    });
    assert_eq!((applied, failures.get()), (Ok(()), 1));
    for path in ["closed", "closed/inner"] {
        let metadata = fixture.inside(path).metadata().unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o500);
        assert_eq!(metadata.mtime(), 1_700_000_000);
    }
    let removed = fixture.inside("removed/inner").metadata().unwrap();
    assert_ne!(removed.mode() & 0o7777, 0o500);
    assert_eq!(fixture.outside().metadata().unwrap().mode(), before);
    fixture.assert_outside_untouched();
}
