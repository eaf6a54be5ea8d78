//! Limits that do not fit together.

use stacyvm_types::GoDuration;

use super::Findings;
use crate::Config;

/// Each spawn that waits holds a connection, of which there are ten thousand.
const LONGEST_QUEUE: u32 = 5000;
/// A ticket is made for one request that comes at once.
const LONGEST_TICKET: GoDuration = GoDuration::from_secs(60 * 60);

pub(super) fn check(config: &Config, found: &mut Findings<'_>) {
    let limits = &config.limits;
    for (burst_key, burst, rate_key, rate) in [
        (
            "limits.burst",
            limits.burst,
            "limits.requests_per_second",
            limits.requests_per_second,
        ),
        (
            "limits.owner_burst",
            limits.owner_burst,
            "limits.owner_requests_per_second",
            limits.owner_requests_per_second,
        ),
    ] {
        if burst > 0 && rate == 0 {
            found.add(
                burst_key,
                format!("it does nothing while {rate_key} is 0"),
                Some(format!("set {rate_key} too")),
            );
        }
    }
    if limits.spawn_queue > LONGEST_QUEUE {
        found.add(
            "limits.spawn_queue",
            format!("it must not be above {LONGEST_QUEUE}"),
            None,
        );
    }
    if limits.spawn_queue > 0 && config.defaults.max_sandboxes == 0 {
        found.add(
            "limits.spawn_queue",
            "it does nothing while defaults.max_sandboxes is 0",
            Some("set defaults.max_sandboxes too".to_owned()),
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
    if !ticket.is_positive() || ticket > LONGEST_TICKET {
        found.add(
            "auth.ticket_ttl",
            format!("it must be longer than 0s and not longer than {LONGEST_TICKET}"),
            None,
        );
    }
}
