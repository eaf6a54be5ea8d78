//! Long work on threads of its own, away from the one thread that serves.
//!
//! Only a few threads run at once, each for one piece of work. The runtime's own pool is not used
//! because it panics when the kernel refuses a thread, as it does in a sandbox at its process limit.

use std::sync::Arc;
use std::thread;

use stacyvm_proto::message::{Code, Failure};
use tokio::sync::{Semaphore, oneshot};

use crate::replies::failure;

/// How many threads run at once.
const MAX_THREADS: usize = 4;
/// Size of a thread's stack, bytes; the work is iterative.
const STACK_SIZE: usize = 512 * 1024;

/// Runs work on threads, a bounded number at once.
#[derive(Clone, Debug)]
pub(crate) struct Blocking {
    permits: Arc<Semaphore>,
}

impl Default for Blocking {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_THREADS)),
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
        let permit = self
            .permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| closed())?;
        let (answered, answer) = oneshot::channel();
        thread::Builder::new()
            .stack_size(STACK_SIZE)
            .spawn(move || {
                // The caller may have stopped waiting.
                let _ = answered.send(work());
                drop(permit);
            })
            .map_err(|_| failure(Code::Limit, "the sandbox may have no more processes"))?;
        answer
            .await
            .map_err(|_| failure(Code::Failed, "the agent failed at this operation"))?
    }
}
