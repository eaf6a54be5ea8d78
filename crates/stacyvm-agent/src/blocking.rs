//! Work that may take long, off the one thread that serves.
//!
//! At most a few threads at once, each for one piece of work. The runtime's own pool is not used:
//! it panics when the kernel gives no thread, and in a sandbox at its process limit it does not.

use std::sync::Arc;
use std::thread;

use stacyvm_proto::message::{Code, Failure};
use tokio::sync::{Semaphore, oneshot};

use crate::failure::failure;

/// Threads at once.
const THREADS: usize = 4;
/// Bytes of a thread's stack; the work is iterative.
const STACK: usize = 512 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Blocking {
    turns: Arc<Semaphore>,
}

impl Default for Blocking {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(THREADS)),
        }
    }
}

impl Blocking {
    /// Runs `work` on a thread of its own as soon as one is free. The thread goes on when the
    /// answer is no longer awaited.
    pub(crate) async fn run<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Failure> + Send + 'static,
    {
        let closed = || failure(Code::Failed, "the agent is ending");
        let turn = self
            .turns
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let (answered, answer) = oneshot::channel();
        thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                // Nobody may be waiting any more.
                let _ = answered.send(work());
                drop(turn);
            })
            .map_err(|_| failure(Code::Limit, "the sandbox may have no more processes"))?;
        answer
            .await
            .map_err(|_| failure(Code::Failed, "the agent failed at this operation"))?
    }
}
