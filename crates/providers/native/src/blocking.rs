//! Running what may block on a thread of its own.

use stacyvm_provider::ProviderError;

/// Runs `work` on a thread that may block, inside the caller's span.
pub(crate) async fn run_blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
        .await
        .map_err(|error| ProviderError::backend(step, "", error))?
}
