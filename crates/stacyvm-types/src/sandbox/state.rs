//! Where a sandbox is in its life.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a sandbox is in its life. Transitions belong to the orchestrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    /// Its intent is written; the backend works on it.
    Creating,
    /// Its agent answers.
    Running,
    /// Frozen on request.
    Paused,
    /// Its workload ended by itself.
    Stopped,
    /// It could not be made, or was lost.
    Error,
    /// Destroyed; only its id is kept.
    Destroyed,
}

impl SandboxState {
    /// The word used in the API and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Destroyed => "destroyed",
        }
    }

    /// Every state, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Creating,
        Self::Running,
        Self::Paused,
        Self::Stopped,
        Self::Error,
        Self::Destroyed,
    ];
}

impl FromStr for SandboxState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or(())
    }
}

impl fmt::Display for SandboxState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
