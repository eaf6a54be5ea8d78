//! Which limits of a box have been reached and reported.
//!
//! Pure bookkeeping over the kernel's counters; `limit_watch` reads them and sends the notices.

use std::time::{Duration, Instant};

use stacyvm_sys::cgroup::{self, Refusals};

use crate::cgroups::Cgroups;
use crate::disk::Fill;

/// A sandbox that ends within this time of losing a process for want of memory has ended of that.
const OUT_OF_MEMORY_WINDOW: Duration = Duration::from_secs(5);
/// A disk is full with less free than this part of its limit, within the two bounds: a file system
/// refuses a writer while some blocks are still free, which it keeps for its own tables.
const FULL_FRACTION: u64 = 64;
const MIN_FREE_WHEN_FULL: u64 = 512 << 10;
const MAX_FREE_WHEN_FULL: u64 = 1 << 20;
/// A full disk is reported again after it had more than this part of its limit free.
const ROOM_FRACTION: u64 = 20;

/// What has been reported of one box.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReportedLimits {
    refusals: Refusals,
    /// When it was last seen to have lost a process for want of memory.
    out_of_memory: Option<Instant>,
    disk_full: bool,
}

impl ReportedLimits {
    /// Counts everything up to now as reported. `disk` is how full the disk is, and its limit.
    pub(crate) fn current(groups: &Cgroups, disk: Option<(Fill, u64)>) -> Self {
        let mut reported = Self::default();
        reported.update(cgroup::refusals(groups), disk);
        reported.out_of_memory = None;
        reported
    }

    /// Whether the box lost a process for want of memory so recently that this explains its end.
    pub(crate) fn just_out_of_memory(&self) -> bool {
        self.out_of_memory
            .is_some_and(|then| then.elapsed() < OUT_OF_MEMORY_WINDOW)
    }

    /// Takes the kernel's present counts; answers the limits that were reached since the last ones.
    pub(crate) fn update(&mut self, now: Refusals, disk: Option<(Fill, u64)>) -> Vec<&'static str> {
        let mut reached = Vec::new();
        if now.oom_kills > self.refusals.oom_kills {
            reached.push("memory");
            self.out_of_memory = Some(Instant::now());
        }
        if now.pids > self.refusals.pids {
            reached.push("pids");
        }
        // A group that was removed counts nothing; what was reported stays.
        self.refusals.oom_kills = self.refusals.oom_kills.max(now.oom_kills);
        self.refusals.pids = self.refusals.pids.max(now.pids);
        if let Some((fill, limit)) = disk {
            let least = (limit / FULL_FRACTION).clamp(MIN_FREE_WHEN_FULL, MAX_FREE_WHEN_FULL);
            let full = fill.free_bytes < least || fill.free_inodes == 0;
            if full && !self.disk_full {
                self.disk_full = true;
                reached.push("disk");
            } else if fill.free_bytes > limit / ROOM_FRACTION && fill.free_inodes > 1 {
                self.disk_full = false;
            }
        }
        reached
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
    fn each_limit_is_reported_once_each_time_it_is_reached() {
        let mut reported = ReportedLimits::default();
        let none = Refusals::default();
        assert!(reported.update(none, None).is_empty());
        let both = Refusals {
            oom_kills: 2,
            pids: 1,
        };
        assert_eq!(reported.update(both, None), ["memory", "pids"]);
        assert!(reported.update(both, None).is_empty());
        let more = Refusals { pids: 9, ..both };
        assert_eq!(reported.update(more, None), ["pids"]);
        assert!(reported.update(none, None).is_empty(), "its group has gone");
        assert!(reported.update(more, None).is_empty());
    }

    #[test]
    fn what_was_before_is_not_reported() {
        let nothing = Cgroups::new();
        let mut reported = ReportedLimits::current(&nothing, fill(0, 99));
        assert!(!reported.just_out_of_memory());
        assert!(reported.update(Refusals::default(), fill(0, 99)).is_empty());
    }

    #[test]
    fn a_full_disk_is_reported_again_only_after_it_had_room() {
        let mut reported = ReportedLimits::default();
        let none = Refusals::default();
        assert!(reported.update(none, fill(64 << 20, 99)).is_empty());
        assert_eq!(reported.update(none, fill(4096, 99)), ["disk"]);
        assert!(reported.update(none, fill(0, 99)).is_empty());
        assert!(reported.update(none, fill(1 << 20, 99)).is_empty());
        assert!(
            reported.update(none, fill(0, 99)).is_empty(),
            "never had room"
        );
        assert!(reported.update(none, fill(8 << 20, 99)).is_empty());
        assert_eq!(
            reported.update(none, fill(8 << 20, 0)),
            ["disk"],
            "no inode"
        );
    }
}
