//! From what stat(2) answers to the description of a file.

use std::os::fd::AsFd;

use rustix::fs::{FileType, Stat};
use stacyvm_types::{FileInfo, FileMode, Timestamp};

use super::owner_names::OwnerNames;
use super::root::Root;

/// The kind of the file that `stat` describes.
pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The size in bytes; the kernel's number is signed.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// When the content last changed.
// The fields' types differ between architectures.
#[allow(clippy::unnecessary_cast, clippy::unnecessary_fallible_conversions)]
pub(super) fn modified(stat: &Stat) -> Timestamp {
    let micros = (stat.st_mtime as i64)
        .saturating_mul(1_000_000)
        .saturating_add(stat.st_mtime_nsec as i64 / 1_000);
    Timestamp::from_unix_micros(micros)
}

/// Describes the file at `path`, whose last part is `name`.
pub(super) fn describe(
    root: &Root,
    names: &OwnerNames,
    name: &str,
    path: &str,
    stat: &Stat,
    symlink_target: Option<String>,
) -> FileInfo {
    let kind = file_type(stat);
    FileInfo {
        name: name.to_owned(),
        path: path.to_owned(),
        size: size(stat),
        mode: FileMode::from_bits(stat.st_mode),
        is_dir: kind == FileType::Directory,
        is_symlink: kind == FileType::Symlink,
        symlink_target,
        owner: names.user(root, stat.st_uid),
        group: names.group(root, stat.st_gid),
        mod_time: modified(stat),
    }
}

/// Where the link `name` in `directory` points; with an empty name, where `directory` itself does,
/// which is then an `O_PATH` descriptor of a link. Bytes that are no UTF-8 become U+FFFD.
pub(super) fn link_target(directory: impl AsFd, name: &std::ffi::CStr) -> Option<String> {
    let target = rustix::fs::readlinkat(directory, name, Vec::new()).ok()?;
    Some(target.to_string_lossy().into_owned())
}
