//! The states of a sandbox and the only ways between them; pure, no I/O.
//!
//! ```text
//!               intent written
//!                     │
//!                 ┌───▼────┐  create failed, or nobody waits for it (its owner)
//!                 │creating├──────────────────────────────┐
//!                 └───┬────┘                              │
//!        box answers  │                                   │
//!        (its owner)  │                                   │
//!                 ┌───▼────┐  asked to, or expired        │
//!                 │running ├───────────────────────────┐  │
//!                 └─┬────┬─┘  (client, expiry timer)   │  │
//!   workload ended  │    │  box missing                │  │
//!   (wait_exit,     │    │  (reconciler)               │  │
//!    reconciler)    │    │                             │  │
//!           ┌───────▼┐ ┌─▼──┐                        ┌─▼──▼─────┐  every trace gone
//!           │stopped │ │lost├────────────────────────►destroying├──────────► destroyed
//!           └───┬────┘ └────┘  asked to, or expired  └─▲────▲───┘ (its owner)
//!               └──────────────────────────────────────┘    │
//!                                     attempt failed ───────┘  (retried by its owner for ever)
//! ```
//! Each transition is made by the sandbox's owner task; in brackets stands who tells it to.
//! A sandbox that was `creating` when the server died comes back as `destroying`: its client
//! never got an answer.

use stacyvm_provider::BoxState;
use stacyvm_store::StoredState;
use stacyvm_types::SandboxState;

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Creating,
    Running,
    Stopped,
    Lost,
    Destroying,
    Destroyed,
}

/// What happened, or what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The backend made the box and its agent answers.
    Created,
    /// The backend could not, or the result is of no use to anybody.
    CreateFailed,
    /// What ran in the box has ended.
    WorkloadEnded,
    /// The backend has no usable box.
    BoxMissing,
    /// A client or the timer wants it gone.
    DestroyAsked,
    /// Nothing of the box is left.
    BoxGone,
}

/// The event makes no sense in this phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a sandbox that is {phase:?}")]
pub(crate) struct Refused {
    phase: Phase,
    event: Event,
}

impl Phase {
    /// The phase after `event`.
    pub(crate) fn on(self, event: Event) -> Result<Self, Refused> {
        let next = match (self, event) {
            (Self::Creating, Event::Created) => Self::Running,
            (Self::Creating, Event::CreateFailed) => Self::Destroying,

            (Self::Running, Event::WorkloadEnded) => Self::Stopped,
            (Self::Running, Event::BoxMissing) => Self::Lost,

            // Late news about what is known to be over changes nothing.
            (
                Self::Stopped | Self::Lost | Self::Destroying | Self::Destroyed,
                Event::WorkloadEnded | Event::BoxMissing,
            ) => self,

            // A creation is never cut short: who wants it gone waits for its end.
            (
                Self::Running | Self::Stopped | Self::Lost | Self::Destroying,
                Event::DestroyAsked,
            ) => Self::Destroying,
            (Self::Destroyed, Event::DestroyAsked) => Self::Destroyed,

            (Self::Destroying, Event::BoxGone) => Self::Destroyed,

            _ => return Err(Refused { phase: self, event }),
        };
        Ok(next)
    }

    /// The phase after a restart, from what was stored and what the backend says; `observed` is
    /// none when the backend could not be asked.
    pub(crate) fn recovered(stored: StoredState, observed: Option<Observed>) -> Self {
        match (stored, observed) {
            (StoredState::Creating | StoredState::Destroying, _) => Self::Destroying,
            (StoredState::Stopped, _) => Self::Stopped,
            (StoredState::Error, _) => Self::Lost,
            (StoredState::Running, None) => Self::Running,
            (StoredState::Running, Some(observed)) => match observed.event() {
                None => Self::Running,
                Some(Event::WorkloadEnded) => Self::Stopped,
                Some(_) => Self::Lost,
            },
        }
    }

    /// What a client sees; none when it sees nothing. One being destroyed is already gone for
    /// clients, unless destroying it fails: then it is shown, because something may still run.
    pub(crate) fn public(self, destroy_failed: bool) -> Option<SandboxState> {
        match self {
            Self::Creating => Some(SandboxState::Creating),
            Self::Running => Some(SandboxState::Running),
            Self::Stopped => Some(SandboxState::Stopped),
            Self::Lost => Some(SandboxState::Error),
            Self::Destroying => destroy_failed.then_some(SandboxState::Error),
            Self::Destroyed => None,
        }
    }
}

