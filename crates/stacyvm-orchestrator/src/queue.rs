//! Spawns that wait for room, first come first served.
//!
//! ```text
//!  full ─> join ─> wait for the turn ─> try ─> admitted: leave, the next has the turn
//!            │            │              │ ^
//!            │            │         full v │ a sandbox has gone
//!            │            │             wait
//!       queue full     time over or client gone: leave
//! ```
//!
//! The turn is a semaphore of one, which tokio hands out in the order of asking. Only who has the
//! turn tries; who comes while others wait gets in line without trying.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use stacyvm_types::OwnerId;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// The queue.
#[derive(Debug)]
pub(crate) struct SpawnQueue {
    length: usize,
    timeout: Duration,
    turn: Semaphore,
    /// The owners of the spawns that wait, in no order.
    waiting: Mutex<Vec<Option<OwnerId>>>,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueRefusal {
    /// The line is as long as it may be.
    Full,
    /// What this owner has waiting fills all that they may have.
    OfOwner,
}

/// Why a wait is over without a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitEnd {
    TimedOut,
    /// The server stops.
    Closed,
}

/// A slot in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct QueueSlot<'a> {
    queue: &'a SpawnQueue,
    owner: Option<&'a OwnerId>,
    deadline: Instant,
    turn: Option<SemaphorePermit<'a>>,
}

impl SpawnQueue {
    /// A line of at most `length` spawns, 0 for none, each of which waits at most `timeout`.
    pub(crate) fn new(length: usize, timeout: Duration) -> Self {
        Self {
            length,
            timeout,
            turn: Semaphore::new(1),
            waiting: Mutex::default(),
        }
    }

    /// Whether there is a line at all.
    pub(crate) fn is_on(&self) -> bool {
        self.length > 0
    }

    /// How long a spawn waits at most.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether anybody waits.
    pub(crate) fn is_occupied(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Whether a spawn of this owner, who may have so many more sandboxes, would find a slot.
    pub(crate) fn has_slot(&self, owner: Option<&OwnerId>, left: Option<u64>) -> bool {
        self.check(&self.lock(), owner, left).is_ok()
    }

    /// Gets in line at its end.
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
            turn: None,
        })
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Sends everybody who waits away.
    pub(crate) fn close(&self) {
        self.turn.close();
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
        // Else one owner could fill the line with spawns that will be refused at its head.
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
    /// Returns when it is worth trying: when the turn has come, and then each time that `freed`
    /// tells of a sandbox that has gone.
    pub(crate) async fn wait(&mut self, freed: &Notify) -> Result<(), WaitEnd> {
        let queue = self.queue;
        if self.turn.is_none() {
            let turn = timeout_at(self.deadline, queue.turn.acquire()).await;
            let turn = turn.map_err(|_| WaitEnd::TimedOut)?;
            self.turn = Some(turn.map_err(|_| WaitEnd::Closed)?);
            return Ok(());
        }
        let closed = async {
            // There is but one permit and it is ours: this ends only when the line is closed.
            let _ = queue.turn.acquire().await;
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
    async fn the_turn_goes_round_in_order_and_a_newcomer_sees_the_line() {
        let (queue, freed) = (SpawnQueue::new(3, Duration::from_secs(9)), Notify::new());
        assert!(queue.is_on() && !queue.is_occupied());
        let mut first = queue.join(None, None).unwrap();
        let mut second = queue.join(None, None).unwrap();
        let mut third = queue.join(None, None).unwrap();
        assert_eq!(queue.join(None, None).unwrap_err(), QueueRefusal::Full);
        assert_eq!(first.wait(&freed).await, Ok(()));
        {
            // The third asks for the turn after the second, whoever is woken first.
            let mut second = pin!(second.wait(&freed));
            let mut third = pin!(third.wait(&freed));
            assert!(ask(second.as_mut()).is_pending());
            assert!(ask(third.as_mut()).is_pending());
            freed.notify_one();
            // Told once, whoever listens: the one with the turn.
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
    fn an_owner_has_as_many_places_as_sandboxes_left() {
        let queue = SpawnQueue::new(5, Duration::from_secs(9));
        let (alice, bob) = ("alice".parse().unwrap(), "bob".parse().unwrap());
        let place = queue.join(Some(&alice), Some(1)).unwrap();
        let refused = queue.join(Some(&alice), Some(1));
        assert_eq!(refused.unwrap_err(), QueueRefusal::OfOwner);
        assert!(!queue.has_slot(Some(&alice), Some(1)));
        assert!(queue.has_slot(Some(&bob), Some(1)));
        assert!(queue.has_slot(Some(&alice), None));
        drop(place);
        assert!(queue.has_slot(Some(&alice), Some(1)));
    }
}
