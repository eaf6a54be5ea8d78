//! The generations of the protocol, and their negotiation.
//!
//! The generation grows only when an older peer could misread a newer one; an addition is announced
//! as a capability. See `VERSIONING.md`.

/// The newest generation this code speaks.
pub const GENERATION: u32 = 1;
/// The oldest generation this code still speaks.
pub const OLDEST_GENERATION: u32 = 1;

/// The newest generation in both ranges; none when they do not overlap.
pub fn negotiate(ours: (u32, u32), theirs: (u32, u32)) -> Option<u32> {
    let newest = ours.1.min(theirs.1);
    let oldest = ours.0.max(theirs.0);
    (newest >= oldest).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::negotiate;

    #[test]
    fn the_newest_common_generation_wins() {
        assert_eq!(negotiate((1, 1), (1, 1)), Some(1));
        assert_eq!(negotiate((1, 3), (2, 5)), Some(3));
        assert_eq!(negotiate((2, 5), (1, 3)), Some(3));
        assert_eq!(negotiate((1, 1), (2, 3)), None);
        assert_eq!(negotiate((1, 3), (3, 2)), None);
    }
}
