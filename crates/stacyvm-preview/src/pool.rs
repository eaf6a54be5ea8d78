//! The rooms of all sandboxes that have been looked at, each kept as long as its sandbox lives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stacyvm_orchestrator::Ports;
use stacyvm_types::SandboxId;

use crate::preview::Tasks;
use crate::room::{IDLE_TIME, Room};

/// All rooms.
#[derive(Debug)]
pub(crate) struct Pool {
    rooms: Arc<Mutex<HashMap<SandboxId, Arc<Room>>>>,
    max_connections: usize,
    tasks: Tasks,
}

impl Pool {
    pub(crate) fn new(max_connections: usize, tasks: Tasks) -> Self {
        Self {
            rooms: Arc::default(),
            max_connections,
            tasks,
        }
    }

    /// The room of a sandbox that was found to run.
    pub(crate) fn room(&self, id: &SandboxId, ports: &Ports) -> Arc<Room> {
        let mut rooms = lock(&self.rooms);
        if let Some(room) = rooms.get(id)
            && !room.ports.is_ended()
        {
            return Arc::clone(room);
        }
        let room = Arc::new(Room::new(ports.clone(), self.max_connections));
        rooms.insert(id.clone(), Arc::clone(&room));
        drop(rooms);
        let rooms = Arc::clone(&self.rooms);
        let closing = self.tasks.shutdown.clone();
        let (id, kept) = (id.clone(), Arc::clone(&room));
        self.tasks.tracker.spawn(async move {
            loop {
                tokio::select! {
                    () = kept.ports.ended() => break,
                    () = closing.cancelled() => break,
                    () = tokio::time::sleep(IDLE_TIME / 2) => kept.sweep(),
                }
            }
            kept.close();
            let mut rooms = lock(&rooms);
            if rooms.get(&id).is_some_and(|room| Arc::ptr_eq(room, &kept)) {
                rooms.remove(&id);
            }
        });
        room
    }
}

fn lock<T>(rooms: &Mutex<T>) -> MutexGuard<'_, T> {
    // A map of pointers: nothing in between could leave it half changed.
    rooms.lock().unwrap_or_else(PoisonError::into_inner)
}
