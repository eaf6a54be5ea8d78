//! The threads that own the connections: one writes, a few read, one copies the log back into the
//! database. SQLite blocks, so nothing of it ever runs on an async thread.
//!
//! Group commit: whatever is waiting when the writer comes round goes into one transaction. When
//! anything in it fails, it is rolled back and each write is done again on its own, so one bad
//! write never takes its neighbours along. Hence a job may run twice and must not remember.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
use crate::sqlite::failed;
use crate::sqlite::open::Opened;

/// How many writes or reads may wait; more wait in their callers.
const QUEUE_LENGTH: usize = 256;
/// How many writes go into one transaction.
const MAX_BATCH: usize = 64;
/// After how many transactions the log is copied back.
const CHECKPOINT_EVERY: usize = 250;

/// Handles to the threads.
#[derive(Debug)]
pub(crate) struct Workers {
    writer: mpsc::Sender<Message>,
    readers: Vec<mpsc::Sender<Message>>,
    next_reader: AtomicUsize,
}

enum Message {
    Job(Box<dyn Job>),
    Stop(oneshot::Sender<()>),
}

trait Job: Send {
    /// Does the work; the outcome is kept until `finish`.
    fn apply(&mut self, connection: &Connection) -> Result<(), StoreError>;
    /// Tells the caller: the kept outcome when the transaction was committed, else why not.
    fn finish(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<F, T> {
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Job for Call<F, T>
where
    F: FnMut(&Connection) -> Result<T, StoreError> + Send,
    T: Send,
{
    fn apply(&mut self, connection: &Connection) -> Result<(), StoreError> {
        self.value = Some((self.work)(connection)?);
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), StoreError>) {
        let value = self.value;
        let result = committed.and_then(|()| value.ok_or(StoreError::Closed));
        // A caller that has gone away no longer wants to know.
        let _ = self.reply.send(result);
    }
}

impl Workers {
    pub(crate) fn start(opened: Opened) -> Result<Self, StoreError> {
        let Opened {
            writer,
            readers,
            checkpointer,
            lock,
        } = opened;
        let checkpointer = checkpointer.map(start_checkpointer).transpose()?;
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
        spawn("store-writer", move || {
            write_all(writer, receiver, checkpointer, lock);
        })?;
        let mut reader_senders = Vec::new();
        for connection in readers {
            let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
            spawn("store-reader", move || read_all(&connection, receiver))?;
            reader_senders.push(sender);
        }
        Ok(Self {
            writer: sender,
            readers: reader_senders,
            next_reader: AtomicUsize::new(0),
        })
    }

    /// Runs `work` in a transaction of the writer; returns when it is committed. Dropping the
    /// returned future does not undo what has been queued.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        call(&self.writer, work).await
    }

    /// Runs `work` on a reader's connection; it sees everything committed before.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.next_reader.fetch_add(1, Ordering::Relaxed);
        let reader = match self.readers.len() {
            0 => &self.writer,
            count => &self.readers[turn % count],
        };
        call(reader, work).await
    }

    /// Ends the threads after what is queued; returns when the files are closed.
    pub(crate) async fn stop(&self) {
        for worker in self.readers.iter().chain([&self.writer]) {
            let (done, ended) = oneshot::channel();
            if worker.send(Message::Stop(done)).await.is_ok() {
                // An error means that the thread has ended already.
                let _ = ended.await;
            }
        }
    }
}

async fn call<T: Send + 'static>(
    worker: &mpsc::Sender<Message>,
    work: impl FnMut(&Connection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (reply, answer) = oneshot::channel();
    let job = Box::new(Call {
        work,
        value: None,
        reply,
    });
    let closed = |_| StoreError::Closed;
    worker
        .send(Message::Job(job))
        .await
        .map_err(|_| StoreError::Closed)?;
    answer.await.map_err(closed)?
}

fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, StoreError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(body);
    started.map_err(|error| StoreError::Failed {
        step: "start a thread",
        reason: error.to_string(),
    })
}

/// The thread that copies the log back.
struct Checkpointer {
    wake: std::sync::mpsc::SyncSender<()>,
    thread: thread::JoinHandle<()>,
}

fn write_all(
    connection: Connection,
    mut queue: mpsc::Receiver<Message>,
    checkpointer: Option<Checkpointer>,
    lock: Option<File>,
) {
    let mut transactions = 0_usize;
    let mut stop = None;
    while stop.is_none() {
        let Some(first) = queue.blocking_recv() else {
            break;
        };
        let mut batch = Vec::new();
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Job(job) => batch.push(job),
                Message::Stop(done) => {
                    stop = Some(done);
                    break;
                }
            }
            next = (batch.len() < MAX_BATCH)
                .then(|| queue.try_recv().ok())
                .flatten();
        }
        commit(&connection, batch);
        transactions += 1;
        if let Some(checkpointer) = &checkpointer
            && transactions.is_multiple_of(CHECKPOINT_EVERY)
        {
            // A checkpoint that is under way already will do.
            let _ = checkpointer.wake.try_send(());
        }
    }
    if let Some(Checkpointer { wake, thread }) = checkpointer {
        drop(wake);
        if thread.join().is_err() {
            tracing::error!("store checkpoint thread panicked");
        }
    }
    // Closing the last connection copies the log back; the lock goes after it.
    if let Err((_, error)) = connection.close() {
        tracing::warn!(%error, "store did not close cleanly");
    }
    drop(lock);
    drop(queue);
    if let Some(done) = stop {
        let _ = done.send(());
    }
}

fn commit(connection: &Connection, mut batch: Vec<Box<dyn Job>>) {
    if batch.len() > 1 && transaction(connection, &mut batch).is_ok() {
        for job in batch {
            job.finish(Ok(()));
        }
        return;
    }
    for job in batch {
        let mut alone = [job];
        let committed = transaction(connection, &mut alone);
        let [job] = alone;
        job.finish(committed);
    }
}

fn transaction(connection: &Connection, jobs: &mut [Box<dyn Job>]) -> Result<(), StoreError> {
    connection
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(failed("begin a transaction"))?;
    let mut outcome = jobs.iter_mut().try_for_each(|job| job.apply(connection));
    if outcome.is_ok() {
        outcome = connection
            .execute_batch("COMMIT")
            .map_err(failed("commit a transaction"));
    }
    // A full disk may have rolled it back already.
    if outcome.is_err()
        && !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(%error, "store could not roll a transaction back");
    }
    outcome
}

fn read_all(connection: &Connection, mut queue: mpsc::Receiver<Message>) {
    while let Some(message) = queue.blocking_recv() {
        match message {
            Message::Job(mut job) => {
                let outcome = job.apply(connection);
                job.finish(outcome);
            }
            Message::Stop(done) => {
                let _ = done.send(());
                return;
            }
        }
    }
}

fn start_checkpointer(connection: Connection) -> Result<Checkpointer, StoreError> {
    let (wake, woken) = std::sync::mpsc::sync_channel::<()>(1);
    let thread = spawn("store-checkpoint", move || {
        while woken.recv().is_ok() {
            let done = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            if let Err(error) = done {
                tracing::warn!(%error, "store log could not be copied back");
            }
        }
    })?;
    Ok(Checkpointer { wake, thread })
}

/// So that the handle can be shared.
pub(crate) type SharedWorkers = Arc<Workers>;
