//! `Host` headers: a name that is not allowed is refused, however it is written.
//!
//! The rule is compiled from its file, with a stand-in for its error, because the server's crate would
//! bring the database and everything else along.
#![no_main]
#![allow(dead_code)]

mod error {
    /// A stand-in for the server's error.
    #[derive(Debug)]
    pub(crate) struct Failure;

    impl Failure {
        pub(crate) fn bad_request(_: impl Into<String>) -> Self {
            Self
        }

        pub(crate) fn forbidden(_: impl Into<String>) -> Self {
            Self
        }
    }
}

#[path = "../../crates/stacyvm-server/src/host.rs"]
mod host;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use http::header::{HOST, HeaderValue};
use libfuzzer_sys::fuzz_target;

static RULE: LazyLock<host::HostRule> = LazyLock::new(|| {
    let allowed = ["box.example.org".to_owned(), "*.lan".to_owned()];
    host::HostRule::new(&allowed, "preview.example.com:7423")
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut request = http::Request::new(());
    request.headers_mut().insert(HOST, value);
    if RULE.check(&request).is_err() {
        return;
    }
    // It passed, so it must be one of these, told by other means than the rule's own.
    let text = std::str::from_utf8(bytes).expect("what passes is text");
    let name = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, _) = rest.split_once(']').expect("closed again");
            assert!(address.parse::<Ipv6Addr>().is_ok(), "{text:?}");
            return;
        }
        None => text.split(':').next().unwrap_or_default(),
    };
    if name.parse::<Ipv4Addr>().is_ok() {
        return;
    }
    let name = name.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    let last = name.rsplit('.').next().unwrap_or_default();
    assert!(
        matches!(last, "localhost" | "lan")
            || matches!(name, "box.example.org" | "preview.example.com"),
        "{text:?}"
    );
});
