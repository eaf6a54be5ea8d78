//! One socket to one launcher, with any number of launches that wait for their answers.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::net::{Shutdown, shutdown};
use stacyvm_launcher::control::{LaunchRequest, Launched, MAX_PACKET, Reply, Request};
use stacyvm_sys::fds;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use super::LaunchError;
use crate::readiness;

type Answer = Result<(Launched, OwnedFd), LaunchError>;

/// A connection and the launches that wait for an answer on it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) pid: u32,
    socket: AsyncFd<OwnedFd>,
    seq: AtomicU64,
    /// None once the connection is closed.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    open: watch::Sender<bool>,
}

/// A launch that waits for its answer on a connection.
#[derive(Debug)]
pub(super) struct PendingLaunch {
    /// The number that no other request on this connection has.
    pub(super) seq: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Connection {
    /// Takes over the socket and starts to read answers from it.
    pub(super) fn start(socket: OwnedFd, pid: u32) -> io::Result<Arc<Self>> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let connection = Arc::new(Self {
            pid,
            socket: readiness::watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            seq: AtomicU64::new(1),
            waiting: Mutex::new(Some(HashMap::new())),
            open: watch::Sender::new(true),
        });
        tokio::spawn(connection.clone().read_answers());
        Ok(connection)
    }

    /// Reserves a number for a launch; none once the connection is closed.
    pub(super) fn reserve(&self) -> Option<PendingLaunch> {
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.waiting.lock().as_mut()?.insert(seq, sender);
        Some(PendingLaunch { seq, answer })
    }

    /// Sends the launch that has the reserved number and waits for its answer.
    pub(super) async fn launch(
        &self,
        request: Box<LaunchRequest>,
        fds: Vec<OwnedFd>,
        pending: PendingLaunch,
    ) -> Answer {
        let packet = match serde_json::to_vec(&Request::Launch(request)) {
            Ok(packet) if packet.len() <= MAX_PACKET => packet,
            refused => {
                self.waiting
                    .lock()
                    .as_mut()
                    .and_then(|waiting| waiting.remove(&pending.seq));
                let too_long = || io::ErrorKind::InvalidInput.into();
                let error = refused.map_or_else(io::Error::from, |_| too_long());
                return Err(LaunchError::Socket(error));
            }
        };
        // From here on the launcher may have the request: whatever fails is `Lost`, not `Socket`.
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, |socket| send(socket, &packet, &fds))
            .await;
        // These copies must be closed, so that the other ends notice the sandbox's death.
        drop(fds);
        if sent.is_err() {
            self.close();
        }
        pending.answer.await.unwrap_or(Err(LaunchError::Lost))
    }

    /// Resolves when the launcher has ended or `close` was called.
    pub(super) async fn closed(&self) {
        let _ = self.open.subscribe().wait_for(|open| !*open).await;
    }

    /// Ends the connection; every launch that waits on it fails.
    pub(super) fn close(&self) {
        let _ = shutdown(self.socket.get_ref(), Shutdown::Both);
        if let Some(waiting) = self.waiting.lock().take() {
            for (_, sender) in waiting {
                let _ = sender.send(Err(LaunchError::Lost));
            }
        }
        self.open.send_replace(false);
    }

    async fn read_answers(self: Arc<Self>) {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, |socket| receive(socket, &mut buffer))
                .await;
            match received {
                Ok(Some((length, pidfd))) => self.answer(&buffer[..length], pidfd),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "the launcher's socket failed");
                    break;
                }
            }
        }
        self.close();
    }

    fn answer(&self, packet: &[u8], pidfd: Option<OwnedFd>) {
        let reply: Reply = match serde_json::from_slice(packet) {
            Ok(reply) => reply,
            Err(error) => {
                tracing::warn!(%error, "the launcher said something that is no answer");
                return;
            }
        };
        let sender = self
            .waiting
            .lock()
            .as_mut()
            .and_then(|waiting| waiting.remove(&reply.seq));
        let Some(sender) = sender else { return };
        let answer = match (reply.result, pidfd) {
            (Ok(launched), Some(pidfd)) => Ok((launched, pidfd)),
            (Ok(_), None) => Err(LaunchError::Lost),
            (Err(failure), _) => Err(LaunchError::Failed(failure)),
        };
        let _ = sender.send(answer);
    }
}

/// Tries to send one packet; `WouldBlock` when the launcher has not read the ones before it.
fn send(socket: &OwnedFd, packet: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    Ok(fds::send(socket, packet, &descriptors)?)
}

/// One packet and the descriptor descriptors it; none at the end of the connection.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Option<OwnedFd>)>> {
    let (length, fds) = fds::receive(socket, buffer)?;
    Ok((length > 0).then(|| (length, fds.into_iter().next())))
}
