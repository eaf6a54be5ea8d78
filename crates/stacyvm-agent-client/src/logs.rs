//! Following the log of what commands print.

use stacyvm_proto::message::{self, Answer, Request};
use tokio::sync::mpsc;

use crate::unary::{self, unexpected};
use crate::{Agent, LogBatch, LogReceiver, OpError};

/// The capability of agents that can follow the log.
const CAPABILITY: &str = "logs-follow";
/// How many batches wait for a reader; each is one message of at most 64 KiB.
const BATCH_QUEUE: usize = 4;

impl Agent {
    /// The last lines that commands printed, then every line as it is printed.
    ///
    /// # Errors
    /// `Unsupported` when the agent is too old for it, `Gone` when the connection is lost.
    pub async fn follow_logs(&self, lines: usize) -> Result<LogReceiver, OpError> {
        // An old agent would answer with the lines alone, as if nothing came after them.
        if !self
            .capabilities()
            .iter()
            .any(|capability| capability == CAPABILITY)
        {
            let message = "this sandbox's agent is older than followed logs (follow)";
            return Err(OpError::Unsupported(message.to_owned()));
        }
        let mut stream = self.open(Request::Logs(message::Logs {
            lines: u32::try_from(lines).unwrap_or(u32::MAX),
            follow: true,
        }))?;
        let (queue, batches) = mpsc::channel(BATCH_QUEUE);
        tokio::spawn(async move {
            loop {
                let answer = tokio::select! {
                    answer = unary::next(&mut stream.receiver) => answer,
                    () = queue.closed() => return,
                };
                let batch = match answer {
                    Ok(Answer::Paths(part)) => Ok(LogBatch {
                        skipped: part.skipped,
                        lines: part.paths,
                    }),
                    Ok(Answer::Done(_)) => return,
                    Ok(_) => Err(unexpected()),
                    Err(error) => Err(error),
                };
                let last = batch.is_err();
                // The reader may be gone.
                if queue.send(batch).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(batches)
    }
}
