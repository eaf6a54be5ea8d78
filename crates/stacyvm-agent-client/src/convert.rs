//! Conversions between messages of the protocol and types of the operations.

use std::fmt::Display;
use std::time::Duration;

use stacyvm_proto::message::{Code, Entry, Exit, ExitCause, Failure};
use stacyvm_proto::mux::MuxError;
use stacyvm_types::{ExitReason, FileInfo, FileMode, Timestamp};

use crate::{ExecExit, OpError};

pub(crate) fn gone(why: impl Display) -> OpError {
    OpError::Gone(format!("the sandbox's agent cannot be reached: {why}"))
}

pub(crate) fn lost() -> OpError {
    gone("the connection is lost")
}

pub(crate) fn mux_error(error: MuxError) -> OpError {
    match error {
        MuxError::Ended | MuxError::Lost => lost(),
        MuxError::TooManyStreams => OpError::Limit(error.to_string()),
        MuxError::TooLarge => OpError::Invalid(
            "the request is too large: paths, arguments and variables together may have 256 KiB"
                .into(),
        ),
    }
}

pub(crate) fn failure(failure: Failure) -> OpError {
    let message = failure.message;
    match Code::try_from(failure.code).unwrap_or(Code::Failed) {
        Code::Failed => OpError::Failed(message),
        Code::NotFound => OpError::NotFound(message),
        Code::Invalid => OpError::Invalid(message),
        Code::Denied => OpError::Denied(message),
        Code::Conflict => OpError::Conflict(message),
        Code::Limit => OpError::Limit(message),
        Code::Unsupported => OpError::Unsupported(message),
        Code::Gone => OpError::Gone(message),
    }
}

pub(crate) fn file_info(entry: Entry) -> FileInfo {
    let name = match entry.path.rsplit_once('/') {
        Some((_, name)) if !name.is_empty() => name.to_owned(),
        _ => entry.path.clone(),
    };
    FileInfo {
        name,
        path: entry.path,
        size: entry.size,
        mode: FileMode::from_bits(entry.mode),
        is_dir: entry.is_dir,
        is_symlink: entry.is_symlink,
        symlink_target: entry.symlink_target,
        owner: entry.owner,
        group: entry.group,
        mod_time: Timestamp::from_unix_micros(entry.modified_micros),
    }
}

pub(crate) fn exec_exit(exit: Exit) -> ExecExit {
    let cause = ExitCause::try_from(exit.cause).unwrap_or(ExitCause::Exit);
    ExecExit {
        exit_code: exit.exit_code,
        signal: exit.signal,
        reason: match cause {
            ExitCause::Exit => ExitReason::Exit,
            ExitCause::Signal => ExitReason::Signal,
            ExitCause::Timeout => ExitReason::Timeout,
            ExitCause::Oom => ExitReason::Oom,
            ExitCause::Shutdown => ExitReason::SandboxDestroyed,
        },
        duration: Duration::from_nanos(exit.duration_nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_last_part_of_a_path() {
        for (path, name) in [("/", "/"), ("/a/b", "b"), ("/a", "a")] {
            let info = file_info(Entry {
                path: path.into(),
                ..Entry::default()
            });
            assert_eq!(info.name, name);
        }
    }

    #[test]
    fn an_unknown_code_is_a_plain_failure() {
        let error = failure(Failure {
            code: 99,
            message: "from the future".into(),
        });
        assert_eq!(error, OpError::Failed("from the future".into()));
    }
}
