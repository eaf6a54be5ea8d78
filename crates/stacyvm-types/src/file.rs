//! Files of a sandbox, as the API shows them.

pub(crate) mod requests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// Why a text is not a file mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid mode {0:?}: a mode is 1 to 4 octal digits with an optional leading 0, like 0644")]
pub struct ParseModeError(String);

/// Permission bits, 0 to 0o7777, written as four octal digits or more (`0644`, `4755`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(u32);

impl FileMode {
    /// The mode of a new file when the request names none: `0644`.
    pub const FILE: Self = Self(0o644);
    /// The mode of a new directory when the request names none: `0755`.
    pub const DIRECTORY: Self = Self(0o755);

    /// The permission bits of a `st_mode`; file type bits are dropped.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & 0o7777)
    }

    /// The permission bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for FileMode {
    type Err = ParseModeError;

    fn from_str(text: &str) -> Result<Self, ParseModeError> {
        let fail = || ParseModeError(text.chars().take(32).collect());
        if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
            return Err(fail());
        }
        let bits = u32::from_str_radix(text, 8).map_err(|_| fail())?;
        if bits > 0o7777 {
            return Err(fail());
        }
        Ok(Self(bits))
    }
}

impl TryFrom<String> for FileMode {
    type Error = ParseModeError;

    fn try_from(text: String) -> Result<Self, ParseModeError> {
        text.parse()
    }
}

impl From<FileMode> for String {
    fn from(mode: FileMode) -> Self {
        mode.to_string()
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// One file, directory or link inside a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileInfo {
    /// The last part of the path; `/` for the root.
    pub name: String,
    /// The absolute path inside the sandbox.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: FileMode,
    /// Whether it is a directory. For a link: whether the link itself is one, so never.
    pub is_dir: bool,
    /// Whether it is a symbolic link.
    pub is_symlink: bool,
    /// Where a symbolic link points, as it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
    /// The owner's name inside the sandbox, or its number where it has no name.
    pub owner: String,
    /// The group's name inside the sandbox, or its number where it has no name.
    pub group: String,
    /// When its content last changed.
    pub mod_time: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_text() {
        assert_eq!("0644".parse::<FileMode>().unwrap().bits(), 0o644);
        assert_eq!("755".parse::<FileMode>().unwrap().to_string(), "0755");
        assert_eq!("4755".parse::<FileMode>().unwrap().to_string(), "4755");
        for wrong in [
            "", "0o644", "rwx", "8", "-1", "77777", "0644 ", "1e1", "000644",
        ] {
            assert!(wrong.parse::<FileMode>().is_err(), "{wrong:?}");
        }
    }
}
