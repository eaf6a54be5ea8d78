//! Names of entries as clean relative paths.
//!
//! This is of the text alone; what links on the way mean is left to the kernel (`beneath`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// What an absolute name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbsoluteNames {
    /// It is an error.
    Refused,
    /// It is seen from the root directory that the archive is unpacked into.
    FromRoot,
}

/// Why a name cannot be that of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is absolute.
    #[error("is absolute")]
    Absolute,
    /// It has a part `..`, which could lead out of the root directory.
    #[error("has a \"..\"")]
    ParentDirectory,
    /// It has a NUL byte.
    #[error("has a NUL byte in its name")]
    NulByte,
    /// It has more parts than allowed.
    #[error("lies too deep")]
    TooDeep,
}

/// A name of an archive as a relative path of at most `max_depth` parts, without empty parts and
/// `.`; empty for the root directory itself.
///
/// # Errors
/// When the name could lead out of the root directory, or cannot be a name.
pub fn clean_name(
    name: &[u8],
    absolute: AbsoluteNames,
    max_depth: usize,
) -> Result<PathBuf, NameError> {
    if absolute == AbsoluteNames::Refused && name.starts_with(b"/") {
        return Err(NameError::Absolute);
    }
    if name.contains(&0) {
        return Err(NameError::NulByte);
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(NameError::ParentDirectory),
            part => {
                depth += 1;
                path.push(OsStr::from_bytes(part));
            }
        }
    }
    match depth > max_depth {
        true => Err(NameError::TooDeep),
        false => Ok(path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_become_relative_paths() {
        for (name, path) in [
            ("a", "a"),
            ("./a//b/.", "a/b"),
            ("a/", "a"),
            (".", ""),
            ("", ""),
            ("...", "..."),
            ("a..b/..c", "a..b/..c"),
        ] {
            for absolute in [AbsoluteNames::Refused, AbsoluteNames::FromRoot] {
                let clean = clean_name(name.as_bytes(), absolute, 9).unwrap();
                assert_eq!(clean, Path::new(path), "{name:?}");
            }
        }
        let from_root = clean_name(b"//etc/x", AbsoluteNames::FromRoot, 2).unwrap();
        assert_eq!(from_root, Path::new("etc/x"));
    }

    #[test]
    fn names_that_could_lead_out_are_refused() {
        let refused = |name: &[u8], absolute| clean_name(name, absolute, 2).unwrap_err();
        for absolute in [AbsoluteNames::Refused, AbsoluteNames::FromRoot] {
            for name in ["..", "../x", "a/..", "a/../../x", "a/../b", "./../x"] {
                let error = refused(name.as_bytes(), absolute);
                assert_eq!(error, NameError::ParentDirectory, "{name:?}");
            }
            assert_eq!(refused(b"a\0b", absolute), NameError::NulByte);
            assert_eq!(refused(b"a/b/c", absolute), NameError::TooDeep);
        }
        assert_eq!(refused(b"/x", AbsoluteNames::Refused), NameError::Absolute);
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_below_the_root(name in "[a./]{0,24}|\\PC{0,40}") {
            if let Ok(path) = clean_name(name.as_bytes(), AbsoluteNames::FromRoot, 200) {
                let normal = |part| matches!(part, Component::Normal(_));
                prop_assert!(path.components().all(normal), "{:?}", path);
            }
        }
    }
}
