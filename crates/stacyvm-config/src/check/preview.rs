//! Addresses of previews that are none, and limits that no preview could live with.

use std::net::SocketAddr;

use stacyvm_types::GoDuration;

use super::findings::Findings;
use crate::Config;

/// Browsers give up on longer waits.
const MAX_WAIT: GoDuration = GoDuration::from_secs(5 * 60);
/// Each holds descriptors and memory of the server.
const MAX_CONNECTIONS: u32 = 8192;

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    for address in &config.server.preview_listen {
        if address.parse::<SocketAddr>().is_err() {
            found.add(
                "server.preview_listen",
                format!("{address:?} is no address with a port"),
                Some("write 0.0.0.0:80, 127.0.0.1:8080 or [::]:80".to_owned()),
            );
        }
    }
    let preview = &config.preview;
    if preview.wait < GoDuration::ZERO || preview.wait > MAX_WAIT {
        found.add(
            "preview.wait",
            format!("it must be from 0s to {MAX_WAIT}"),
            None,
        );
    }
    if preview.idle_timeout < GoDuration::from_secs(1) {
        found.add("preview.idle_timeout", "it must be at least 1s", None);
    }
    if !(1..=MAX_CONNECTIONS).contains(&preview.max_connections_per_sandbox) {
        found.add(
            "preview.max_connections_per_sandbox",
            format!("it must be from 1 to {MAX_CONNECTIONS}"),
            None,
        );
    }
}
