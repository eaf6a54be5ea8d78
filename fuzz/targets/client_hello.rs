//! The first bytes of a connection: reading them ends, gives the same result in pieces of any size,
//! and a name that is found stands in them.
//!
//! The reader is compiled from its file, because its crate would bring servers along.
#![no_main]
#![allow(dead_code)]

#[path = "../../crates/stacyvm-egress/src/sniff.rs"]
mod sniff;

use libfuzzer_sys::fuzz_target;
use sniff::{Protocol, detect};

fuzz_target!(|bytes: &[u8]| {
    let all = detect(bytes);
    if let Protocol::Tls(Some(name)) = &all {
        assert!(!name.is_empty());
        // In one record, the name stands there as it is; in several, its bytes do, in this order.
        let mut rest = bytes.iter();
        assert!(name.iter().all(|byte| rest.any(|other| other == byte)));
    }
    // Once it is known what it is, more bytes change nothing, but that too many are too many.
    for end in 0..bytes.len().min(600) {
        match detect(&bytes[..end]) {
            Protocol::Incomplete => {}
            known @ (Protocol::Malformed | Protocol::Unknown) => assert_eq!(all, known),
            known @ Protocol::Http => assert_eq!(all, known),
            // What follows a whole hello in the same breath makes it malformed, or is not looked
            // at because it is in a record of its own.
            known @ Protocol::Tls(_) => assert!(all == known || all == Protocol::Malformed),
        }
    }
});
