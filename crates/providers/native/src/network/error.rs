//! Why there is no network.

use rustix::io::Errno;

use stacyvm_firewall::FirewallError;
use stacyvm_provider::ProviderError;

/// Why sandboxes have no network, with what mends it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// The process may not make a network.
    #[error("a network takes root: run the server as root, outside of a container")]
    NotRoot,
    /// The rules could not be loaded.
    #[error(transparent)]
    Rules(#[from] FirewallError),
    /// The kernel refused a step.
    #[error("{step}: {errno}")]
    Kernel {
        /// The step that was refused.
        step: &'static str,
        /// The kernel's error.
        #[source]
        errno: Errno,
    },
    /// The configured range is in use.
    #[error(
        "the range {range} is in use on this machine ({by}): set providers.native.network_subnet to a free one"
    )]
    RangeTaken {
        /// The configured range.
        range: String,
        /// What uses it.
        by: String,
    },
    /// Every range that could be chosen is in use.
    #[error(
        "every range tried is in use on this machine: set providers.native.network_subnet to a free one"
    )]
    NoRange,
    /// The range is not one that can be used.
    #[error("providers.native.network_subnet must be a range of IPv4 of 16 to 24 bits")]
    BadRange,
    /// Every number is taken.
    #[error("every address of the network is taken: destroy sandboxes first")]
    Full,
    /// The network has been closed.
    #[error("the network is shut down")]
    Closed,
    /// The program that resolves names could not be started.
    #[error("the program for names could not be started: {0}")]
    Egress(String),
}

impl NetworkError {
    /// Turns the kernel's error into a failure of this step.
    pub(crate) fn at(step: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Kernel { step, errno }
    }
}

impl From<NetworkError> for ProviderError {
    fn from(error: NetworkError) -> Self {
        let message = error.to_string();
        match error {
            NetworkError::Full => Self::Limit(message),
            NetworkError::Closed => Self::Unavailable(message),
            other => Self::backend("make the sandbox's network", message, other),
        }
    }
}
