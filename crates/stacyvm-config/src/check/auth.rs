//! Keys that cannot travel in a header, or that are missing.

use super::findings::Findings;
use crate::Config;

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    let key = config.auth.api_key.expose();
    if config.auth.enabled && key.is_empty() {
        found.add(
            "auth.enabled",
            "it is true, but no key is set",
            Some("set auth.api_key, or the environment variable STACYVM_AUTH_API_KEY".to_owned()),
        );
    }
    if key.trim() != key || !key.chars().all(|c| c.is_ascii_graphic()) {
        found.add(
            "auth.api_key",
            "a key travels in an HTTP header: visible ASCII characters only, no white space",
            None,
        );
    }
}
