//! What a failed operation inside a sandbox means to its caller, knowing what became of the
//! sandbox meanwhile.

use stacyvm_provider::ops::OpError;

use crate::error::{Error, PAUSED};
use crate::lifecycle::Phase;
use crate::registry::Entry;

/// The public error of a failed operation.
pub(crate) fn public_error(entry: &Entry, error: OpError) -> Error {
    let id = &entry.facts.id;
    if matches!(error, OpError::Gone(_)) {
        match entry.view().phase {
            Phase::Destroying | Phase::Destroyed => return Error::no_sandbox(id),
            Phase::Stopped | Phase::Lost => {
                return Error::Conflict(format!("sandbox {id} does not run any more"));
            }
            Phase::Creating | Phase::Running | Phase::Paused => {}
        }
    }
    Error::from_op(&entry.facts.provider, error)
}

/// The answer of an operation that was begun before its sandbox was paused.
pub(crate) fn paused(entry: &Entry) -> OpError {
    OpError::Conflict(format!("sandbox {} {PAUSED}", entry.facts.id))
}

/// The answer of an operation whose sandbox is being destroyed.
pub(crate) fn destroyed() -> OpError {
    OpError::Gone("the sandbox is destroyed".to_owned())
}

/// The answer for an agent that took too long.
pub(crate) fn silent() -> OpError {
    OpError::Gone("the agent does not answer".to_owned())
}

/// A command that asks for a user or directory that its sandbox lacks is a bad request: as "not
/// found" clients would take the sandbox itself for gone.
pub(crate) fn not_startable(error: OpError) -> OpError {
    match error {
        OpError::NotFound(message) => OpError::Invalid(message),
        error => error,
    }
}
