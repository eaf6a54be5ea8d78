//! Hostile layers of images: whatever a layer has, nothing outside of its own directory is touched,
//! and nothing but files, directories, links and whiteouts is made.
//!
//! An input is text with a line for each entry: a letter for its kind, its name, and after a vertical
//! bar its content or target. An input that begins with a zero byte is a tar, byte by byte.
#![no_main]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stacyvm_image::fuzzing;
use tar::{Builder, EntryType, Header};

/// The content of a file outside of the directory, which must never change.
const CANARY: &str = "nobody was here";

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| prepare().expect("make a place to unpack in"));

fuzz_target!(|data: &[u8]| {
    let place = &*PLACE;
    let inner = place.join("inner");
    let bytes = match data.strip_prefix(&[0]) {
        Some(raw) => raw.to_vec(),
        None => tar_of(data),
    };
    fs::write(place.join("layer"), bytes).expect("write the layer");
    for as_rootfs in [false, true] {
        fuzzing::empty(&inner).expect("empty the place");
        for name in ["tree", "top"] {
            fs::create_dir(inner.join(name)).expect("make a directory");
        }
        let layer = fs::File::open(place.join("layer")).expect("open the layer");
        let _ = fuzzing::unpack_layer(layer, &inner, as_rootfs);
        for name in ["tree", "top"] {
            assert_harmless(&inner.join(name));
        }
        let names = fs::read_dir(&inner).expect("list the place").count();
        assert_eq!(names, 2);
        let canary = place.join("outside/canary");
        assert_eq!(
            fs::read_to_string(&canary).expect("read the canary"),
            CANARY
        );
        assert_eq!(canary.metadata().expect("look at the canary").nlink(), 1);
        let outside = fs::read_dir(place.join("outside")).expect("list the outside");
        assert_eq!(outside.count(), 1);
    }
});

fn assert_harmless(directory: &Path) {
    for entry in fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("list a directory").path();
        let metadata = path.symlink_metadata().expect("look at a file");
        let kind = metadata.file_type();
        let whiteout = kind.is_char_device() && metadata.rdev() == 0;
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink() || whiteout);
        assert_eq!(metadata.mode() & 0o6000, 0);
        if kind.is_dir() {
            assert_harmless(&path);
        }
    }
}

fn tar_of(data: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for line in data.split(|byte| *byte == b'\n').take(50) {
        let Some((kind, rest)) = line.split_first() else {
            continue;
        };
        let bar = rest
            .iter()
            .position(|byte| *byte == b'|')
            .unwrap_or(rest.len());
        let (name, content) = (&rest[..bar], rest.get(bar + 1..).unwrap_or_default());
        let kind = match kind {
            b'd' => EntryType::Directory,
            b's' => EntryType::Symlink,
            b'h' => EntryType::Link,
            b'c' => EntryType::Char,
            b'p' => EntryType::Fifo,
            b'L' => EntryType::GNULongName,
            b'K' => EntryType::GNULongLink,
            b'x' => EntryType::XHeader,
            b'g' => EntryType::XGlobalHeader,
            b'S' => EntryType::GNUSparse,
            _ => EntryType::Regular,
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o6755);
        header.set_uid(name.len() as u64 * 9000);
        header.set_gid(0);
        header.set_mtime(1);
        let field = &mut header.as_old_mut().name;
        let length = name.len().min(field.len());
        field[..length].copy_from_slice(&name[..length]);
        let mut body = content;
        if matches!(kind, EntryType::Symlink | EntryType::Link) {
            let field = &mut header.as_old_mut().linkname;
            let length = content.len().min(field.len());
            field[..length].copy_from_slice(&content[..length]);
            body = &[];
        }
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body).expect("write to memory");
    }
    builder.into_inner().expect("write to memory")
}

/// Makes a directory to unpack in and, beside it, one that must not be reached.
fn prepare() -> std::io::Result<PathBuf> {
    let place = std::env::temp_dir().join(format!("layers-{}", std::process::id()));
    fs::create_dir_all(place.join("inner"))?;
    fs::create_dir_all(place.join("outside"))?;
    fs::write(place.join("outside/canary"), CANARY)?;
    Ok(place)
}
