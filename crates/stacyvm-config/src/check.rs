//! What no single value shows: values that do not fit together, or that this program cannot serve.

mod auth;
mod certificates;
mod defaults;
mod docker;
mod findings;
mod images;
mod limits;
mod preview;
mod providers;
mod server;

use std::collections::BTreeMap;

use findings::Findings;

use crate::Config;
use crate::problem::{Origin, Problem};

/// Everything wrong with values that each have the right type. `built` names the providers that
/// the program contains; empty skips that check, as does no word on whether it can send spans.
pub(crate) fn check(
    config: &Config,
    origins: &BTreeMap<String, Origin>,
    built: &[&'static str],
    sends_spans: Option<bool>,
) -> Vec<Problem> {
    let mut found = Findings::new(origins);
    auth::check(config, &mut found);
    defaults::check(config, &mut found);
    docker::check(config, &mut found);
    images::check(config, &mut found);
    limits::check(config, &mut found);
    preview::check(config, &mut found);
    certificates::check(config, &mut found);
    providers::check(config, built, &mut found);
    server::check(config, &mut found);
    if sends_spans == Some(false) && !config.telemetry.otlp_endpoint.is_empty() {
        found.add(
            "telemetry.otlp_endpoint",
            "this program was built without the feature otlp",
            Some("build it with --features otlp, or take the key out".to_owned()),
        );
    }
    if config.pool.enabled {
        found.add(
            "pool.enabled",
            "pool mode is not in this version",
            Some("set it to false".to_owned()),
        );
    }
    found.into_problems()
}
