//! Putting rules back that were removed by something else, such as a reload of the host's firewall.

use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use stacyvm_sys::netlink::{FilterWatch, RemovedFrom};

/// How long the thread waits for one notification before it begins a new wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(3600);

/// A thread that follows the kernel's notifications about removed rules.
#[derive(Debug)]
pub struct Guard {
    /// The thread ends when this end of the pipe is closed.
    end: OwnedFd,
    thread: JoinHandle<()>,
}

impl Guard {
    /// Watches the tables of this name, of every family, and calls `removed` whenever something of
    /// them was removed, also when the caller itself removed it.
    ///
    /// # Errors
    /// When the kernel gives no notifications, or the thread cannot be started.
    pub fn start(table: String, removed: impl Fn() + Send + 'static) -> Result<Self, Errno> {
        let mut notifications = FilterWatch::open()?;
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let thread = std::thread::Builder::new()
            .name("firewall-guard".to_owned())
            .spawn(move || {
                let next = || notifications.wait(WAIT_TIMEOUT, &ended);
                if let Err(error) = watch(&table, next, || has_ended(&ended), removed) {
                    tracing::error!(%error, "the network's rules are watched no more");
                }
            })
            .map_err(|_| Errno::AGAIN)?;
        Ok(Self { end, thread })
    }

    /// Ends the thread, after the call under way.
    pub fn stop(self) {
        drop(self.end);
        let _ = self.thread.join();
    }
}

/// Calls `removed` for every notification that concerns the table, until the guard is stopped or
/// the notifications fail. `next` waits for a notification; it returns at once when the guard is
/// being stopped.
fn watch(
    table: &str,
    mut next: impl FnMut() -> Result<RemovedFrom, Errno>,
    has_ended: impl Fn() -> bool,
    removed: impl Fn(),
) -> Result<(), Errno> {
    loop {
        if concerns(&next()?, table) {
            removed();
        } else if has_ended() {
            return Ok(());
        }
    }
}

/// Whether something of the table may have been removed. Lost notifications may have been about it.
fn concerns(removed: &RemovedFrom, table: &str) -> bool {
    match removed {
        RemovedFrom::Tables(tables) => tables.contains(table),
        RemovedFrom::Unknown => true,
    }
}

fn has_ended(pipe: &OwnedFd) -> bool {
    stacyvm_sys::pidfd::wait(pipe, Duration::ZERO).unwrap_or(true)
}

/// What [`restore`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// The rules were complete, so nothing was done.
    Intact,
    /// Something was missing, and the rules were loaded again.
    Reloaded,
}

/// Loads rules again unless they are complete: the reaction to a notification of [`Guard`], which
/// also reports what the server itself replaced.
///
/// # Errors
/// Why the rules could not be loaded.
pub fn restore<E>(
    is_loaded: impl FnOnce() -> bool,
    load: impl FnOnce() -> Result<(), E>,
) -> Result<Restored, E> {
    if is_loaded() {
        return Ok(Restored::Intact);
    }
    load().map(|()| Restored::Reloaded)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::FirewallError;

    fn from(tables: &[&str]) -> RemovedFrom {
        RemovedFrom::Tables(tables.iter().map(|&table| table.to_owned()).collect())
    }

    #[test]
    fn only_a_removal_from_the_own_table_or_an_unknown_one_concerns_a_guard() {
        for (removed, expected) in [
            (from(&["stacyvm_a"]), true),
            (from(&["filter", "stacyvm_a"]), true),
            (RemovedFrom::Unknown, true),
            (from(&[]), false),
            (from(&["filter"]), false),
            (from(&["stacyvm_ab", "stacyvm_"]), false),
        ] {
            assert_eq!(concerns(&removed, "stacyvm_a"), expected, "{removed:?}");
        }
    }

    #[test]
    fn a_guard_reacts_to_every_removal_and_ends_when_it_is_stopped() {
        let script = [
            from(&["filter"]),
            from(&["stacyvm_a"]),
            RemovedFrom::Unknown,
            from(&["stacyvm_a", "filter"]),
            from(&[]),
        ];
        let mut notifications = script.into_iter();
        let (waits, reactions) = (Cell::new(0), Cell::new(0));
        let outcome = watch(
            "stacyvm_a",
            || {
                waits.set(waits.get() + 1);
                Ok(notifications.next().expect("watched on after the end"))
            },
            || waits.get() == 5,
            || reactions.set(reactions.get() + 1),
        );
        assert_eq!(outcome, Ok(()));
        assert_eq!((waits.get(), reactions.get()), (5, 3));
    }

    #[test]
    fn a_removal_that_comes_with_the_end_is_still_reacted_to() {
        let mut notifications = [from(&["stacyvm_a"]), from(&[])].into_iter();
        let reactions = Cell::new(0);
        let outcome = watch(
            "stacyvm_a",
            || Ok(notifications.next().expect("watched on after the end")),
            || true,
            || reactions.set(reactions.get() + 1),
        );
        assert_eq!((outcome, reactions.get()), (Ok(()), 1));
    }

    #[test]
    fn a_guard_without_notifications_ends_with_the_reason() {
        let outcome = watch("stacyvm_a", || Err(Errno::NOMEM), || false, || {});
        assert_eq!(outcome, Err(Errno::NOMEM));
    }

    #[test]
    fn complete_rules_are_left_alone_and_missing_ones_are_loaded_once() {
        let loads = Cell::new(0);
        let load = || {
            loads.set(loads.get() + 1);
            Ok::<_, FirewallError>(())
        };
        assert_eq!(restore(|| true, load).unwrap(), Restored::Intact);
        assert_eq!(loads.get(), 0);
        assert_eq!(restore(|| false, load).unwrap(), Restored::Reloaded);
        assert_eq!(loads.get(), 1);
        let refused = restore(|| false, || Err(FirewallError::NoNft));
        assert!(matches!(refused, Err(FirewallError::NoNft)), "{refused:?}");
    }
}
