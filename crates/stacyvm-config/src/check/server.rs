//! An address to listen on that is none, and proxies that would be everybody.

use super::findings::Findings;
use crate::Config;

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    if config.server.host.trim().is_empty() {
        found.add(
            "server.host",
            "it is empty",
            Some("use 127.0.0.1, or 0.0.0.0 for every address".to_owned()),
        );
    }
    let mut proxies = config.server.trusted_proxies.iter();
    if let Some(all) = proxies.find(|range| range.bits() == 0) {
        found.add(
            "server.trusted_proxies",
            format!("{all} is everybody, so every client could say that it is another"),
            Some("name the addresses of your proxies".to_owned()),
        );
    }
}
