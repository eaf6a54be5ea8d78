//! Replies for the wire: failures, ends, and lists in messages of a bounded size.

use stacyvm_proto::message::{Answer, Code, Done, Failure, Paths, Reply};
use stacyvm_proto::mux::{MuxError, Sender};

use crate::files::FileError;

/// How many bytes of names go into one message.
pub(crate) const NAMES_PER_MESSAGE: usize = 32 * 1024;

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

/// The reply that ends a successful request.
pub(crate) fn done() -> Reply {
    reply(Answer::Done(Done {}))
}

/// Sends names in messages of a bounded size, and ends the stream.
pub(crate) async fn send_all_names(sender: &Sender, names: Vec<String>) -> Result<(), MuxError> {
    send_names(sender, names).await?;
    sender.last_message(&done()).await
}

/// Sends names in messages of a bounded size.
pub(crate) async fn send_names(sender: &Sender, names: Vec<String>) -> Result<(), MuxError> {
    let mut part = Paths::default();
    let mut bytes = 0;
    for name in names {
        bytes += name.len() + 8;
        part.paths.push(name);
        if bytes > NAMES_PER_MESSAGE {
            sender
                .message(&reply(Answer::Paths(std::mem::take(&mut part))))
                .await?;
            bytes = 0;
        }
    }
    if !part.paths.is_empty() {
        sender.message(&reply(Answer::Paths(part))).await?;
    }
    Ok(())
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
