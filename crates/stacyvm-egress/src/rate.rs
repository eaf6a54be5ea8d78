//! How often something may happen.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back with time.
#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    most: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Full: so many a second, twice as many at once. 0 is no limit.
    pub(crate) fn new(per_second: u32) -> Self {
        let most = 2.0 * f64::from(per_second);
        Self {
            per_second: per_second.into(),
            most,
            tokens: most,
            at: Instant::now(),
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let now = Instant::now();
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.tokens = (self.tokens + passed * self.per_second).min(self.most);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// Lets so many through in each second and counts the rest.
#[derive(Debug)]
pub(crate) struct Throttle {
    since: Instant,
    passed: u32,
    left_out: u64,
}

impl Throttle {
    /// What passes in a second.
    pub(crate) const PER_SECOND: u32 = 20;

    pub(crate) fn new() -> Self {
        Self {
            since: Instant::now(),
            passed: 0,
            left_out: 0,
        }
    }

    /// Whether one more passes.
    pub(crate) fn pass(&mut self) -> bool {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            self.since = now;
            self.passed = 0;
        }
        if self.passed >= Self::PER_SECOND {
            self.leave_out();
            return false;
        }
        self.passed += 1;
        true
    }

    /// Counts one that did not get through.
    pub(crate) fn leave_out(&mut self) {
        self.left_out = self.left_out.saturating_add(1);
    }

    /// How many were left out since the last time this was asked.
    pub(crate) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_with_time() {
        let mut bucket = Bucket::new(10);
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 20);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 5);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 20);
        let mut free = Bucket::new(0);
        assert!((0..1000).all(|_| free.take()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_is_counted() {
        let mut throttle = Throttle::new();
        assert_eq!((0..50).filter(|_| throttle.pass()).count(), 20);
        assert_eq!(throttle.take_left_out(), 30);
        assert_eq!(throttle.take_left_out(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(throttle.pass());
    }
}
