//! Whiteouts: names in a layer that hide something of the layers below. `.wh.<name>` hides one name,
//! `.wh..wh..opq` everything in a directory. Their source is the OCI image specification, `layer.md`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::errors::archive_error;
use crate::ImageError;

const PREFIX: &[u8] = b".wh.";
/// Names that AUFS kept for itself and that old layers still have.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry means that is not itself a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout {
    /// This name, in the same directory, is hidden.
    Hidden(OsString),
    /// Everything that lower layers have in the directory is hidden.
    Opaque,
    /// A note that AUFS kept for itself: ignored.
    Leftover,
}

/// Reads the name of an entry. One that tries to hide `.` or `..`, or that lies in a whiteout, is
/// refused.
pub(super) fn read(path: &Path) -> Result<Option<Whiteout>, ImageError> {
    let refused = |reason| Err(archive_error(&path.display().to_string(), reason));
    let Some(name) = path.file_name().map(OsStr::as_bytes) else {
        return Ok(None);
    };
    for part in path.parent().into_iter().flatten() {
        if part.as_bytes().starts_with(AUFS_PREFIX) {
            return Ok(Some(Whiteout::Leftover));
        }
        if part.as_bytes().starts_with(PREFIX) {
            return refused("lies in something that is gone");
        }
    }
    if name == OPAQUE {
        return Ok(Some(Whiteout::Opaque));
    }
    if name.starts_with(AUFS_PREFIX) {
        return Ok(Some(Whiteout::Leftover));
    }
    match name.strip_prefix(PREFIX) {
        None => Ok(None),
        Some(b"" | b"." | b"..") => refused("hides nothing that has a name"),
        Some(hidden) => Ok(Some(Whiteout::Hidden(OsStr::from_bytes(hidden).to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn whiteouts_are_recognized_by_their_names() {
        let hidden = |name: &str| Some(Whiteout::Hidden(name.into()));
        for (path, whiteout) in [
            ("a/b", None),
            ("a/.wh.b", hidden("b")),
            (".wh..b", hidden(".b")),
            (".wh....", hidden("...")),
            ("a/.wh..wh..opq", Some(Whiteout::Opaque)),
            (".wh..wh..opq", Some(Whiteout::Opaque)),
            (".wh..wh.aufs", Some(Whiteout::Leftover)),
            (".wh..wh.plnk/1.2", Some(Whiteout::Leftover)),
            ("a.wh.b", None),
        ] {
            assert_eq!(read(Path::new(path)).unwrap(), whiteout, "{path}");
        }
        for wrong in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
            assert!(read(Path::new(wrong)).is_err(), "{wrong}");
        }
    }
}
