//! What separates a sandbox from the host and its neighbours, as a scale.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What separates a sandbox from the host and its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// A plain process of the host: no isolation.
    None,
    /// Host processes under a path translation: no kernel boundary.
    Process,
    /// Namespaces, cgroups and a system call filter over the host's kernel.
    Container,
    /// A kernel in user space answers the system calls.
    UserspaceKernel,
    /// A kernel of its own behind hardware virtualisation.
    Vm,
    /// Another service runs it; its isolation cannot be checked.
    Remote,
}

/// Why a text names no isolation level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown isolation {0:?}: the levels are none, process, container, userspace-kernel, vm and remote"
)]
pub struct ParseIsolationError(String);

impl Isolation {
    /// The word used in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Container => "container",
            Self::UserspaceKernel => "userspace-kernel",
            Self::Vm => "vm",
            Self::Remote => "remote",
        }
    }

    /// Whether this level is at least `floor`. `remote` is outside the order: it satisfies only
    /// itself and `none`, because we cannot see what it really is.
    pub fn satisfies(self, floor: Self) -> bool {
        let rank = |level| match level {
            Self::None => Some(0),
            Self::Process => Some(1),
            Self::Container => Some(2),
            Self::UserspaceKernel => Some(3),
            Self::Vm => Some(4),
            Self::Remote => None,
        };
        self == floor
            || floor == Self::None
            || matches!((rank(self), rank(floor)), (Some(have), Some(want)) if have >= want)
    }
}

impl FromStr for Isolation {
    type Err = ParseIsolationError;

    fn from_str(text: &str) -> Result<Self, ParseIsolationError> {
        [
            Self::None,
            Self::Process,
            Self::Container,
            Self::UserspaceKernel,
            Self::Vm,
            Self::Remote,
        ]
        .into_iter()
        .find(|level| level.as_str() == text)
        .ok_or_else(|| ParseIsolationError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn isolation_is_a_floor_and_remote_stands_apart() {
        assert!(Isolation::Vm.satisfies(Isolation::Container));
        assert!(!Isolation::Container.satisfies(Isolation::UserspaceKernel));
        assert!(!Isolation::Remote.satisfies(Isolation::Process));
        assert!(!Isolation::Vm.satisfies(Isolation::Remote));
        assert!(Isolation::Remote.satisfies(Isolation::None));
    }
}
