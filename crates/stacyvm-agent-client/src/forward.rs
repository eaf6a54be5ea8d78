//! Connections to ports inside.

use bytes::Bytes;
use stacyvm_proto::DATA;
use stacyvm_proto::message::{self, Answer, Request};
use stacyvm_proto::mux::Event;
use tokio::sync::mpsc;

use crate::convert::{failure, lost};
use crate::files::{CHUNK_QUEUE, decode, send_chunks};
use crate::unary::{self, unexpected};
use crate::{Agent, ByteReceiver, OpError};

impl Agent {
    /// Connects to a TCP port on the sandbox's loopback. The end of `inbound` closes that
    /// direction only; dropping the receiver closes the connection.
    ///
    /// # Errors
    /// `NotFound` when nothing listens there.
    pub async fn forward(
        &self,
        port: u16,
        mut inbound: mpsc::Receiver<Bytes>,
    ) -> Result<ByteReceiver, OpError> {
        let mut stream = self.open(Request::Forward(message::Forward { port: port.into() }))?;
        let Answer::Opened(_) = unary::next(&mut stream.receiver).await? else {
            return Err(unexpected());
        };
        let (queue, outbound) = mpsc::channel(CHUNK_QUEUE);
        let sender = stream.sender;
        let mut receiver = stream.receiver;
        let send = async move {
            while let Some(bytes) = inbound.recv().await {
                if sender.send(DATA, bytes).await.is_err() {
                    return;
                }
            }
            // The other side may have ended the stream already.
            let _ = sender.finish(DATA);
        };
        let receive = async move {
            let mut queue = Some(queue);
            loop {
                let failed = match receiver.receive().await {
                    Event::Data(channel, bytes) => {
                        let length = bytes.len();
                        if let Some(queue) = &queue
                            && send_chunks(queue, bytes).await.is_err()
                        {
                            return;
                        }
                        receiver.release(channel, length);
                        continue;
                    }
                    // The agent's direction is closed; the other may go on.
                    Event::Finished(_) => {
                        queue = None;
                        continue;
                    }
                    Event::Message(message) => match decode(message) {
                        Some(Answer::Done(_)) => return,
                        Some(Answer::Failure(failed)) => failure(failed),
                        _ => continue,
                    },
                    Event::Closed(_) => lost(),
                };
                if let Some(queue) = &queue {
                    // The receiver may be gone.
                    let _ = queue.send(Err(failed)).await;
                }
                return;
            }
        };
        tokio::spawn(async move {
            tokio::pin!(send, receive);
            tokio::select! {
                () = &mut receive => {}
                () = &mut send => receive.await,
            }
        });
        Ok(outbound)
    }
}
