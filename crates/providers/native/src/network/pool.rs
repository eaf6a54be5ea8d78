//! Networks made ahead of the sandboxes that will have them.
//!
//! A thread of its own makes them (see `builder`). The descriptor of its namespace keeps a network:
//! when it is closed and no process is in the namespace, the kernel removes everything, the host's
//! end of the veth pair included. So nothing is left behind when a process is killed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;
use stacyvm_firewall::FirewallError;
use tokio::sync::oneshot;

use super::addresses::Numbers;
use super::builder::{NamespaceBuilder, PreparedNetwork};
use super::error::NetworkError;
use super::layout::NetworkLayout;

/// How long the thread waits after a failure when no sandbox waits for a network.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long the thread waits when a name was taken, so that a full range costs no processor time.
const NAME_TAKEN_DELAY: Duration = Duration::from_millis(1);

type Answer = Result<PreparedNetwork, NetworkError>;

/// The thread and the networks that it has made.
#[derive(Debug)]
pub(crate) struct NetworkPool {
    queue: Arc<PoolQueue>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The networks that are ready and the sandboxes that wait for one.
#[derive(Debug)]
struct PoolQueue {
    state: Mutex<QueueState>,
    /// How many networks are kept ready.
    wanted: usize,
    /// Wakes the thread when it may have work.
    work: Condvar,
}

#[derive(Debug)]
struct QueueState {
    numbers: Numbers,
    ready: VecDeque<PreparedNetwork>,
    waiting: VecDeque<oneshot::Sender<Answer>>,
    stopping: bool,
}

impl NetworkPool {
    /// Makes one network to see that it can be done, and starts the thread, which goes on.
    pub(crate) fn start(
        layout: NetworkLayout,
        numbers: Numbers,
        ready: usize,
    ) -> Result<Self, NetworkError> {
        let queue = Arc::new(PoolQueue {
            state: Mutex::new(QueueState {
                numbers,
                ready: VecDeque::new(),
                waiting: VecDeque::new(),
                stopping: false,
            }),
            wanted: ready.max(1),
            work: Condvar::new(),
        });
        let (sender, first) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("native-network".to_owned())
            .spawn({
                let queue = queue.clone();
                move || work(&layout, &queue, &sender)
            })
            .map_err(|_| NetworkError::Closed)?;
        let pool = Self {
            queue,
            thread: Mutex::new(Some(thread)),
        };
        first.recv().unwrap_or(Err(NetworkError::Closed))?;
        Ok(pool)
    }

    /// Takes a network, a ready one if there is one.
    pub(crate) async fn take(&self) -> Answer {
        let waiting = {
            let mut state = self.queue.state();
            if let Some(made) = state.ready.pop_front() {
                self.queue.work.notify_one();
                return Ok(made);
            }
            if state.stopping {
                return Err(NetworkError::Closed);
            }
            let (sender, waiting) = oneshot::channel();
            state.waiting.push_back(sender);
            self.queue.work.notify_one();
            waiting
        };
        waiting.await.unwrap_or(Err(NetworkError::Closed))
    }

    /// Whether a network has this number.
    pub(crate) fn is_taken(&self, number: u32) -> bool {
        self.queue.state().numbers.is_taken(number)
    }

    /// Gives a number back, once nothing of its network is used.
    pub(crate) fn free(&self, number: u32) {
        self.queue.state().numbers.free(number);
    }

    /// Ends the thread and closes the networks that are ready.
    pub(crate) fn stop(&self) {
        {
            let mut state = self.queue.state();
            state.stopping = true;
            state.waiting.clear();
            state.ready.clear();
        }
        self.queue.work.notify_one();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl PoolQueue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }
}

fn work(
    layout: &NetworkLayout,
    queue: &PoolQueue,
    first: &std::sync::mpsc::Sender<Result<(), NetworkError>>,
) {
    let mut builder = match NamespaceBuilder::open(layout) {
        Ok(builder) => builder,
        Err(errno) => {
            let _ = first.send(Err(NetworkError::at("open the host's network")(errno)));
            return;
        }
    };
    match queue.make_next(&mut builder) {
        Some(Ok(prepared)) => {
            queue.state().ready.push_back(prepared);
            let _ = first.send(Ok(()));
        }
        Some(Err(error)) => {
            let _ = first.send(Err(error));
            return;
        }
        None => return,
    }
    while let Some(made) = queue.make_next(&mut builder) {
        let (failed, lost) = (made.is_err(), is_lost(&made));
        queue.hand_out(made);
        if lost {
            queue.state().stopping = true;
            return;
        }
        if failed {
            queue.delay_retry();
        }
    }
}

/// Whether the thread is in the wrong namespace, where it must not do anything more.
fn is_lost(made: &Answer) -> bool {
    let lost = Errno::NOTRECOVERABLE;
    matches!(made, Err(NetworkError::Kernel { errno, .. }) if *errno == lost)
}

impl PoolQueue {
    /// Waits until a network is wanted and makes it; none once the pool is stopped.
    fn make_next(&self, builder: &mut NamespaceBuilder<'_>) -> Option<Answer> {
        loop {
            let Some(number) = self.next_number()? else {
                return Some(Err(NetworkError::Full));
            };
            let made = builder.make(number);
            if made.is_err() {
                self.state().numbers.free(number);
            }
            match made {
                // The veth pair of the number's last sandbox is not removed yet: the next number
                // will do.
                Err(NetworkError::Kernel {
                    errno: Errno::EXIST,
                    ..
                }) => std::thread::sleep(NAME_TAKEN_DELAY),
                made => return Some(made),
            }
        }
    }

    /// Waits until a network is wanted and takes a number for it. None once the pool is stopped, and
    /// no number when all are taken.
    fn next_number(&self) -> Option<Option<u32>> {
        let mut state = self.state();
        while !state.stopping && state.ready.len() >= self.wanted && state.waiting.is_empty() {
            self.work.wait(&mut state);
        }
        (!state.stopping).then(|| state.numbers.take())
    }

    /// Waits a moment, unless a sandbox waits for a network.
    fn delay_retry(&self) {
        let mut state = self.state();
        if state.waiting.is_empty() && !state.stopping {
            self.work.wait_for(&mut state, RETRY_DELAY);
        }
    }

    /// Gives a network to the first waiting sandbox, or a failure to all of them.
    fn hand_out(&self, made: Answer) {
        let mut state = self.state();
        match made {
            Ok(made) => {
                let mut made = Ok(made);
                while let Some(waiting) = state.waiting.pop_front() {
                    match waiting.send(made) {
                        Ok(()) => return,
                        // That sandbox is not wanted any more.
                        Err(back) => made = back,
                    }
                }
                if let Ok(made) = made
                    && !state.stopping
                {
                    state.ready.push_back(made);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a network could not be made");
                let text = error.to_string();
                let mut error = Some(error);
                for waiting in state.waiting.drain(..) {
                    let reported = error
                        .take()
                        .unwrap_or_else(|| FirewallError::Refused(text.clone()).into());
                    let _ = waiting.send(Err(reported));
                }
            }
        }
    }
}
