//! Why rules could not be loaded.

/// A failed attempt to load rules, with the remedy where there is one.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program that loads rules is not installed.
    #[error("the program nft is missing: apt-get install nftables")]
    NoNft,
    /// The program refused the rules, or could not be run.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}
