//! Requests by route, for Prometheus.

use stacyvm_orchestrator::BUCKET_BOUNDS;

use super::Exposition;
use crate::http_metrics::{CLASSES, HttpMetrics};

pub(super) fn write(out: &mut Exposition, metrics: &HttpMetrics) {
    out.single(
        "stacyvm_http_requests_in_flight",
        "gauge",
        "Requests whose answer has not begun.",
        metrics.in_flight(),
    );
    let routes = metrics.snapshot();
    let name = "stacyvm_http_requests_total";
    out.family(name, "counter", "Requests answered, by class of status.");
    for ((route, method), traffic) in &routes {
        for (class, count) in CLASSES.iter().zip(traffic.answers) {
            if count > 0 {
                let labels = [("route", route.as_str()), ("method", method)];
                out.sample(name, &[labels[0], labels[1], ("status", class)], count);
            }
        }
    }
    let name = "stacyvm_http_request_duration_seconds";
    let help = "Time until an answer began; a streamed body goes on after that.";
    out.family(name, "histogram", help);
    for ((route, method), traffic) in &routes {
        let [route, method] = [("route", route.as_str()), ("method", *method)];
        let bucket = format!("{name}_bucket");
        for (bound, count) in BUCKET_BOUNDS.iter().zip(traffic.cumulative()) {
            let bound = bound.to_string();
            out.sample(&bucket, &[route, method, ("le", &bound)], count);
        }
        let labels = [route, method, ("le", "+Inf")];
        out.sample(&bucket, &labels, traffic.count());
        let labels = [route, method];
        let seconds = traffic.time.as_secs_f64();
        out.sample(&format!("{name}_sum"), &labels, seconds);
        out.sample(&format!("{name}_count"), &labels, traffic.count());
    }
}
