//! Packing and unpacking archives, hostile ones included.

use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{MetadataExt, symlink};

use proptest::prelude::*;
use stacyvm_types::FileMode;
use tar::{Builder, EntryType, Header};

use super::Fixture;
use crate::files::FileError;

/// A tar stream of these entries, whose names are put into the headers unchecked.
fn tar_of(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o6755);
        header.set_uid(7);
        header.set_gid(7);
        header.set_mtime(1_700_000_000);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let body = match kind {
            EntryType::Regular => content.as_bytes(),
            EntryType::Symlink | EntryType::Link => {
                header.set_link_name_literal(content).unwrap();
                b""
            }
            _ => b"",
        };
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpack(fixture: &Fixture, path: &str, bytes: &[u8]) -> Result<(), FileError> {
    fixture.service.archive_in(path, &mut Cursor::new(bytes))
}

#[test]
fn what_goes_out_comes_in_again() {
    let fixture = Fixture::new();
    let long = "long-name-".repeat(15);
    fixture.write("from/a.txt", b"content").unwrap();
    fixture
        .write(&format!("from/deep/{long}"), &[7; 100_000])
        .unwrap();
    fixture
        .service
        .mkdir("from/closed", FileMode::from_bits(0o500))
        .unwrap();
    fixture
        .service
        .chmod("from/a.txt", FileMode::from_bits(0o751))
        .unwrap();
    symlink("../a.txt", fixture.inside("workspace/from/deep/link")).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mkfifoat(rustix::fs::CWD, fixture.inside("workspace/from/pipe"), mode).unwrap();
    let mut packed = Vec::new();
    fixture.service.archive_out("from", &mut packed).unwrap();
    unpack(&fixture, "/workspace/to/place", &packed).unwrap();
    let names = |path: &str| -> Vec<_> {
        let files = fixture.service.list(path, 9).unwrap();
        let strip = format!("/workspace/{path}/");
        files
            .into_iter()
            .map(|file| {
                let seconds = file.mod_time.unix_micros() / 1_000_000;
                let path = file.path.replace(&strip, "");
                (
                    path,
                    file.mode,
                    file.size,
                    file.symlink_target,
                    (!file.is_symlink).then_some(seconds),
                )
            })
            .collect()
    };
    let mut before = names("from");
    before.retain(|(path, ..)| path != "pipe");
    assert_eq!(before, names("to/place"));
    assert_eq!(fixture.read("to/place/a.txt").unwrap(), b"content");

    let mut single = Vec::new();
    fixture
        .service
        .archive_out("from/a.txt", &mut single)
        .unwrap();
    unpack(&fixture, "one", &single).unwrap();
    assert_eq!(fixture.read("one/a.txt").unwrap(), b"content");
    let missing = fixture.service.archive_out("nothing", &mut Vec::new());
    assert!(matches!(missing, Err(FileError::NotFound(_))));
    let pipe = fixture.service.check_archive_out("from/pipe");
    assert!(matches!(pipe, Err(FileError::Invalid(_))));
}

#[test]
fn entries_that_would_leave_the_target_stop_the_unpacking() {
    use EntryType::{Link, Regular, Symlink};
    let fixture = Fixture::new();
    let outside = fixture.outside();
    let outside = outside.to_str().unwrap();
    let absolute = format!("{outside}/new");
    symlink(outside, fixture.inside("workspace/there")).unwrap();
    fixture.write("out-of-target", b"secret").unwrap();
    let hostile: Vec<Vec<(EntryType, &str, &str)>> = vec![
        vec![(Regular, &absolute, "x")],
        vec![(Regular, "../new", "x")],
        vec![(Regular, "a/../../new", "x")],
        vec![(Symlink, "l", outside), (Regular, "l/new", "x")],
        vec![(Symlink, "l", "../../.."), (Regular, "l/outside/new", "x")],
        vec![(Symlink, "l", ".."), (EntryType::Directory, "l/new", "")],
        vec![(Symlink, "l", ".."), (Link, "h", "l/out-of-target")],
        vec![(Link, "h", "../out-of-target")],
        vec![(Link, "h", "/workspace/out-of-target")],
        vec![(Regular, "there/new", "x")],
        vec![(EntryType::Char, "null", "")],
        vec![(EntryType::Block, "disk", "")],
        vec![(EntryType::Fifo, "pipe", "")],
        vec![(Symlink, "empty", "")],
        vec![(Regular, ".", "x")],
    ];
    for entries in hostile {
        let last = (Regular, "after", "x");
        let mut all = entries.clone();
        all.push(last);
        // "there" is a link in the workspace itself.
        let target = if entries[0].1.starts_with("there") {
            "."
        } else {
            "t"
        };
        let result = unpack(&fixture, target, &tar_of(&all));
        assert!(
            matches!(result, Err(FileError::Invalid(_))),
            "{entries:?}: {result:?}"
        );
        let after = fixture.service.stat(&format!("{target}/after"));
        assert!(after.is_err(), "{entries:?} did not stop it");
        fixture.assert_outside_untouched();
        fixture.service.remove("t", true).ok();
    }
}

