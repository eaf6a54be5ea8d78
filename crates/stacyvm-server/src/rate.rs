//! Token buckets: rates for each of many keys.
//!
//! A bucket holds at most `burst` tokens and gets new ones evenly; each time takes one. Time is
//! handed in. Memory is bounded: of the keys only those used lately are remembered, in two
//! generations; a forgotten one starts with a full bucket, as one that has rested would.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The number of keys of one generation.
const GENERATION_SIZE: usize = 10_000;

/// How often, and how often at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    /// `count` a second, `burst` of them at once; 0 for `burst` means those of one second. None
    /// when the count is 0, which means no limit.
    pub(crate) fn each_second(count: u32, burst: u32) -> Option<Self> {
        let burst = if burst == 0 { count } else { burst };
        Self::new(f64::from(count), f64::from(burst))
    }

    /// `count` a minute, all of them at once if need be.
    pub(crate) fn each_minute(count: u32) -> Option<Self> {
        Self::new(f64::from(count) / 60.0, f64::from(count))
    }

    fn new(per_second: f64, burst: f64) -> Option<Self> {
        (per_second > 0.0).then_some(Self { per_second, burst })
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let rested = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + rested * rate.per_second).min(rate.burst);
        self.at = now;
    }
}

/// One bucket for each key.
#[derive(Debug)]
pub(crate) struct TokenBuckets<K> {
    rate: Option<Rate>,
    generation_size: usize,
    generations: Mutex<Generations<K>>,
}

#[derive(Debug)]
struct Generations<K> {
    young: HashMap<K, Bucket>,
    old: HashMap<K, Bucket>,
}

impl<K: Eq + Hash + Clone> TokenBuckets<K> {
    /// Without a rate everything is allowed and nothing remembered.
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self {
            rate,
            generation_size: GENERATION_SIZE,
            generations: Mutex::new(Generations {
                young: HashMap::new(),
                old: HashMap::new(),
            }),
        }
    }

    /// Takes a token, or says how long until there is one.
    pub(crate) fn take(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let mut generations = self.generations.lock();
        let found = generations.young.get(key).copied();
        let found = found.or_else(|| generations.old.remove(key));
        let mut bucket = found.unwrap_or(Bucket {
            tokens: rate.burst,
            at: now,
        });
        bucket.fill(rate, now);
        let answer = if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            Ok(())
        } else {
            let missing = (1.0 - bucket.tokens) / rate.per_second;
            Err(Duration::from_secs_f64(missing))
        };
        if generations.young.len() >= self.generation_size && !generations.young.contains_key(key) {
            generations.old = mem::take(&mut generations.young);
        }
        generations.young.insert(key.clone(), bucket);
        answer
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_then_the_rate() {
        let buckets = TokenBuckets::new(Rate::each_second(2, 5));
        let mut now = Instant::now();
        for _ in 0..5 {
            buckets.take(&"a", now).unwrap();
        }
        let wait = buckets.take(&"a", now).unwrap_err();
        assert!((wait.as_secs_f64() - 0.5).abs() < 0.001, "{wait:?}");
        // What is refused costs nothing.
        now += wait + MILLI;
        buckets.take(&"a", now).unwrap();
        assert!(buckets.take(&"a", now).is_err());
        // Another key has its own bucket.
        buckets.take(&"b", now).unwrap();
        // Rest fills it up to the burst and no further.
        now += Duration::from_secs(3600);
        let taken = (0..100).filter(|_| buckets.take(&"a", now).is_ok());
        assert_eq!(taken.count(), 5);
    }

    #[test]
    fn rates_and_their_bursts() {
        assert_eq!(Rate::each_second(0, 9), None);
        assert_eq!(Rate::each_minute(0), None);
        let buckets = TokenBuckets::new(Rate::each_minute(3));
        let now = Instant::now();
        let taken = (0..9).filter(|_| buckets.take(&(), now).is_ok()).count();
        assert_eq!(taken, 3);
        let wait = buckets.take(&(), now).unwrap_err();
        assert!((wait.as_secs_f64() - 20.0).abs() < 0.1, "{wait:?}");
        let free = TokenBuckets::new(None);
        assert!((0..1000).all(|_| free.take(&(), now).is_ok()));
        assert!(free.generations.lock().young.is_empty());
        // A clock that goes back gives nothing away and breaks nothing.
        assert!(buckets.take(&(), now.checked_sub(MILLI).unwrap()).is_err());
    }

    #[test]
    fn only_so_many_keys_are_remembered_and_the_busy_one_is() {
        let mut buckets = TokenBuckets::new(Rate::each_second(1, 1));
        buckets.generation_size = 10;
        let now = Instant::now();
        buckets.take(&0, now).unwrap();
        for key in 1..500 {
            buckets.take(&key, now).unwrap();
            assert!(buckets.take(&0, now).is_err(), "after {key}");
            let generations = buckets.generations.lock();
            assert!(generations.young.len() <= 10 && generations.old.len() <= 10);
        }
        // A key that was not used for long is forgotten.
        assert!(buckets.take(&1, now).is_ok());
    }
}
