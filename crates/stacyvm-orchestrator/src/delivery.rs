//! Events of a command on their way to a listener of its own pace.

use stacyvm_provider::ops::ExecEvent;
use tokio::sync::mpsc;

/// A command's events, as the orchestrator sees them.
pub(crate) trait EventSource {
    /// The next event; none when the listener is to be told nothing more.
    fn next(&mut self) -> impl Future<Output = Option<ExecEvent>> + Send;

    /// Resolves when an event that the listener does not take is not waited for any longer; `last`
    /// says that it is the last one. The source decides what comes instead.
    fn interrupted(&self, last: bool) -> impl Future<Output = ()> + Send;
}

/// Hands events on until the last one, or until the listener has gone.
pub(crate) async fn deliver(mut source: impl EventSource, listener: mpsc::Sender<ExecEvent>) {
    loop {
        let event = tokio::select! {
            biased;
            () = listener.closed() => return,
            event = source.next() => event,
        };
        let Some(event) = event else { return };
        let last = event.is_last();
        let gone = tokio::select! {
            biased;
            sent = listener.send(event) => sent.is_err(),
            // The end must reach even a listener that was behind: what it has not taken stays in
            // the channel, this one piece is dropped.
            () = source.interrupted(last) => last,
        };
        if last || gone {
            return;
        }
    }
}
