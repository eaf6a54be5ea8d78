//! Identifiers that cross a boundary: of sandboxes and of owners.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a valid identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not `sb-` and 8 lower-case hexadecimal digits.
    #[error("a sandbox id is \"sb-\" followed by 8 lower-case hexadecimal digits")]
    Sandbox,
    /// The owner id is empty, too long or has a character that is not allowed.
    #[error(
        "an owner id has 1 to 128 bytes and no white space, control character, \"/\" or \"\\\""
    )]
    Owner,
}

/// Names one sandbox for ever: `sb-` and 8 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxId(String);

impl SandboxId {
    /// The id whose digits are those of `number`; the caller brings the randomness.
    pub fn from_u32(number: u32) -> Self {
        Self(format!("sb-{number:08x}"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = text.strip_prefix("sb-").ok_or(ParseIdError::Sandbox)?;
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 8 && digits.bytes().all(hexadecimal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseIdError::Sandbox)
        }
    }
}

impl TryFrom<String> for SandboxId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<SandboxId> for String {
    fn from(id: SandboxId) -> Self {
        id.0
    }
}

impl fmt::Display for SandboxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The owner of a sandbox, as the `X-User-ID` header or `owner_id` names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OwnerId(String);

impl OwnerId {
    /// The longest owner id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OwnerId {
    type Err = ParseIdError;

    /// Surrounding white space is dropped first.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let text = text.trim();
        let refused = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '\\');
        if text.is_empty() || text.len() > Self::MAX_BYTES || text.contains(refused) {
            return Err(ParseIdError::Owner);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for OwnerId {
    type Error = ParseIdError;

    fn try_from(text: String) -> Result<Self, ParseIdError> {
        text.parse()
    }
}

impl From<OwnerId> for String {
    fn from(id: OwnerId) -> Self {
        id.0
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandbox_ids_have_one_form() {
        assert_eq!(SandboxId::from_u32(0xAB).as_str(), "sb-000000ab");
        for wrong in [
            "",
            "sb-",
            "sb-ABCDEF01",
            "sb-1234567",
            "sb-123456789",
            "xx-12345678",
            "sb-../../..",
        ] {
            assert_eq!(
                wrong.parse::<SandboxId>(),
                Err(ParseIdError::Sandbox),
                "{wrong}"
            );
        }
        assert!("sb-0123abcd".parse::<SandboxId>().is_ok());
    }

    #[test]
    fn owner_ids_are_trimmed_and_checked() {
        assert_eq!(
            "  alice@example.com ".parse::<OwnerId>().unwrap().as_str(),
            "alice@example.com"
        );
        let long = "a".repeat(129);
        for wrong in ["", "  ", "a b", "a/b", "a\\b", "a\u{7}b", long.as_str()] {
            assert_eq!(
                wrong.parse::<OwnerId>(),
                Err(ParseIdError::Owner),
                "{wrong:?}"
            );
        }
    }
}
