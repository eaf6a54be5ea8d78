//! What can go wrong between us and an engine.

use bollard::errors::Error;
use stacyvm_provider::ProviderError;

use super::EngineAddress;

/// More of an engine's message than anybody reads.
const LONGEST_MESSAGE: usize = 500;

/// A question that was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// Nobody is there, or the connection broke.
    #[error("the Docker engine at {address} does not answer: {reason}")]
    Absent {
        address: String,
        reason: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// It said no.
    #[error("{step}: {message}")]
    Refused {
        step: &'static str,
        /// Of HTTP; 0 in the middle of a stream.
        status: u16,
        message: String,
    },
    /// Anything else: an answer that cannot be read, settings that cannot be.
    #[error("{step}: {message}")]
    Odd {
        step: &'static str,
        message: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl EngineError {
    /// What a failure of the client means.
    pub(super) fn of(step: &'static str, address: &EngineAddress, error: Error) -> Self {
        let absent = |reason: &str, source: Option<Error>| Self::Absent {
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
            Error::SocketNotFoundError(_) => absent("its socket is not there", None),
            Error::RequestTimeoutError => absent("it took too long", None),
            Error::HyperLegacyError { .. }
            | Error::HyperResponseError { .. }
            | Error::IOError { .. } => {
                let reason = innermost(&error);
                absent(&reason, Some(error))
            }
            other => Self::Odd {
                step,
                message: shown(&other.to_string()),
                source: Some(other.into()),
            },
        }
    }

    /// An answer that ended too soon.
    pub(super) fn cut(step: &'static str, address: &EngineAddress) -> Self {
        Self::Absent {
            address: address.to_string(),
            reason: format!("it ended the answer while asked to {step}"),
            source: None,
        }
    }

    /// No answer in time.
    pub(super) fn silent(step: &'static str, address: &EngineAddress) -> Self {
        Self::Absent {
            address: address.to_string(),
            reason: format!("it took too long to {step}"),
            source: None,
        }
    }

    /// Whether there was no answer at all.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Whether what was asked about is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether something stands in the way: the name is taken, or it is being removed already.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }

    /// The engine's own words, when it said no.
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
            EngineError::Absent { .. } => Self::Unavailable(format!(
                "{error}; hint: start it, or see \"stacyvm doctor\""
            )),
            EngineError::Refused { step, message, .. } => Self::Backend {
                step,
                message: without_paths(&message),
                source: None,
            },
            EngineError::Odd {
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

/// The deepest cause that has words.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    shown(&deepest.to_string())
}

fn shown(message: &str) -> String {
    let line = message.trim().replace(['\n', '\r', '\t'], " ");
    match line.char_indices().nth(LONGEST_MESSAGE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Without the directories of the engine's machine, which are none of a client's business: of every
/// path of at least two parts only its last one stays.
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

/// Where the next absolute path starts: a slash that nothing of a word stands before.
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
        assert_eq!(cut.chars().count(), LONGEST_MESSAGE + 1);
    }
}
