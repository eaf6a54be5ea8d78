//! The seccomp profile of a container.

use std::io::Read as _;
use std::path::Path;

use stacyvm_provider::ProviderError;

const KEY: &str = "providers.docker.seccomp_profile";
/// The largest accepted profile, bytes.
const MAX_PROFILE_BYTES: u64 = 4 * 1024 * 1024;

/// A filter of system calls, as the engine knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The engine's own profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// A profile in the engine's JSON form.
    Profile(String),
}

impl Seccomp {
    /// Reads the configured value: `default`, `unconfined` or the path of a file.
    ///
    /// # Errors
    /// `Invalid` with the configuration's key, when the file is missing or contains no profile.
    pub fn load(text: &str) -> Result<Self, ProviderError> {
        match text {
            "" | "default" => Ok(Self::Default),
            "unconfined" => Ok(Self::Unconfined),
            file => Self::read(Path::new(file)),
        }
    }

    fn read(path: &Path) -> Result<Self, ProviderError> {
        let wrong = |reason: String| {
            ProviderError::Invalid(format!(
                "{KEY}: {} {reason}; hint: use default, unconfined, or a file with a seccomp profile of Docker's form",
                path.display()
            ))
        };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_PROFILE_BYTES).read_to_string(&mut text))
            .map_err(|error| wrong(format!("cannot be read: {}", error.kind())))?;
        let profile: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| wrong(format!("is not valid JSON: {error}")))?;
        if !profile["defaultAction"].is_string() {
            return Err(wrong("has no \"defaultAction\"".to_owned()));
        }
        Ok(Self::Profile(profile.to_string()))
    }

    /// The security option for the engine; none for its default.
    pub(crate) fn option(&self) -> Option<String> {
        match self {
            Self::Default => None,
            Self::Unconfined => Some("seccomp=unconfined".to_owned()),
            Self::Profile(json) => Some(format!("seccomp={json}")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_and_files_are_told_apart() {
        assert_eq!(Seccomp::load("default").unwrap().option(), None);
        let unconfined = Seccomp::load("unconfined").unwrap();
        assert_eq!(unconfined.option().unwrap(), "seccomp=unconfined");
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("profile.json");
        std::fs::write(&file, "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }\n").unwrap();
        let profile = Seccomp::load(file.to_str().unwrap()).unwrap();
        let expected = "seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}";
        assert_eq!(profile.option().unwrap(), expected);
    }

    #[test]
    fn a_broken_profile_is_named_with_its_key() {
        let place = tempfile::tempdir().unwrap();
        for (content, reason) in [
            (None, "cannot be read"),
            (Some("{"), "is not valid JSON"),
            (Some("{}"), "has no \"defaultAction\""),
            (Some("[]"), "has no \"defaultAction\""),
        ] {
            let file = place.path().join("profile.json");
            if let Some(content) = content {
                std::fs::write(&file, content).unwrap();
            }
            let error = Seccomp::load(file.to_str().unwrap()).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with(KEY) && error.contains(reason), "{error}");
        }
    }
}
