//! Making failures for the wire.

use stacyvm_proto::message::{Answer, Code, Failure, Reply};

use crate::files::FileError;

pub(crate) fn failure(code: Code, message: impl Into<String>) -> Failure {
    Failure {
        code: code.into(),
        message: message.into(),
    }
}

pub(crate) fn reply(answer: Answer) -> Reply {
    Reply {
        answer: Some(answer),
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        let (code, message) = match error {
            FileError::NotFound(message) => (Code::NotFound, message),
            FileError::Invalid(message) => (Code::Invalid, message),
            FileError::Denied(message) => (Code::Denied, message),
            FileError::Conflict(message) => (Code::Conflict, message),
            FileError::Limit(message) => (Code::Limit, message),
            FileError::Unsupported(message) => (Code::Unsupported, message),
            FileError::Failed(message) => (Code::Failed, message),
        };
        failure(code, message)
    }
}
