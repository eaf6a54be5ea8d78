//! Errors of requests to an engine.

use bollard::errors::Error;
use stacyvm_provider::ProviderError;

use super::EngineAddress;

/// How much of an engine's message is kept, characters.
const MAX_MESSAGE_CHARS: usize = 500;

/// A failed request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine could not be reached, or the connection broke.
    #[error("the Docker engine at {address} does not answer: {reason}")]
    Unreachable {
        address: String,
        reason: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The engine refused the request.
    #[error("{step}: {message}")]
    Refused {
        step: &'static str,
        /// The HTTP status; 0 for an error in the middle of a stream.
        status: u16,
        message: String,
    },
    /// Anything else, such as an answer that cannot be parsed.
    #[error("{step}: {message}")]
    Unexpected {
        step: &'static str,
        message: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl EngineError {
    /// Classifies an error of the client library.
    pub(super) fn of(step: &'static str, address: &EngineAddress, error: Error) -> Self {
        let unreachable = |reason: &str, source: Option<Error>| Self::Unreachable {
            address: address.to_string(),
            reason: reason.to_owned(),
            source: source.map(Into::into),
        };
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::Refused {
                step,
                status: status_code,
                message: shown(&message),
            },
            Error::DockerStreamError { error } => Self::Refused {
                step,
                status: 0,
                message: shown(&error),
            },
            Error::SocketNotFoundError(_) => unreachable("its socket is not there", None),
            Error::RequestTimeoutError => unreachable("it took too long", None),
            Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. } => {
                let reason = innermost(&error);
                unreachable(&reason, Some(error))
            }
            other => Self::Unexpected {
                step,
                message: shown(&other.to_string()),
                source: Some(other.into()),
            },
        }
    }

    /// A streamed answer that ended too early.
    pub(super) fn ended(step: &'static str, address: &EngineAddress) -> Self {
        Self::Unreachable {
            address: address.to_string(),
            reason: format!("it ended the answer while asked to {step}"),
            source: None,
        }
    }

    /// A request without an answer in time.
    pub(super) fn timed_out(step: &'static str, address: &EngineAddress) -> Self {
        Self::Unreachable {
            address: address.to_string(),
            reason: format!("it took too long to {step}"),
            source: None,
        }
    }

    /// Whether there was no answer at all.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether the object of the request does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether the object's state forbids the request: its name is taken, or it is being removed.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }

    /// The engine's message, when it refused the request.
    pub(crate) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => Some(message),
            _ => None,
        }
    }
}

impl From<EngineError> for ProviderError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Unreachable { .. } => Self::Unavailable(format!(
                "{error}; hint: start it, or see \"stacyvm doctor\""
            )),
            EngineError::Refused { step, message, .. } => Self::Backend {
                step,
                message: without_paths(&message),
                source: None,
            },
            EngineError::Unexpected {
                step,
                message,
                source,
            } => Self::Backend {
                step,
                message: without_paths(&message),
                source,
            },
        }
    }
}

/// The message of the innermost cause.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    shown(&deepest.to_string())
}

fn shown(message: &str) -> String {
    let line = message.trim().replace(['\n', '\r', '\t'], " ");
    match line.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Removes the directories of the engine's machine, which clients must not learn: of every path with
/// at least two parts only the last one stays.
fn without_paths(message: &str) -> String {
    let mut clean = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(start) = path_start(rest) {
        clean.push_str(&rest[..start]);
        let path = &rest[start..];
        let end = path
            .find(|c: char| !(c.is_alphanumeric() || "/._-@+~".contains(c)))
            .unwrap_or(path.len());
        let (path, behind) = path.split_at(end);
        match path.trim_end_matches('/').rsplit_once('/') {
            Some((parents, name)) if !parents.is_empty() => {
                clean.push_str("…/");
                clean.push_str(name);
            }
            _ => clean.push_str(path),
        }
        rest = behind;
    }
    clean.push_str(rest);
    clean
}

/// The position of the next absolute path: a slash that no character of a word precedes.
fn path_start(text: &str) -> Option<usize> {
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        if c == '/' && !(before.is_alphanumeric() || "/._-:".contains(before)) {
            return Some(at);
        }
        before = c;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_directories_do_not_show() {
        for (said, shown) in [
            (
                "invalid mount config for type \"bind\": bind source path does not exist: /var/lib/stacyvm/bin/agent",
                "invalid mount config for type \"bind\": bind source path does not exist: …/agent",
            ),
            ("error (/data/overlay2/abc): no", "error (…/abc): no"),
            (
                "no such image: ghcr.io/a/b:1",
                "no such image: ghcr.io/a/b:1",
            ),
            ("exec: \"/bin\": denied", "exec: \"/bin\": denied"),
            ("Get https://r.io/v2/: x", "Get https://r.io/v2/: x"),
            ("plain", "plain"),
            ("/", "/"),
        ] {
            assert_eq!(without_paths(said), shown);
        }
    }

    #[test]
    fn long_words_are_cut_and_stand_on_one_line() {
        let said = format!("a\nb{}", "ü".repeat(1000));
        let cut = shown(&said);
        assert!(cut.starts_with("a b"), "{cut}");
        assert_eq!(cut.chars().count(), MAX_MESSAGE_CHARS + 1);
    }
}
