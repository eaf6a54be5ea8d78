//! Where spans go beside the log: an OTLP collector, when one is configured.
//!
//! Owns the exporter and its end. It is only there with the cargo feature `otlp`; without it the
//! configuration's check refuses an endpoint, because spans that silently go nowhere are looked for
//! in vain. Sending is done by a thread of its own and never holds a request up: what the collector
//! does not take in time is dropped.

#[cfg(feature = "otlp")]
mod post;

use anyhow::Result;
use stacyvm_config::TelemetryConfig;

#[cfg(feature = "otlp")]
pub(crate) use with_otlp::Telemetry;
#[cfg(not(feature = "otlp"))]
pub(crate) use without::Telemetry;

/// A base URL as OTLP's HTTP form wants it, without a slash at its end.
#[cfg(feature = "otlp")]
fn base(endpoint: &str) -> Result<&str> {
    let plain = endpoint
        .strip_prefix("http://")
        .filter(|rest| !rest.is_empty() && !rest.starts_with('/'));
    if plain.is_none() {
        return Err(crate::failure::hinted(
            format!("telemetry.otlp_endpoint: {endpoint:?} does not begin with http:// and a host"),
            "name a collector without TLS, beside this server: http://127.0.0.1:4318",
        ));
    }
    Ok(endpoint.trim_end_matches('/'))
}

#[cfg(not(feature = "otlp"))]
mod without {
    use super::{Result, TelemetryConfig};

    /// Nothing; the configuration was checked for that.
    #[derive(Debug)]
    pub(crate) struct Telemetry;

    impl Telemetry {
        pub(crate) fn start(_: &TelemetryConfig) -> Result<Self> {
            Ok(Self)
        }

        pub(crate) fn finish(self) {}
    }
}

#[cfg(feature = "otlp")]
mod with_otlp {
    use std::time::Duration;

    use anyhow::Context;
    use opentelemetry::KeyValue;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::Subscriber;
    use tracing_subscriber::Layer;
    use tracing_subscriber::registry::LookupSpan;

    use super::{Result, TelemetryConfig, base, post::Poster};

    /// How long the last spans may take at the end.
    const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

    /// The exporter, when there is one.
    #[derive(Debug)]
    pub(crate) struct Telemetry(Option<SdkTracerProvider>);

    impl Telemetry {
        pub(crate) fn start(config: &TelemetryConfig) -> Result<Self> {
            if config.otlp_endpoint.is_empty() {
                return Ok(Self(None));
            }
            let exporter = SpanExporter::builder()
                .with_http()
                .with_http_client(Poster)
                .with_endpoint(format!("{}/v1/traces", base(&config.otlp_endpoint)?))
                .build()
                .context("cannot make the exporter for telemetry.otlp_endpoint")?;
            let resource = Resource::builder()
                .with_service_name("stacyvm")
                .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
                .build();
            let provider = SdkTracerProvider::builder()
                .with_batch_exporter(exporter)
                .with_resource(resource)
                .build();
            Ok(Self(Some(provider)))
        }

        /// What the log's registry shows its spans to.
        pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
        where
            S: Subscriber + for<'span> LookupSpan<'span>,
        {
            let tracer = self.0.as_ref()?.tracer("stacyvm");
            let layer = tracing_opentelemetry::layer().with_tracer(tracer);
            // Ids of threads and places in our source are of no use to who reads a trace.
            Some(layer.with_threads(false).with_location(false))
        }

        /// Sends what is left.
        pub(crate) fn finish(self) {
            if let Some(provider) = self.0
                && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
            {
                tracing::warn!(%error, "Last spans did not reach the collector");
            }
        }
    }
}

#[cfg(all(test, feature = "otlp"))]
mod tests {
    use super::base;

    #[test]
    fn only_a_plain_base_url_will_do() {
        assert!(base("http://127.0.0.1:4318/").is_ok_and(|url| url == "http://127.0.0.1:4318"));
        for wrong in ["https://c:4318", "c:4318", "http://", "http:///x", ""] {
            assert!(base(wrong).is_err(), "{wrong}");
        }
    }
}
