//! Names of images.

use std::fmt;

use crate::ImageError;

/// The longest name, in bytes, so that every name is a file name too.
const MAX_BYTES: usize = 200;

/// Names that mean something else to the native provider.
const RESERVED: [&str; 1] = ["host"];

/// A valid image name: parts of lower-case letters, digits, `.`, `_` and `-`, separated by `/`,
/// then perhaps `:` and a tag. The tag `latest` is what is meant without one, so it is dropped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(String);

impl ImageName {
    /// Reads a name.
    ///
    /// # Errors
    /// `ImageError::Name` says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let refuse = |reason| {
            Err(ImageError::Name {
                name: text.chars().take(80).collect(),
                reason,
            })
        };
        if text.is_empty() || text.len() > MAX_BYTES {
            return refuse("a name has 1 to 200 bytes");
        }
        let (path, tag) = match text.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (text, None),
        };
        let starts_well =
            |part: &str| part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let allowed =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        if !path
            .split('/')
            .all(|part| starts_well(part) && part.chars().all(allowed))
        {
            return refuse(
                "each part starts with a lower-case letter or digit, and has only those, \".\", \"_\" and \"-\"",
            );
        }
        let tag_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(tag) = tag
            && (tag.is_empty()
                || tag.len() > 128
                || tag.starts_with(['.', '-'])
                || !tag.chars().all(tag_allowed))
        {
            return refuse("a tag has 1 to 128 letters, digits, \".\", \"_\" and \"-\"");
        }
        let name = match tag {
            Some("latest") => path,
            _ => text,
        };
        if RESERVED.contains(&name) {
            return refuse("it stands for the host's own system directories");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name that an archive suggests: its file name without endings, made to fit.
    pub(crate) fn from_file_name(file_name: &str) -> Result<Self, ImageError> {
        let lower = file_name.to_ascii_lowercase();
        let stem = [".tar.gz", ".tgz", ".tar"]
            .iter()
            .find_map(|ending| lower.strip_suffix(ending))
            .unwrap_or(&lower);
        let fitting: String = stem
            .chars()
            .map(|c| match c {
                'a'..='z' | '0'..='9' | '.' | '_' | '-' => c,
                _ => '-',
            })
            .collect();
        Self::parse(fitting.trim_start_matches(['.', '_', '-']))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one part of a path. Different names give different parts: neither `~` nor `@`
    /// can stand in a name.
    pub(crate) fn directory(&self) -> String {
        self.0.replace('/', "~").replace(':', "@")
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_checked_and_latest_is_dropped() {
        for (text, name) in [
            ("alpine", "alpine"),
            ("alpine:latest", "alpine"),
            ("team/tools/python:3.12-X", "team/tools/python:3.12-X"),
        ] {
            assert_eq!(ImageName::parse(text).unwrap().as_str(), name);
        }
        for wrong in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/..",
            "A",
            "a b",
            "a:",
            "a:-",
            "a:b:c",
            "host",
            "host:latest",
            "a\0",
            "a~b",
            ".a",
            "é",
        ] {
            assert!(
                matches!(ImageName::parse(wrong), Err(ImageError::Name { .. })),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn an_archive_suggests_its_name() {
        for (file, name) in [
            ("alpine-3.20.tar.gz", "alpine-3.20"),
            ("My Image.TAR", "my-image"),
            ("rootfs.tgz", "rootfs"),
        ] {
            assert_eq!(ImageName::from_file_name(file).unwrap().as_str(), name);
        }
        assert!(ImageName::from_file_name(".tar").is_err());
    }

    proptest! {
        #[test]
        fn every_name_is_one_plain_file_name(text in "[a-z0-9._/:A-Z-]{1,20}|\\PC{0,20}") {
            if let Ok(name) = ImageName::parse(&text) {
                let directory = name.directory();
                prop_assert!(!directory.contains('/') && !directory.starts_with('.'));
                prop_assert_eq!(directory.replace('~', "/").replace('@', ":"), name.as_str());
            }
        }
    }
}
