//! Requests by route.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;

use super::exposition::{Histogram, counters, gauge, histograms};
use crate::http_metrics::{CLASSES, HttpMetrics};

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, metrics: &HttpMetrics) -> fmt::Result {
    gauge(
        encoder,
        "stacyvm_http_requests_in_flight",
        "Requests whose answer has not begun.",
        metrics.in_flight(),
    )?;
    let routes = metrics.snapshot();
    let requests = routes.iter().flat_map(|((route, method), metrics)| {
        let answers = CLASSES.iter().zip(metrics.answers);
        let answers = answers.filter(|(_, count)| *count > 0);
        answers.map(move |(class, count)| {
            let labels = [
                ("route", route.as_str()),
                ("method", *method),
                ("status", *class),
            ];
            (labels, count)
        })
    });
    counters(
        encoder,
        "stacyvm_http_requests",
        "Requests answered, by class of status.",
        requests,
    )?;
    let durations = routes.iter().map(|((route, method), metrics)| {
        let labels = [("route", route.as_str()), ("method", *method)];
        let histogram = Histogram {
            buckets: metrics.buckets,
            count: metrics.count(),
            seconds: metrics.time.as_secs_f64(),
        };
        (labels, histogram)
    });
    histograms(
        encoder,
        "stacyvm_http_request_duration_seconds",
        "Time until an answer began; a streamed body goes on after that.",
        durations,
    )
}
