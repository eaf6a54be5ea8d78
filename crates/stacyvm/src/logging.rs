//! Where log lines go: standard error, in the configured form.

use std::io::IsTerminal;

use stacyvm_config::{LogFormat, LoggingConfig};
use tracing_subscriber::EnvFilter;

/// Installs the log for the rest of the process. Other crates than ours speak up from `warn` on.
pub(crate) fn install(config: &LoggingConfig) {
    let filter = EnvFilter::new(format!("warn,stacyvm={}", config.level.as_str()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second installation happens only in tests, and changes nothing.
    let _ = match config.format {
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init(),
        LogFormat::Pretty => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
    };
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
