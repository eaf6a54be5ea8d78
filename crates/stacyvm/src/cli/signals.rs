//! The signals that `run` and `exec` hand on.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Interrupt, quit, hang-up, terminate; and changes of the terminal's size.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    quit: Signal,
    hang_up: Signal,
    terminate: Signal,
    resize: Signal,
}

impl Signals {
    /// From now on they do not end this program.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            hang_up: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            resize: listen(SignalKind::window_change())?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> SignalEvent {
        tokio::select! {
            _ = self.interrupt.recv() => SignalEvent::Signal(2),
            _ = self.quit.recv() => SignalEvent::Signal(3),
            _ = self.hang_up.recv() => SignalEvent::Signal(1),
            _ = self.terminate.recv() => SignalEvent::Signal(15),
            _ = self.resize.recv() => SignalEvent::Resize,
        }
    }

    /// The number of the next signal that asks for an end.
    pub(crate) async fn next_end(&mut self) -> i32 {
        loop {
            if let SignalEvent::Signal(number) = self.next().await {
                return number;
            }
        }
    }
}

/// What the signal was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignalEvent {
    /// One that asks for an end, by its number (see signal(7)).
    Signal(i32),
    /// The terminal has another size.
    Resize,
}
