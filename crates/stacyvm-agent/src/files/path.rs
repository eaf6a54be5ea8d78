//! Paths as a client writes them.
//!
//! This module cleans them as text alone: `a/../b` is `/workspace/b` whether or not `a` is a link,
//! as in a URL. The kernel resolves links (see `root.rs`).

use super::FileError;
use super::error::shortened;

/// Where relative paths start.
pub(super) const WORKSPACE: &str = "/workspace";

/// An absolute path inside the sandbox without empty, `.` and `..` parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct InnerPath(String);

impl InnerPath {
    /// Parses a path that a client wrote.
    pub(super) fn parse(text: &str) -> Result<Self, FileError> {
        if text.is_empty() {
            return Err(FileError::Invalid("the path is empty".to_owned()));
        }
        if text.contains('\0') {
            return Err(FileError::Invalid("the path has a NUL byte".to_owned()));
        }
        let mut parts: Vec<&str> = if text.starts_with('/') {
            Vec::new()
        } else {
            WORKSPACE
                .split('/')
                .filter(|part| !part.is_empty())
                .collect()
        };
        for part in text.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if parts.pop().is_none() {
                        return Err(FileError::Invalid(format!(
                            "{} leaves the sandbox",
                            shortened(text)
                        )));
                    }
                }
                name => parts.push(name),
            }
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }

    /// The absolute path, as the client may see it.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The path relative to the root, as the kernel takes it; never empty.
    pub(super) fn relative(&self) -> &str {
        match &self.0[1..] {
            "" => ".",
            path => path,
        }
    }

    /// The last part; `/` for the root.
    pub(super) fn name(&self) -> &str {
        match self.0.rsplit_once('/') {
            Some((_, name)) if !name.is_empty() => name,
            _ => "/",
        }
    }

    /// The directory, relative to the root, and the last part; none for the root itself.
    pub(super) fn split(&self) -> Option<(&str, &str)> {
        let (directory, name) = self
            .relative()
            .rsplit_once('/')
            .unwrap_or((".", self.relative()));
        (name != ".").then_some((directory, name))
    }

    /// Whether the sandbox could not work without this path.
    pub(super) fn is_protected(&self) -> bool {
        matches!(
            self.as_str(),
            "/" | WORKSPACE | "/tmp" | "/proc" | "/sys" | "/dev"
        )
    }
}

/// `directory` and `name` as one absolute path.
pub(super) fn join(directory: &str, name: &str) -> String {
    if directory == "/" {
        format!("/{name}")
    } else {
        format!("{directory}/{name}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn relative_paths_start_at_the_workspace() {
        for (text, clean) in [
            ("a", "/workspace/a"),
            ("./a//b/.", "/workspace/a/b"),
            ("../etc", "/etc"),
            ("/", "/"),
            ("//x/", "/x"),
            ("/a/../b", "/b"),
            (".", "/workspace"),
        ] {
            assert_eq!(InnerPath::parse(text).unwrap().as_str(), clean, "{text}");
        }
    }

    #[test]
    fn paths_that_leave_the_root_or_cannot_be_are_invalid() {
        for text in ["", "a\0b", "/..", "../..", "/a/../../b", "../../etc/passwd"] {
            assert!(
                matches!(InnerPath::parse(text), Err(FileError::Invalid(_))),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_path_is_its_directory_and_its_name() {
        let path = InnerPath::parse("/a/b/c").unwrap();
        assert_eq!(path.split(), Some(("a/b", "c")));
        assert_eq!(path.name(), "c");
        let top = InnerPath::parse("/a").unwrap();
        assert_eq!(top.split(), Some((".", "a")));
        let root = InnerPath::parse("/").unwrap();
        assert_eq!(root.split(), None);
        assert_eq!((root.name(), root.relative()), ("/", "."));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_absolute_and_clean(text in "[a./]{0,24}|\\PC{0,40}") {
            if let Ok(path) = InnerPath::parse(&text) {
                prop_assert!(path.as_str().starts_with('/'));
                let clean = |part: &str| !part.is_empty() && part != "." && part != "..";
                let parts_are_clean = path.as_str()[1..].split('/').all(clean);
                prop_assert!(path.as_str() == "/" || parts_are_clean);
                prop_assert_eq!(InnerPath::parse(path.as_str()).unwrap(), path);
            }
        }
    }
}
