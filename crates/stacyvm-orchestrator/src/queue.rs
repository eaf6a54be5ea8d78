//! Spawns that wait for room, first come first served.
//!
//! ```text
//!  full ─> join ─> wait for the head ─> try ─> admitted: leave, the next is at the head
//!            │            │              │ ^
//!            │            │         full v │ a sandbox has gone
//!            │            │             wait
//!       queue full     time over or client gone: leave
//! ```
//!
//! The head of the queue is a semaphore with one permit, which tokio hands out in the order of
//! asking. Only the spawn at the head tries to be admitted; a spawn that arrives while others wait
//! joins the queue without trying.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use stacyvm_types::OwnerId;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// The spawns that wait for room.
#[derive(Debug)]
pub(crate) struct SpawnQueue {
    length: usize,
    timeout: Duration,
    /// Its one permit belongs to the spawn at the head.
    head: Semaphore,
    /// The owners of the spawns that wait, in no order.
    waiting: Mutex<Vec<Option<OwnerId>>>,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueRefusal {
    /// The queue is as long as it may be.
    Full,
    /// The spawns of this owner that wait already take all sandboxes that the owner may still have.
    OfOwner,
}

/// Why a wait ended without another try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    TimedOut,
    /// The server is stopping.
    Closed,
}

/// A slot in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct QueueSlot<'a> {
    queue: &'a SpawnQueue,
    owner: Option<&'a OwnerId>,
    deadline: Instant,
    head: Option<SemaphorePermit<'a>>,
}

impl SpawnQueue {
    /// A queue of at most `length` spawns, 0 for none, each of which waits at most `timeout`.
    pub(crate) fn new(length: usize, timeout: Duration) -> Self {
        Self {
            length,
            timeout,
            head: Semaphore::new(1),
            waiting: Mutex::default(),
        }
    }

    /// Whether spawns may wait at all.
    pub(crate) fn is_on(&self) -> bool {
        self.length > 0
    }

    /// How long a spawn waits at most.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether any spawn waits.
    pub(crate) fn is_occupied(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Whether a spawn of this owner, who may have so many more sandboxes, would find a slot.
    pub(crate) fn has_slot(&self, owner: Option<&OwnerId>, left: Option<u64>) -> bool {
        self.check(&self.lock(), owner, left).is_ok()
    }

    /// Joins the queue at its end.
    pub(crate) fn join<'a>(
        &'a self,
        owner: Option<&'a OwnerId>,
        left: Option<u64>,
    ) -> Result<QueueSlot<'a>, QueueRefusal> {
        let mut waiting = self.lock();
        self.check(&waiting, owner, left)?;
        waiting.push(owner.cloned());
        Ok(QueueSlot {
            queue: self,
            owner,
            deadline: Instant::now() + self.timeout,
            head: None,
        })
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Ends every wait with [`WaitEnd::Closed`].
    pub(crate) fn close(&self) {
        self.head.close();
    }

    fn check(
        &self,
        waiting: &[Option<OwnerId>],
        owner: Option<&OwnerId>,
        left: Option<u64>,
    ) -> Result<(), QueueRefusal> {
        if waiting.len() >= self.length {
            return Err(QueueRefusal::Full);
        }
        // Else one owner could fill the queue with spawns that will be refused at its head.
        if let (Some(_), Some(left)) = (owner, left) {
            let same = waiting.iter().filter(|other| other.as_ref() == owner);
            if same.count() as u64 >= left {
                return Err(QueueRefusal::OfOwner);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<OwnerId>>> {
        // A list is whole after any panic of its users: each change is one call.
        self.waiting.lock()
    }
}

impl QueueSlot<'_> {
    /// Returns when it is worth trying: when the spawn has reached the head, and then each time that
    /// `freed` reports a sandbox that has gone.
    pub(crate) async fn wait(&mut self, freed: &Notify) -> Result<(), WaitEnd> {
        let queue = self.queue;
        if self.head.is_none() {
            let permit = timeout_at(self.deadline, queue.head.acquire()).await;
            let permit = permit.map_err(|_| WaitEnd::TimedOut)?;
            self.head = Some(permit.map_err(|_| WaitEnd::Closed)?);
            return Ok(());
        }
        let closed = async {
            // This slot holds the only permit, so this ends only when the queue is closed.
            let _ = queue.head.acquire().await;
        };
        let next = async {
            tokio::select! {
                () = freed.notified() => Ok(()),
                () = closed => Err(WaitEnd::Closed),
            }
        };
        timeout_at(self.deadline, next)
            .await
            .unwrap_or(Err(WaitEnd::TimedOut))
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock();
        let found = waiting
            .iter()
            .position(|other| other.as_ref() == self.owner);
        if let Some(found) = found {
            waiting.swap_remove(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    fn ask<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test(start_paused = true)]
    async fn spawns_reach_the_head_in_order_and_a_newcomer_sees_the_queue() {
        let (queue, freed) = (SpawnQueue::new(3, Duration::from_secs(9)), Notify::new());
        assert!(queue.is_on() && !queue.is_occupied());
        let mut first = queue.join(None, None).unwrap();
        let mut second = queue.join(None, None).unwrap();
        let mut third = queue.join(None, None).unwrap();
        assert_eq!(queue.join(None, None).unwrap_err(), QueueRefusal::Full);
        assert_eq!(first.wait(&freed).await, Ok(()));
        {
            // The third waits for the head behind the second, whichever is woken first.
            let mut second = pin!(second.wait(&freed));
            let mut third = pin!(third.wait(&freed));
            assert!(ask(second.as_mut()).is_pending());
            assert!(ask(third.as_mut()).is_pending());
            freed.notify_one();
            // One notification wakes only the spawn at the head.
            assert_eq!(first.wait(&freed).await, Ok(()));
            assert!(queue.is_occupied());
            drop(first);
            assert!(ask(third.as_mut()).is_pending());
            assert_eq!(ask(second.as_mut()), Poll::Ready(Ok(())));
            assert!(ask(third.as_mut()).is_pending());
        }
        drop(second);
        drop(third);
        assert!(!queue.is_occupied());
    }

    #[tokio::test(start_paused = true)]
    async fn time_runs_from_joining_and_closing_ends_every_wait() {
        let (queue, freed) = (SpawnQueue::new(3, Duration::from_secs(9)), Notify::new());
        let mut head = queue.join(None, None).unwrap();
        assert_eq!(head.wait(&freed).await, Ok(()));
        let mut next = queue.join(None, None).unwrap();
        assert_eq!(next.wait(&freed).await, Err(WaitEnd::TimedOut));
        assert_eq!(head.wait(&freed).await, Err(WaitEnd::TimedOut));
        let mut later = queue.join(None, None).unwrap();
        let mut waits = pin!(later.wait(&freed));
        assert!(ask(waits.as_mut()).is_pending());
        queue.close();
        assert_eq!(waits.await, Err(WaitEnd::Closed));
    }

    #[test]
    fn an_owner_has_as_many_slots_as_sandboxes_left() {
        let queue = SpawnQueue::new(5, Duration::from_secs(9));
        let (alice, bob) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let slot = queue.join(Some(&alice), Some(1)).unwrap();
        let refused = queue.join(Some(&alice), Some(1));
        assert_eq!(refused.unwrap_err(), QueueRefusal::OfOwner);
        assert!(!queue.has_slot(Some(&alice), Some(1)));
        assert!(queue.has_slot(Some(&bob), Some(1)));
        assert!(queue.has_slot(Some(&alice), None));
        drop(slot);
        assert!(queue.has_slot(Some(&alice), Some(1)));
    }
}
