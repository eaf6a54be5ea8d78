//! Why rules do not stand.

/// Why rules could not be loaded, with what mends it.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program that loads them is not there.
    #[error("the program nft is missing: apt-get install nftables")]
    NoNft,
    /// They were refused.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}
