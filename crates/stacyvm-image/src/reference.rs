//! Names of images, as users of Docker write them.
//!
//! A reference says where an image comes from and which one it is: `python:3.12` is
//! `docker.io/library/python:3.12`. Images that were imported from a file are named the same way.
//! The canonical form is the key everywhere; the familiar one is what people are shown.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, ImageError};

/// The longest reference in bytes.
const MAX_BYTES: usize = 600;
/// The longest repository in bytes, with its registry.
const MAX_REPOSITORY: usize = 255;

/// The registry that is meant when none is named.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Names that mean something else to the native provider.
const RESERVED: [&str; 1] = ["docker.io/library/host"];

/// A valid reference to an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads `[REGISTRY[:PORT]/]REPOSITORY[:TAG][@DIGEST]`. Without a tag and a digest, the tag
    /// `latest` is meant.
    ///
    /// # Errors
    /// `ImageError::Name` says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        Self::read(text).map_err(|reason| ImageError::Name {
            name: text.chars().take(80).collect(),
            reason,
        })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > MAX_BYTES {
            return Err("a name has 1 to 600 bytes");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest)
                    .ok_or("a digest is \"sha256:\" and 64 lower-case hexadecimal digits")?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        // What stands after the last colon is a tag unless a slash follows: that was a port.
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(
                "a tag has 1 to 128 letters, digits, \".\", \"_\" and \"-\", and starts with none of the last two",
            );
        }
        let (registry, repository) = split_registry(path);
        if !is_registry(registry) {
            return Err("the registry is not a host name with perhaps a port");
        }
        if repository.is_empty() || !repository.split('/').all(is_component) {
            return Err(
                "each part has lower-case letters and digits, with \".\", \"_\", \"__\" or \"-\" between them",
            );
        }
        let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
            true => format!("library/{repository}"),
            false => repository.to_owned(),
        };
        if registry.len() + 1 + repository.len() > MAX_REPOSITORY {
            return Err("registry and repository have at most 255 bytes together");
        }
        let tag = match (tag, digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        let reference = Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        };
        if RESERVED.contains(&reference.name().as_str()) {
            return Err("it stands for the host's own system directories");
        }
        Ok(reference)
    }

    /// The name that an archive suggests: its file name without endings, made to fit.
    pub(crate) fn from_file_name(file_name: &str) -> Result<Self, ImageError> {
        let lower = file_name.to_ascii_lowercase();
        let stem = [
            ".tar.gz", ".tar.zst", ".tgz", ".tzst", ".tar", ".oci", ".gz", ".zst",
        ]
        .iter()
        .find_map(|ending| lower.strip_suffix(ending))
        .unwrap_or(&lower);
        let mut fitting = String::new();
        for c in stem.chars() {
            match c {
                'a'..='z' | '0'..='9' => fitting.push(c),
                // Two of them in a row would not be a name.
                '.' | '_' if !fitting.ends_with(['.', '_', '-']) => fitting.push(c),
                _ if !fitting.ends_with(['.', '_', '-']) => fitting.push('-'),
                _ => {}
            }
        }
        Self::parse(fitting.trim_matches(['.', '_', '-']))
    }

    /// Host name, with a port when it is not the usual one: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry: `library/python`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, `latest` when neither tag nor digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest that the image must have.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository: `docker.io/library/python`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The one full form. A digest says all, so a tag beside it is left out.
    pub fn canonical(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, Some(tag)) => format!("{}:{tag}", self.name()),
            (None, None) => self.name(),
        }
    }

    /// The short form: without the usual registry, `library/` and the tag `latest`.
    pub fn familiar(&self) -> String {
        let name = self.familiar_name();
        match (&self.digest, self.tag.as_deref()) {
            (Some(digest), _) => format!("{name}@{digest}"),
            (None, Some("latest") | None) => name,
            (None, Some(tag)) => format!("{name}:{tag}"),
        }
    }

    /// Registry and repository in short: `python`, `ghcr.io/team/tool`.
    pub(crate) fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        let short = match self.repository.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest,
            _ => &self.repository,
        };
        // What looks like a registry would be read as one.
        match split_registry(short) == (DEFAULT_REGISTRY, short) {
            true => short.to_owned(),
            false => self.name(),
        }
    }

    /// What the registry is asked for: the digest, else the tag.
    pub(crate) fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.canonical()
    }
}

/// The first part is a registry when it can be no part of a repository on Docker Hub: it has a dot
/// or a port, or is `localhost`.
fn split_registry(path: &str) -> (&str, &str) {
    let Some((first, rest)) = path.split_once('/') else {
        return (DEFAULT_REGISTRY, path);
    };
    if !(first.contains(['.', ':']) || first == "localhost") {
        return (DEFAULT_REGISTRY, path);
    }
    match first {
        "index.docker.io" | "registry-1.docker.io" => (DEFAULT_REGISTRY, rest),
        _ => (first, rest),
    }
}

/// A host name or an IPv4 address, or an IPv6 address in brackets, and perhaps a port.
fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err() || port.starts_with('+')) {
        return false;
    }
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

/// Letters and digits, between them one dot, one or two underscores, or any number of dashes.
fn is_component(part: &str) -> bool {
    let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    if !(bytes.first().is_some_and(letter) && bytes.last().is_some_and(letter)) {
        return false;
    }
    bytes
        .split(letter)
        .filter(|between| !between.is_empty())
        .all(|between| {
            matches!(between, b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=128).contains(&tag.len()) && !tag.starts_with(['.', '-']) && tag.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_short_name_is_read_as_the_name_it_was_made_from() {
        for (text, short) in [
            ("docker.io/library/python:latest", "python"),
            ("docker.io/team/tool:1", "team/tool:1"),
            ("docker.io/library/team/tool", "library/team/tool"),
            ("docker.io/ghcr.io/team/tool", "docker.io/ghcr.io/team/tool"),
            ("docker.io/localhost/tool", "docker.io/localhost/tool"),
            ("ghcr.io/team/tool", "ghcr.io/team/tool"),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.familiar(), short);
            assert_eq!(Reference::parse(short).unwrap(), reference, "{text}");
        }
    }
}
