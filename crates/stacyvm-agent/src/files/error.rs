//! Errors of file operations, with messages for the client.
//!
//! This module owns the mapping from error numbers. The rule: a message names only paths of the
//! sandbox, as the client wrote them, never one of the host.

use rustix::io::Errno;

/// Why a file operation failed. The kinds are those of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The path, or a directory on its way, does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense: a directory where a file is needed, a path out of the root, …
    #[error("{0}")]
    Invalid(String),
    /// The sandbox user has no right to do it.
    #[error("{0}")]
    Denied(String),
    /// Something is in the way.
    #[error("{0}")]
    Conflict(String),
    /// The disk, or another limit, is used up.
    #[error("{0}")]
    Limit(String),
    /// The kernel or the file system cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl FileError {
    /// The error for `errno`, which the kernel answered to an operation on `path`.
    pub fn from_errno(errno: Errno, path: &str) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound(format!("{path:?} does not exist")),
            Errno::NOTDIR => Self::NotFound(format!(
                "{path:?} does not exist: a part of it is not a directory"
            )),
            Errno::ACCESS | Errno::PERM => Self::Denied(format!("permission denied on {path:?}")),
            Errno::ROFS => Self::Denied(format!("{path:?} is on a read-only file system")),
            Errno::EXIST => Self::Conflict(format!("{path:?} exists already")),
            Errno::NOTEMPTY => Self::Conflict(format!("{path:?} is not empty")),
            Errno::BUSY | Errno::TXTBSY => Self::Conflict(format!("{path:?} is in use")),
            Errno::NOSPC | Errno::DQUOT => {
                Self::Limit(format!("disk full while working on {path:?}"))
            }
            Errno::FBIG => Self::Limit(format!("{path:?} would become too large")),
            Errno::MFILE | Errno::NFILE => Self::Limit("too many open files".to_owned()),
            Errno::NOMEM => Self::Limit(format!("out of memory while working on {path:?}")),
            Errno::LOOP => Self::Invalid(format!(
                "{path:?} goes through too many links, or one that may not be followed"
            )),
            Errno::XDEV => Self::Invalid(format!("{path:?} leaves its directory")),
            Errno::NAMETOOLONG => Self::Invalid(format!("{} is too long", shortened(path))),
            Errno::ISDIR => Self::Invalid(format!("{path:?} is a directory")),
            Errno::NXIO => Self::Invalid(format!("{path:?} is not a regular file")),
            Errno::NOSYS | Errno::OPNOTSUPP => Self::Unsupported(format!(
                "the kernel, or the file system of {path:?}, cannot do this"
            )),
            other => Self::Failed(format!("{path:?}: {}", std::io::Error::from(other))),
        }
    }

    /// The error for an I/O error of the standard library.
    pub fn from_io(error: &std::io::Error, path: &str) -> Self {
        match Errno::from_io_error(error) {
            Some(errno) => Self::from_errno(errno, path),
            None => Self::Failed(format!("{path:?}: {error}")),
        }
    }
}

/// A path in quotes, cut to a length that suits a message.
pub(super) fn shortened(path: &str) -> String {
    const MAX_SHOWN: usize = 80;
    if path.chars().count() <= MAX_SHOWN {
        return format!("{path:?}");
    }
    let start: String = path.chars().take(MAX_SHOWN).collect();
    format!("{start:?}…")
}
