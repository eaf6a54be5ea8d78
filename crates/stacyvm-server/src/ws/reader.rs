//! The reading side of a session.

use std::time::Duration;

use axum::extract::ws::Message;
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use stacyvm_orchestrator::ExecControl;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client_input::ClientInput;
use super::input::Input;
use super::progress::Progress;
use super::socket::Socket;
use crate::error::Failure;

/// A client that sends nothing for this long, not even a pong, is taken for gone.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads the frames of the client.
pub(crate) struct SocketReader<'a, S> {
    pub(crate) progress: &'a Progress,
    pub(crate) stream: &'a mut SplitStream<S>,
    /// None in the dialect in which clients send nothing more.
    pub(crate) input: Option<Input>,
    pub(crate) control: mpsc::Sender<ExecControl>,
    /// Failures that the writer reports.
    pub(crate) failures: mpsc::Sender<Failure>,
}

impl<S: Socket> SocketReader<'_, S> {
    /// Handles the frames of the client until it is gone.
    pub(crate) async fn run(mut self) {
        loop {
            let text = match timeout(IDLE_TIMEOUT, self.stream.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
                Ok(Some(Ok(Message::Binary(_)))) => {
                    self.report("binary frames are not understood");
                    continue;
                }
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => return,
                Err(_) if self.progress.since() < IDLE_TIMEOUT => continue,
                Err(_) => {
                    tracing::debug!("a client of a command is idle for too long");
                    return;
                }
            };
            let Some(input) = &mut self.input else {
                continue;
            };
            let word = match ClientInput::parse(text) {
                Ok(ClientInput::Stdin(bytes)) => {
                    input.push(bytes).await;
                    continue;
                }
                Ok(ClientInput::CloseStdin) => {
                    input.close();
                    continue;
                }
                Ok(ClientInput::Resize(size)) => ExecControl::Resize(size),
                Ok(ClientInput::Signal(signal)) => ExecControl::Signal(signal),
                Ok(ClientInput::Ignored) => continue,
                Err(failure) => {
                    // Failures beyond those that wait are dropped.
                    let _ = self.failures.try_send(failure);
                    continue;
                }
            };
            // A command that has just ended takes no control messages.
            let _ = self.control.send(word).await;
        }
    }

    fn report(&self, words: &'static str) {
        let _ = self.failures.try_send(Failure::bad_request(words));
    }
}
