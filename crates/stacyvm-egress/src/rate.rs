//! Limits on how often something may happen.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    capacity: f64,
    tokens: f64,
    updated: Instant,
}

impl TokenBucket {
    /// A full bucket: `per_second` tokens come back each second, and twice as many can be taken at
    /// once. 0 is no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        let capacity = 2.0 * f64::from(per_second);
        Self {
            per_second: per_second.into(),
            capacity,
            tokens: capacity,
            updated: Instant::now(),
        }
    }

    /// Takes a token; false when there is none.
    pub(crate) fn take(&mut self) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.updated).as_secs_f64();
        self.updated = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.capacity);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// Lets a number of events through in each second and counts the rest.
#[derive(Debug)]
pub(crate) struct Throttle {
    since: Instant,
    allowed: u32,
    left_out: u64,
}

impl Throttle {
    /// Events that are let through in a second.
    pub(crate) const PER_SECOND: u32 = 20;

    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            allowed: 0,
            left_out: 0,
        }
    }

    /// Whether one more event is let through; counts it otherwise.
    pub(crate) fn allow(&mut self) -> bool {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.allowed = 0;
        }
        if self.allowed >= Self::PER_SECOND {
            self.leave_out();
            return false;
        }
        self.allowed += 1;
        true
    }

    /// Counts an event that did not get through.
    pub(crate) fn leave_out(&mut self) {
        self.left_out = self.left_out.saturating_add(1);
    }

    /// How many events were left out since the last call.
    pub(crate) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_with_time() {
        let mut bucket = TokenBucket::new(10);
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 20);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 5);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 20);
        let mut free = TokenBucket::new(0);
        assert!((0..1000).all(|_| free.take()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_counted() {
        let mut throttle = Throttle::new();
        assert_eq!((0..50).filter(|_| throttle.allow()).count(), 20);
        assert_eq!(throttle.take_left_out(), 30);
        assert_eq!(throttle.take_left_out(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(throttle.allow());
    }
}
