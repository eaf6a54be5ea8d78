//! What a person sees when something fails: `error:` says what, `hint:` says what to do.

use std::fmt;
use std::process::ExitCode;

use anyhow::Error;

/// An error with advice beside it.
#[derive(Debug)]
struct Hinted {
    error: Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Hinted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// A new error with advice.
pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> Error {
    advise(Error::msg(message.into()), hint)
}

/// The error with advice beside it.
pub(crate) fn advise(error: Error, hint: impl Into<String>) -> Error {
    Error::new(Hinted {
        error,
        hint: hint.into(),
    })
}

/// The advice that an error carries.
pub(crate) fn hint_of(error: &Error) -> Option<&str> {
    error
        .downcast_ref::<Hinted>()
        .map(|hinted| hinted.hint.as_str())
        .or_else(|| {
            error
                .chain()
                .find_map(|cause| cause.downcast_ref::<stacyvm_client::ClientError>())
                .and_then(stacyvm_client::ClientError::hint)
        })
}

/// Adds advice to a failure.
pub(crate) trait WithHint<T> {
    /// Says what to do about it.
    fn hint(self, hint: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: Into<Error>> WithHint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> Result<T, Error> {
        self.map_err(|error| advise(error.into(), hint))
    }
}

/// Whether the reader of our output has closed it, as with `| head`, which is no failure to report.
pub(crate) fn is_broken_pipe(error: &Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Prints the failure of a command.
pub(crate) fn report(error: &Error) {
    eprintln!("error: {}", in_words(error));
    if let Some(hint) = hint_of(error) {
        eprintln!("hint: {hint}");
    }
}

/// The error and its causes in one line; a cause that the sentence before contains is left out.
pub(crate) fn in_words(error: &Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// An exit code from a number that may be out of range.
pub(crate) fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code.clamp(0, 255)).expect("just clamped"))
}
