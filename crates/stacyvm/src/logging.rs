//! Where log lines go: standard error, in the configured form.

use std::backtrace::Backtrace;
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use stacyvm_config::{LogFormat, LoggingConfig};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::telemetry::Telemetry;

/// Installs the log for the rest of the process. Other crates than ours speak up from `warn` on.
pub(crate) fn install(config: &LoggingConfig, telemetry: &Telemetry) {
    let filter = EnvFilter::new(format!("warn,stacyvm={}", config.level.as_str()));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .boxed(),
        LogFormat::Pretty => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    std::panic::set_hook(Box::new(log_panic));
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    #[cfg(feature = "otlp")]
    let registry = registry.with(
        telemetry
            .layer()
            // The spans of our own crates, whatever the log leaves out.
            .map(|layer| layer.with_filter(EnvFilter::new("off,stacyvm=info"))),
    );
    #[cfg(not(feature = "otlp"))]
    let _ = telemetry;
    // A second installation happens only in tests, and changes nothing.
    let _ = registry.try_init();
}

/// Says where a panic was, in the span of the request it was in. What it says is left out unless it
/// is a text of our own: a formatted one may quote what a client sent.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = panic.payload().downcast_ref::<&'static str>();
    let message = message.copied().unwrap_or("set RUST_BACKTRACE to see more");
    let location = panic.location().map(ToString::to_string);
    let location = location.as_deref().unwrap_or("somewhere");
    tracing::error!(location, panic = message, "A part of the server panicked");
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
        eprintln!("{}", Backtrace::force_capture());
    }
}

/// For commands that are no server: only what a person must hear, in plain words.
pub(crate) fn install_quiet() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("error"))
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// For a command that reports everything itself.
pub(crate) fn install_silent() {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("off"))
        .with_writer(std::io::stderr)
        .try_init();
}
