//! Why there is no network.

use rustix::io::Errno;

use stacyvm_firewall::FirewallError;
use stacyvm_provider::ProviderError;

/// Why sandboxes have no network, with what mends it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    /// Not allowed to make one.
    #[error("a network takes root: run the server as root, outside of a container")]
    NotRoot,
    /// The rules could not be loaded.
    #[error(transparent)]
    Rules(#[from] FirewallError),
    /// The kernel refused a step.
    #[error("{step}: {errno}")]
    Kernel {
        /// Which.
        step: &'static str,
        /// Its answer.
        #[source]
        errno: Errno,
    },
    /// The configured range is in use.
    #[error(
        "the range {range} is in use on this machine ({by}): set providers.native.network_subnet to a free one"
    )]
    RangeTaken {
        /// The configured one.
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
    /// The maker has ended.
    #[error("the network is shut down")]
    Closed,
    /// The program that resolves names could not be started.
    #[error("the program for names could not be started: {0}")]
    Egress(String),
}

impl NetworkError {
    /// Puts the step to a refusal.
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