#[test]
fn unpacking_replaces_files_and_drops_setuid_bits() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let fixture = Fixture::new();
    fixture.write("t/file", b"old").unwrap();
    fixture.write("kept", b"kept").unwrap();
    symlink("../kept", fixture.inside("workspace/t/link")).unwrap();
    let bytes = tar_of(&[
        (Directory, "./", ""),
        (Regular, "./file", "new"),
        (Regular, "link", "not through the link"),
        (Link, "hard", "file"),
        (Symlink, "soft", "/etc/passwd"),
        (Regular, "made/on/the/way", "x"),
    ]);
    unpack(&fixture, "t", &bytes).unwrap();
    assert_eq!(fixture.read("t/file").unwrap(), b"new");
    assert_eq!(fixture.read("t/hard").unwrap(), b"new");
    assert_eq!(fixture.read("kept").unwrap(), b"kept");
    assert_eq!(fixture.read("t/link").unwrap(), b"not through the link");
    let file = fixture.service.stat("t/file").unwrap();
    assert_eq!(file.mode.to_string(), "0755");
    assert_eq!(file.mod_time.unix_micros(), 1_700_000_000_000_000);
    let metadata = fs::metadata(fixture.inside("workspace/t/file")).unwrap();
    assert_ne!(metadata.uid(), 7, "the owner is who unpacks");
    let over_directory = tar_of(&[(Regular, "made", "x")]);
    let result = unpack(&fixture, "t", &over_directory);
    assert!(matches!(result, Err(FileError::Conflict(_))), "{result:?}");
}

#[test]
fn what_is_no_tar_is_refused() {
    let fixture = Fixture::new();
    let whole = tar_of(&[(EntryType::Regular, "file", &"x".repeat(5000))]);
    for bytes in [
        &b""[..],
        &[b'x'; 2048],
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0],
        &whole[..3000],
        &whole[..600],
    ] {
        let result = unpack(&fixture, "t", bytes);
        assert!(matches!(result, Err(FileError::Invalid(_))), "{result:?}");
    }
    let empty = tar_of(&[]);
    unpack(&fixture, "t", &empty).unwrap();
}

#[test]
fn an_endless_name_does_not_fill_the_memory() {
    let fixture = Fixture::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut stream = Cursor::new(header.as_bytes().to_vec()).chain(std::io::repeat(b'a'));
    let result = fixture.service.archive_in("t", &mut stream);
    let Err(FileError::Invalid(message)) = result else {
        panic!("{result:?}");
    };
    assert!(message.contains("too long"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn no_archive_reaches_outside(
        entries in proptest::collection::vec(
            (0..4_u8, "[ab]|(\\.\\./){1,4}outside/canary|/?[ab./]{1,8}|a/b|b/outside/canary|a/canary",
             "[ab]|\\.\\.|(\\.\\./){1,5}outside(/canary)?|OUTSIDE(/canary)?|[ab./]{1,6}"),
            1..12,
        )
    ) {
        let fixture = Fixture::new();
        let outside = fixture.outside().to_str().unwrap().to_owned();
        let filled: Vec<_> = entries
            .iter()
            .map(|(kind, name, content)| {
                let kind = [EntryType::Regular, EntryType::Directory, EntryType::Symlink, EntryType::Link]
                    [usize::from(*kind)];
                (kind, name.as_str(), content.replace("OUTSIDE", &outside))
            })
            .collect();
        let borrowed: Vec<_> = filled
            .iter()
            .map(|(kind, name, content)| (*kind, *name, content.as_str()))
            .collect();
        drop(unpack(&fixture, "t", &tar_of(&borrowed)));
        fixture.assert_outside_untouched();
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let fixture = Fixture::new();
        drop(unpack(&fixture, "t", &bytes));
    }
}
