//! Noticing that a box has come to one of its limits.
//!
//! The kernel counts what it refuses; this looks at the counters, and at how full a limited disk
//! is, and tells what is new. A round looks at a bounded number of boxes, so that thousands of
//! idle ones cost no more than a few hundred; with fewer, each is looked at every second.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use stacyvm_provider::Notice;
use stacyvm_sys::cgroup::{self, Refusals};

use crate::boxes::BoxEntry;
use crate::cgroups::Cgroups;
use crate::disk::{self, Fill};
use crate::inner::Inner;

const ROUND: Duration = Duration::from_secs(1);
/// A sandbox that ends so soon after it lost a process for want of memory has ended of that.
const A_MOMENT: Duration = Duration::from_secs(5);
/// How many boxes a round looks at: some milliseconds of work.
const BOXES_A_ROUND: usize = 200;
/// A disk with less free than a part of its limit is full, within these bounds: a file system
/// refuses a writer while it still has some blocks, which it keeps for its own tables.
const FULL_PART: u64 = 64;
const FULL_LEAST: u64 = 512 << 10;
const FULL_MOST: u64 = 1 << 20;
/// A disk that was full is told of again after it had this much free, in parts of its limit.
const ROOM_AGAIN: u64 = 20;

/// What has been told of one box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    refusals: Refusals,
    /// When it was last seen to have lost a process for want of memory.
    out_of_memory: Option<Instant>,
    disk_full: bool,
}

impl Told {
    /// As if all that happened up to now had been told, `disk` being how full it is, with its
    /// limit.
    pub(crate) fn now(groups: &Cgroups, disk: Option<(Fill, u64)>) -> Self {
        let mut told = Self::default();
        told.learn(cgroup::refusals(groups), disk);
        told.out_of_memory = None;
        told
    }

    /// Whether a process was lost for want of memory a moment ago.
    pub(crate) fn just_out_of_memory(&self) -> bool {
        self.out_of_memory
            .is_some_and(|then| then.elapsed() < A_MOMENT)
    }

    /// Takes in how things are; answers the limits that came into play since.
    fn learn(&mut self, now: Refusals, disk: Option<(Fill, u64)>) -> Vec<&'static str> {
        let mut news = Vec::new();
        if now.oom_kills > self.refusals.oom_kills {
            news.push("memory");
            self.out_of_memory = Some(Instant::now());
        }
        if now.pids > self.refusals.pids {
            news.push("pids");
        }
        // A group that has gone counts nothing any more, which is no news.
        self.refusals.oom_kills = self.refusals.oom_kills.max(now.oom_kills);
        self.refusals.pids = self.refusals.pids.max(now.pids);
        if let Some((fill, limit)) = disk {
            let least = (limit / FULL_PART).clamp(FULL_LEAST, FULL_MOST);
            let full = fill.free_bytes < least || fill.free_inodes == 0;
            if full && !self.disk_full {
                self.disk_full = true;
                news.push("disk");
            } else if fill.free_bytes > limit / ROOM_AGAIN && fill.free_inodes > 1 {
                self.disk_full = false;
            }
        }
        news
    }
}

/// Looks at one box and tells what is new. Blocks.
pub(crate) fn look(inner: &Inner, entry: &BoxEntry) {
    let (groups, limit, process) = {
        let facts = entry.facts();
        if entry.probe || facts.cgroups.is_empty() {
            return;
        }
        let limit = facts.disk.map(|disk| disk.bytes());
        (facts.cgroups.clone(), limit, facts.process.clone())
    };
    let refusals = cgroup::refusals(&groups);
    let disk = limit.zip(process).and_then(|(limit, process)| {
        let fill = disk::fill(process.pid)?;
        // Else the number may be another process's by now.
        (!process.ended()).then_some((fill, limit))
    });
    let news = entry.facts().told.learn(refusals, disk);
    for limit in news {
        tracing::info!(sandbox_id = %entry.id, limit, "a sandbox has come to a limit");
        inner.notices.tell(Notice::LimitReached {
            id: entry.id.clone(),
            limit,
        });
    }
}

/// Looks at all boxes for as long as the provider is there.
pub(crate) async fn run(inner: Weak<Inner>) {
    let mut turn = tokio::time::interval(ROUND);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next = 0;
    loop {
        turn.tick().await;
        let Some(inner) = inner.upgrade() else { return };
        let mut boxes = inner.boxes.all();
        if boxes.is_empty() {
            continue;
        }
        // The table has no order; this one is the same every time, but for boxes that come and go.
        boxes.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        let count = boxes.len().min(BOXES_A_ROUND);
        let chosen: Vec<Arc<BoxEntry>> = boxes
            .iter()
            .cycle()
            .skip(next % boxes.len())
            .take(count)
            .cloned()
            .collect();
        next = (next + count) % boxes.len();
        let looking = tokio::task::spawn_blocking(move || {
            for entry in chosen {
                look(&inner, &entry);
            }
        });
        let _ = looking.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(free_bytes: u64, free_inodes: u64) -> Option<(Fill, u64)> {
        let used_bytes = 0;
        let fill = Fill {
            used_bytes,
            free_bytes,
            free_inodes,
        };
        Some((fill, 64 << 20))
    }

    #[test]
    fn each_limit_is_told_once_each_time_it_comes_into_play() {
        let mut told = Told::default();
        let none = Refusals::default();
        assert!(told.learn(none, None).is_empty());
        let both = Refusals {
            oom_kills: 2,
            pids: 1,
        };
        assert_eq!(told.learn(both, None), ["memory", "pids"]);
        assert!(told.learn(both, None).is_empty());
        let more = Refusals { pids: 9, ..both };
        assert_eq!(told.learn(more, None), ["pids"]);
        assert!(told.learn(none, None).is_empty(), "its group has gone");
        assert!(told.learn(more, None).is_empty());
    }

    #[test]
    fn what_was_before_is_no_news() {
        let nothing = Cgroups::new();
        let mut told = Told::now(&nothing, fill(0, 99));
        assert!(!told.just_out_of_memory());
        assert!(told.learn(Refusals::default(), fill(0, 99)).is_empty());
    }

    #[test]
    fn a_full_disk_is_told_again_only_after_it_had_room() {
        let mut told = Told::default();
        let none = Refusals::default();
        assert!(told.learn(none, fill(64 << 20, 99)).is_empty());
        assert_eq!(told.learn(none, fill(4096, 99)), ["disk"]);
        assert!(told.learn(none, fill(0, 99)).is_empty());
        assert!(told.learn(none, fill(1 << 20, 99)).is_empty());
        assert!(told.learn(none, fill(0, 99)).is_empty(), "never had room");
        assert!(told.learn(none, fill(8 << 20, 99)).is_empty());
        assert_eq!(told.learn(none, fill(8 << 20, 0)), ["disk"], "no inode");
    }
}
