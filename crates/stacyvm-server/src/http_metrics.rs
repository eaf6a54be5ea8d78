//! Counts and times of requests, by route.
//!
//! Owns the counters, not how they are shown. Its labels are closed sets whatever a client sends:
//! routes as our own table writes them, the methods that HTTP names, and classes of status.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use parking_lot::Mutex;
use stacyvm_orchestrator::BUCKET_BOUNDS;

/// Classes of status, by their first digit less one.
pub(crate) const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The counters of HTTP requests.
#[derive(Debug, Default)]
pub(crate) struct HttpMetrics {
    in_flight: AtomicU64,
    routes: Mutex<HashMap<(String, &'static str), RouteMetrics>>,
}

/// What came of the requests to one route with one method.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RouteMetrics {
    /// Answers, by [`CLASSES`].
    pub(crate) answers: [u64; CLASSES.len()],
    /// Per bound of [`BUCKET_BOUNDS`]: how many took no longer than it and longer than the one
    /// before.
    pub(crate) buckets: [u64; BUCKET_BOUNDS.len()],
    /// Sum of the times until the head of the answer.
    pub(crate) time: Duration,
}

impl RouteMetrics {
    /// All answers.
    pub(crate) fn count(&self) -> u64 {
        self.answers.iter().sum()
    }
}

/// One request that is being answered. If its client goes away first, it only leaves the number of
/// requests in flight and is not counted as answered.
#[derive(Debug)]
pub(crate) struct InFlightRequest<'a>(&'a HttpMetrics);

impl HttpMetrics {
    /// Counts a request in.
    pub(crate) fn begin(&self) -> InFlightRequest<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightRequest(self)
    }

    /// How many are being answered.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Every route that was asked for, with its method, sorted.
    pub(crate) fn snapshot(&self) -> Vec<((String, &'static str), RouteMetrics)> {
        let routes = self.routes.lock();
        let mut all: Vec<_> = routes
            .iter()
            .map(|(key, traffic)| (key.clone(), traffic.clone()))
            .collect();
        all.sort_by(|one, other| one.0.cmp(&other.0));
        all
    }
}

impl InFlightRequest<'_> {
    /// The head of the answer is ready after `took`; a body that streams goes on after that.
    pub(crate) fn answered(self, route: &str, method: &Method, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        let seconds = took.as_secs_f64();
        let bucket = BUCKET_BOUNDS.iter().position(|bound| seconds <= *bound);
        let mut routes = self.0.routes.lock();
        let key = (route.to_owned(), known(method));
        let traffic = routes.entry(key).or_default();
        traffic.answers[class] += 1;
        traffic.time += took;
        if let Some(bucket) = bucket {
            traffic.buckets[bucket] += 1;
        }
    }
}

impl Drop for InFlightRequest<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The label of a method. A client may invent methods; all of those share one label.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_invents_is_no_label() {
        let traffic = HttpMetrics::default();
        for method in ["GET", "BREW", "STEEP"] {
            let method = Method::from_bytes(method.as_bytes()).expect("a token");
            let status = StatusCode::METHOD_NOT_ALLOWED;
            traffic
                .begin()
                .answered("none", &method, status, Duration::from_millis(3));
        }
        let snapshot = traffic.snapshot();
        let keys: Vec<_> = snapshot.iter().map(|(key, _)| key.1).collect();
        assert_eq!(keys, ["GET", "other"]);
        assert_eq!(snapshot[1].1.answers, [0, 0, 0, 2, 0]);
        assert_eq!(snapshot[1].1.count(), 2);
        // Two between 2 and 4 ms.
        assert_eq!(snapshot[1].1.buckets[..5], [0, 0, 0, 2, 0]);
        assert_eq!(snapshot[1].1.buckets.iter().sum::<u64>(), 2);
    }

    #[test]
    fn a_request_whose_client_went_away_is_not_in_flight() {
        let traffic = HttpMetrics::default();
        let (one, other) = (traffic.begin(), traffic.begin());
        assert_eq!(traffic.in_flight(), 2);
        drop(one);
        other.answered("none", &Method::GET, StatusCode::OK, Duration::ZERO);
        assert_eq!(traffic.in_flight(), 0);
        assert_eq!(traffic.snapshot()[0].1.count(), 1);
    }
}
