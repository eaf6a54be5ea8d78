//! Limits that make no sense. One that merely has no effect, such as a burst without a rate, is
//! left alone.

use stacyvm_types::GoDuration;

use super::findings::Findings;
use crate::Config;

/// Each spawn that waits holds a connection, of which the API has eight thousand.
const MAX_SPAWN_QUEUE: u32 = 5000;
/// A ticket is made for one request that comes at once.
const MAX_TICKET_TTL: GoDuration = GoDuration::from_secs(60 * 60);

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    let limits = &config.limits;
    if limits.spawn_queue > MAX_SPAWN_QUEUE {
        found.add(
            "limits.spawn_queue",
            format!("it must not be above {MAX_SPAWN_QUEUE}"),
            None,
        );
    }
    if !limits.spawn_queue_timeout.is_positive() {
        found.add(
            "limits.spawn_queue_timeout",
            "it must be longer than 0s",
            None,
        );
    }
    let ticket = config.auth.ticket_ttl;
    if !ticket.is_positive() || ticket > MAX_TICKET_TTL {
        found.add(
            "auth.ticket_ttl",
            format!("it must be longer than 0s and not longer than {MAX_TICKET_TTL}"),
            None,
        );
    }
}
