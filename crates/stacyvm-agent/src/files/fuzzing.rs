//! For the fuzz targets: the text half of paths and patterns, without a file system.

use super::path::InnerPath;
use super::pattern::{Matcher, expand};

/// The cleaned path; none when it is refused.
pub fn clean_path(text: &str) -> Option<String> {
    let path = InnerPath::parse(text).ok()?;
    // These must not panic for any path.
    let _ = (path.relative(), path.name(), path.split());
    Some(path.as_str().to_owned())
}

/// Whether one alternative of the pattern matches the name as one part; none when it is refused.
pub fn matches(pattern: &str, name: &str) -> Option<bool> {
    let mut found = false;
    for alternative in expand(pattern).ok()? {
        found |= Matcher::new(&alternative).ok()?.matches(name);
    }
    Some(found)
}
