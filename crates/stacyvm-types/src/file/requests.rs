//! What the file routes take: queries and bodies.
//!
//! Paths are inside the sandbox: absolute, or relative to `/workspace`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The query of routes that need a path and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct FileQuery {
    /// The path inside the sandbox.
    #[cfg_attr(feature = "openapi", param(min_length = 1, max_length = 4095))]
    pub path: String,
}

/// The query of POST `/sandboxes/{id}/files` when the body is the content itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct WriteFileQuery {
    /// The file, when the body is its content.
    #[cfg_attr(feature = "openapi", param(max_length = 4095))]
    pub path: Option<String>,
    /// Permission bits in octal, when the body is the content; `0644` when absent.
    pub mode: Option<String>,
}

/// The query of DELETE `/sandboxes/{id}/files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct DeleteFileQuery {
    /// The file or directory to delete.
    #[cfg_attr(feature = "openapi", param(min_length = 1, max_length = 4095))]
    pub path: String,
    /// Needed for a directory.
    pub recursive: Option<bool>,
}

/// The query of GET `/sandboxes/{id}/files/list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct ListFilesQuery {
    /// The directory; `/` when absent.
    #[cfg_attr(feature = "openapi", param(max_length = 4095))]
    pub path: Option<String>,
    /// How many levels; 1 when absent.
    #[cfg_attr(feature = "openapi", param(value_type = Option<u32>, minimum = 1))]
    pub depth: Option<std::num::NonZeroU32>,
}

/// The query of GET `/sandboxes/{id}/files/glob`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct GlobQuery {
    /// The pattern; absolute, or relative to `/workspace`.
    #[cfg_attr(
        feature = "openapi",
        param(min_length = 1, max_length = 4095, example = "**/*.py")
    )]
    pub pattern: String,
}

/// The query of GET `/sandboxes/{id}/files/archive`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct ReadArchiveQuery {
    /// The directory.
    #[cfg_attr(feature = "openapi", param(min_length = 1, max_length = 4095))]
    pub path: String,
    /// `tar`, the default, or `tar.gz`.
    #[cfg_attr(feature = "openapi", param(value_type = Option<String>))]
    pub format: Option<ArchiveFormat>,
}

/// How an archive is packed on the way out of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub enum ArchiveFormat {
    /// Plain tar.
    #[default]
    #[serde(rename = "tar")]
    Tar,
    /// Tar under gzip; `tgz` is understood too.
    #[serde(rename = "tar.gz")]
    TarGz,
}

/// The text names no archive format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the formats are tar and tar.gz")]
pub struct ParseArchiveFormatError;

impl FromStr for ArchiveFormat {
    type Err = ParseArchiveFormatError;

    fn from_str(text: &str) -> Result<Self, ParseArchiveFormatError> {
        match text {
            "tar" => Ok(Self::Tar),
            "tar.gz" | "tgz" => Ok(Self::TarGz),
            _ => Err(ParseArchiveFormatError),
        }
    }
}

impl TryFrom<String> for ArchiveFormat {
    type Error = ParseArchiveFormatError;

    fn try_from(text: String) -> Result<Self, ParseArchiveFormatError> {
        text.parse()
    }
}

/// The body of POST `/sandboxes/{id}/files`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WriteFileRequest {
    /// The file; missing directories above it are made.
    pub path: String,
    /// What the file is to hold.
    pub content: String,
    /// Permission bits in octal; `0644` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// How `content` is written: `utf-8`, the default, or `base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
}

/// The body of POST `/sandboxes/{id}/files/move`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MoveFileRequest {
    /// The present path.
    pub old_path: String,
    /// The new path; missing directories above it are made.
    pub new_path: String,
}

/// The body of POST `/sandboxes/{id}/files/chmod`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangeModeRequest {
    /// The file or directory.
    pub path: String,
    /// Permission bits in octal.
    pub mode: String,
}

/// The body of POST `/sandboxes/{id}/files/mkdir`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MakeDirectoryRequest {
    /// The directory; those above it are made too.
    pub path: String,
    /// Permission bits in octal; `0755` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}
