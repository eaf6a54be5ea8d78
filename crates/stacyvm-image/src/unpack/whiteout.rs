//! Names in a layer that say that something of the layers below is gone: `.wh.<name>`, and
//! `.wh..wh..opq` for all of a directory. Their source is the OCI image specification, `layer.md`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::errors::archive_error;
use crate::ImageError;

const PREFIX: &[u8] = b".wh.";
/// Names that AUFS kept for itself and that old layers still have.
const OWN_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What an entry says that is not itself a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whiteout {
    /// This name, in the same directory, is gone.
    Gone(OsString),
    /// All that was in the directory is gone.
    Opaque,
    /// Something of a file system that nobody has any more.
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
        if part.as_bytes().starts_with(OWN_PREFIX) {
            return Ok(Some(Whiteout::Leftover));
        }
        if part.as_bytes().starts_with(PREFIX) {
            return refused("lies in something that is gone");
        }
    }
    if name == OPAQUE {
        return Ok(Some(Whiteout::Opaque));
    }
    if name.starts_with(OWN_PREFIX) {
        return Ok(Some(Whiteout::Leftover));
    }
    match name.strip_prefix(PREFIX) {
        None => Ok(None),
        Some(b"" | b"." | b"..") => refused("hides nothing that has a name"),
        Some(gone) => Ok(Some(Whiteout::Gone(OsStr::from_bytes(gone).to_owned()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn whiteouts_are_told_by_their_names() {
        let gone = |name: &str| Some(Whiteout::Gone(name.into()));
        for (path, whiteout) in [
            ("a/b", None),
            ("a/.wh.b", gone("b")),
            (".wh..b", gone(".b")),
            (".wh....", gone("...")),
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
