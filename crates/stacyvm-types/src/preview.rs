//! Previews: access to a sandbox's ports from a browser.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Who may open the previews of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PreviewAccess {
    /// Everyone who knows the address.
    Public,
    /// Everyone who has a link from the API, until it expires.
    Private,
}

/// Why a text names no access.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown preview access {0:?}: it is public or private")]
pub struct ParsePreviewAccessError(String);

impl PreviewAccess {
    /// The word used in the API, the configuration and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
        }
    }
}

impl FromStr for PreviewAccess {
    type Err = ParsePreviewAccessError;

    fn from_str(text: &str) -> Result<Self, ParsePreviewAccessError> {
        [Self::Public, Self::Private]
            .into_iter()
            .find(|access| access.as_str() == text)
            .ok_or_else(|| ParsePreviewAccessError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for PreviewAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of POST `/sandboxes/{id}/preview`, as it came in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PreviewLinkRequest {
    /// The port inside, 1 to 65535.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 65535))]
    pub port: i64,
    /// How long the link of a private preview opens it, a Go duration; absent means the
    /// configuration's default.
    #[serde(default)]
    pub expires_in: Option<String>,
}

/// The address of a port of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PreviewLink {
    /// Opens the port in a browser. The link of a private preview works for everyone who has it.
    pub url: String,
    /// When the link expires; for a public preview, when the sandbox ends.
    pub expires_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_two_words() {
        assert_eq!("public".parse(), Ok(PreviewAccess::Public));
        assert_eq!("private".parse(), Ok(PreviewAccess::Private));
        for other in ["", "Public", "open"] {
            assert!(other.parse::<PreviewAccess>().is_err(), "{other:?}");
        }
    }
}
