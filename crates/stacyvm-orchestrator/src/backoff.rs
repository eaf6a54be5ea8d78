//! How long to wait before trying again: doubling, capped, and jittered so that many failures at
//! once do not come back at once.

use std::time::Duration;

const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: between half and the whole of the doubled step.
    pub(crate) fn next(&mut self) -> Duration {
        let step = MIN_PAUSE
            .saturating_mul(1 << self.failures.min(16))
            .min(MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_are_jittered() {
        let mut backoff = Backoff::default();
        for failure in 0..100 {
            let step = MIN_PAUSE
                .saturating_mul(1 << failure.min(16))
                .min(MAX_PAUSE);
            let wait = backoff.next();
            assert!(wait <= step && wait * 2 >= step, "{failure}: {wait:?}");
        }
    }
}
