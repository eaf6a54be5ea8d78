//! Streams as a hostile writer makes them: what they say is bounded, and what is left of them is read.
#![allow(clippy::unwrap_used)]

use std::io::{Cursor, Read};

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::entry::Kind;

const BOUNDS: Bounds = Bounds {
    max_header: 64 * 1024,
    max_file: 1000,
    max_trailer: 4096,
};

fn header(kind: EntryType, name: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(9);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_cksum();
    header
}

/// The entries of a stream with their contents.
fn read_all(mut input: impl Read) -> Result<Vec<(Entry, Vec<u8>)>, ReadError> {
    let mut found = Vec::new();
    for_each(&mut input, BOUNDS, &mut |entry, content| {
        let mut bytes = Vec::new();
        content
            .read_to_end(&mut bytes)
            .map_err(ReadError::Unreadable)?;
        found.push((entry.clone(), bytes));
        Ok::<(), ReadError>(())
    })?;
    Ok(found)
}

fn reason(result: Result<Vec<(Entry, Vec<u8>)>, ReadError>) -> String {
    match result {
        Err(ReadError::Unreadable(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn headers_and_records_become_one_entry() {
    let mut builder = Builder::new(Vec::new());
    let long = "long-name/".repeat(30);
    let records = [
        ("SCHILY.xattr.user.a", &b"value"[..]),
        ("SCHILY.xattr.security.capability", b"\x01\x02"),
        ("comment", b"no attribute"),
    ];
    builder.append_pax_extensions(records).unwrap();
    let mut file = header(EntryType::Regular, "", 3);
    builder
        .append_data(&mut file, format!("{long}f"), &b"abc"[..])
        .unwrap();
    let mut link = header(EntryType::Symlink, "l", 0);
    link.set_link_name_literal("../somewhere").unwrap();
    link.set_cksum();
    builder.append(&link, &b""[..]).unwrap();
    for kind in [EntryType::Char, EntryType::Fifo, EntryType::new(b'Z')] {
        builder.append(&header(kind, "x", 0), &b""[..]).unwrap();
    }
    let entries = read_all(Cursor::new(builder.into_inner().unwrap())).unwrap();
    let (file, content) = &entries[0];
    assert_eq!(file.kind, Kind::File);
    assert_eq!(file.name, format!("{long}f").into_bytes());
    assert_eq!((file.mode, file.modified, file.size), (0o6755, 9, 3));
    assert_eq!((file.uid, file.gid), (Some(7), Some(8)));
    let names: Vec<_> = file
        .xattrs
        .iter()
        .map(|(name, _)| name.as_slice())
        .collect();
    assert_eq!(names, [&b"user.a"[..], b"security.capability"]);
    assert_eq!(file.unreadable_records, 0);
    assert_eq!(content, b"abc");
    assert_eq!(entries[1].0.link_target(), Some(&b"../somewhere"[..]));
    let kinds: Vec<_> = entries.iter().map(|(entry, _)| entry.kind).collect();
    let special = [Kind::Special, Kind::Special, Kind::Unknown];
    assert_eq!(kinds[1..], [&[Kind::Symlink][..], &special].concat());
}

#[test]
fn blank_numbers_are_zero_and_an_owner_may_be_no_number() {
    let mut header = header(EntryType::Regular, "f", 0);
    header.as_old_mut().mode = [b' '; 8];
    header.as_old_mut().mtime = [0; 12];
    header.as_old_mut().uid = *b"nobody\0\0";
    header.as_old_mut().gid = [0; 8];
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, &b""[..]).unwrap();
    let entries = read_all(Cursor::new(builder.into_inner().unwrap())).unwrap();
    let entry = &entries[0].0;
    assert_eq!((entry.mode, entry.modified), (0, 0));
    assert_eq!((entry.uid, entry.gid), (None, Some(0)));
}

#[test]
fn an_endless_name_does_not_fill_the_memory() {
    let endless = header(EntryType::GNULongName, "n", 1 << 40);
    let stream = Cursor::new(endless.as_bytes().to_vec()).chain(io::repeat(b'a'));
    assert!(reason(read_all(stream)).contains("description is too long"));
}

#[test]
fn an_endless_trailer_is_not_read_to_its_end() {
    let stream = Cursor::new(vec![0; 1024]).chain(io::repeat(b'a'));
    assert!(reason(read_all(stream)).contains("follows the end"));
}

#[test]
fn a_file_that_says_it_is_too_large_is_not_visited() {
    let large = header(EntryType::Regular, "f", 1001);
    let stream = Cursor::new(large.as_bytes().to_vec()).chain(io::repeat(b'a'));
    let result = read_all(stream);
    assert!(
        matches!(result, Err(ReadError::FileTooLarge(1000))),
        "{result:?}"
    );
}

#[test]
fn a_stream_is_read_to_its_end_and_a_cut_one_is_an_error() {
    let mut builder = Builder::new(Vec::new());
    builder
        .append(&header(EntryType::Regular, "f", 600), &[b'x'; 600][..])
        .unwrap();
    let mut bytes = builder.into_inner().unwrap();
    assert!(read_all(&bytes[..1000]).is_err());
    bytes.extend_from_slice(&[b't'; 2000]);
    let mut input = Cursor::new(bytes);
    // Content that nobody reads is skipped.
    let visit = &mut |_: &Entry, _: &mut dyn Read| Ok::<(), ReadError>(());
    for_each(&mut input, BOUNDS, visit).unwrap();
    assert_eq!(input.position(), input.get_ref().len() as u64);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        drop(read_all(Cursor::new(bytes)));
    }
}