/// What the backend's list says about one sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    Absent,
    Box(BoxState),
}

impl Observed {
    /// What that means for a sandbox that should be running; none when all is well.
    pub(crate) fn event(self) -> Option<Event> {
        match self {
            Self::Box(BoxState::Running | BoxState::Paused) => None,
            Self::Box(BoxState::Dead) => Some(Event::WorkloadEnded),
            Self::Box(BoxState::Partial) | Self::Absent => Some(Event::BoxMissing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 6] = [
        Phase::Creating,
        Phase::Running,
        Phase::Stopped,
        Phase::Lost,
        Phase::Destroying,
        Phase::Destroyed,
    ];

    /// The whole table, in the order of `PHASES`; none where the event is refused.
    #[test]
    fn every_phase_answers_every_event() {
        use Phase::{Destroyed, Destroying, Lost, Running, Stopped};
        let table: [(Event, [Option<Phase>; 6]); 6] = [
            (
                Event::Created,
                [Some(Running), None, None, None, None, None],
            ),
            (
                Event::CreateFailed,
                [Some(Destroying), None, None, None, None, None],
            ),
            (
                Event::WorkloadEnded,
                [
                    None,
                    Some(Stopped),
                    Some(Stopped),
                    Some(Lost),
                    Some(Destroying),
                    Some(Destroyed),
                ],
            ),
            (
                Event::BoxMissing,
                [
                    None,
                    Some(Lost),
                    Some(Stopped),
                    Some(Lost),
                    Some(Destroying),
                    Some(Destroyed),
                ],
            ),
            (
                Event::DestroyAsked,
                [
                    None,
                    Some(Destroying),
                    Some(Destroying),
                    Some(Destroying),
                    Some(Destroying),
                    Some(Destroyed),
                ],
            ),
            (
                Event::BoxGone,
                [None, None, None, None, Some(Destroyed), None],
            ),
        ];
        for (event, expected) in table {
            for (phase, next) in PHASES.into_iter().zip(expected) {
                assert_eq!(phase.on(event).ok(), next, "{phase:?} on {event:?}");
            }
        }
    }

    #[test]
    fn nothing_leaves_destroyed_and_nothing_returns_to_running() {
        let events = [
            Event::Created,
            Event::CreateFailed,
            Event::WorkloadEnded,
            Event::BoxMissing,
            Event::DestroyAsked,
            Event::BoxGone,
        ];
        for event in events {
            if let Ok(next) = Phase::Destroyed.on(event) {
                assert_eq!(next, Phase::Destroyed, "{event:?}");
            }
            for phase in &PHASES[1..] {
                assert_ne!(
                    phase.on(event),
                    Ok(Phase::Running),
                    "{phase:?} on {event:?}"
                );
            }
        }
    }

    #[test]
    fn a_restart_finishes_what_was_half_done_and_believes_the_backend() {
        let alive = Some(Observed::Box(BoxState::Running));
        let dead = Some(Observed::Box(BoxState::Dead));
        let partial = Some(Observed::Box(BoxState::Partial));
        let absent = Some(Observed::Absent);
        for observed in [None, alive, dead, partial, absent] {
            for stored in [StoredState::Creating, StoredState::Destroying] {
                assert_eq!(Phase::recovered(stored, observed), Phase::Destroying);
            }
            assert_eq!(
                Phase::recovered(StoredState::Stopped, observed),
                Phase::Stopped
            );
            assert_eq!(Phase::recovered(StoredState::Error, observed), Phase::Lost);
        }
        let running = |observed| Phase::recovered(StoredState::Running, observed);
        assert_eq!(running(None), Phase::Running);
        assert_eq!(running(alive), Phase::Running);
        assert_eq!(running(dead), Phase::Stopped);
        assert_eq!(running(partial), Phase::Lost);
        assert_eq!(running(absent), Phase::Lost);
    }

    #[test]
    fn what_is_being_destroyed_is_shown_only_when_that_fails() {
        assert_eq!(Phase::Destroying.public(false), None);
        assert_eq!(Phase::Destroying.public(true), Some(SandboxState::Error));
        assert_eq!(Phase::Destroyed.public(true), None);
        assert_eq!(Phase::Stopped.public(false), Some(SandboxState::Stopped));
    }
}
