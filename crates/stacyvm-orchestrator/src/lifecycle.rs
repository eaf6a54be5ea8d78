//! The states of a sandbox and the only ways between them; pure, no I/O.
//!
//! ```text
//!               intent written
//!                     │
//!                 ┌───▼────┐  create failed, or no caller waits for it (task)
//!                 │creating├──────────────────────────────┐
//!                 └───┬────┘                              │
//!        box answers  │     stopped from outside          │
//!        (its task)  │     (provider, reconciler)        │
//!                 ┌───▼────┐ ─────────────────► ┌──────┐  │
//!                 │running │                    │paused│  │
//!                 └─┬─┬──┬─┘ ◄───────────────── └┬─┬─┬─┘  │
//!                   │ │  │      goes on again    │ │ │    │
//!   workload ended  │ │  │  asked to, or expired │ │ │    │
//!   (wait_exit,     ├─│──│───────────────────────┘ │ │    │
//!    reconciler)    │ │  └─────────────────────────│─┤    │
//!                   │ │  box missing (reconciler)  │ │    │
//!                   │ ├────────────────────────────┘ │    │
//!           ┌───────▼┐│  ┌────┐                   ┌──▼────▼──┐  every trace gone
//!           │stopped │└──►lost├───────────────────►destroying├──────────► destroyed
//!           └───┬────┘   └────┘  asked to,        └─▲────▲───┘ (its task)
//!               └───────────────────────────────────┘    │
//!                                or expired  attempt failed (retried by its task for ever)
//! ```
//! Each transition is made by the sandbox's task; the sender of its command stands in brackets.
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
    Paused,
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
    /// The backend could not make the box, or the box is of no use any more.
    CreateFailed,
    /// Nothing in the box moves, and it can go on.
    Paused,
    /// What is in the box moves.
    Resumed,
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
    /// Whether its box is there and may be used, at once or when it goes on.
    pub(crate) fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }

    /// The phase after `event`.
    pub(crate) fn on(self, event: Event) -> Result<Self, Refused> {
        let next = match (self, event) {
            (Self::Creating, Event::Created) => Self::Running,
            (Self::Creating, Event::CreateFailed) => Self::Destroying,

            (Self::Running | Self::Paused, Event::Paused) => Self::Paused,
            (Self::Running | Self::Paused, Event::Resumed) => Self::Running,
            (Self::Running | Self::Paused, Event::WorkloadEnded) => Self::Stopped,
            (Self::Running | Self::Paused, Event::BoxMissing) => Self::Lost,

            // A late report about what is known to be over changes nothing.
            (
                Self::Stopped | Self::Lost | Self::Destroying | Self::Destroyed,
                Event::Paused | Event::Resumed | Event::WorkloadEnded | Event::BoxMissing,
            ) => self,

            // A creation is never cut short: who wants it gone waits for its end.
            (
                Self::Running | Self::Paused | Self::Stopped | Self::Lost | Self::Destroying,
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
                Event::Resumed => Self::Running,
                Event::Paused => Self::Paused,
                Event::WorkloadEnded => Self::Stopped,
                _ => Self::Lost,
            },
        }
    }

    /// What a client sees; none when it sees nothing. One being destroyed is already gone for
    /// clients, unless destroying it fails: then it is shown, because something may still run.
    pub(crate) fn public(self, destroy_failed: bool) -> Option<SandboxState> {
        match self {
            Self::Creating => Some(SandboxState::Creating),
            Self::Running => Some(SandboxState::Running),
            Self::Paused => Some(SandboxState::Paused),
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
    /// What that means for a sandbox that should be alive.
    pub(crate) fn event(self) -> Event {
        match self {
            Self::Box(BoxState::Running) => Event::Resumed,
            Self::Box(BoxState::Paused) => Event::Paused,
            Self::Box(BoxState::Dead) => Event::WorkloadEnded,
            Self::Box(BoxState::Partial) | Self::Absent => Event::BoxMissing,
        }
    }

    /// Whether such a sandbox has come to its end.
    pub(crate) fn is_end(self) -> bool {
        !matches!(self, Self::Box(BoxState::Running | BoxState::Paused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Creating,
        Phase::Running,
        Phase::Paused,
        Phase::Stopped,
        Phase::Lost,
        Phase::Destroying,
        Phase::Destroyed,
    ];

    const EVENTS: [Event; 8] = [
        Event::Created,
        Event::CreateFailed,
        Event::Paused,
        Event::Resumed,
        Event::WorkloadEnded,
        Event::BoxMissing,
        Event::DestroyAsked,
        Event::BoxGone,
    ];

    /// The whole table: for each phase what each of `EVENTS` leads to; none where it is refused.
    #[test]
    fn every_phase_answers_every_event() {
        use Phase::{Creating, Destroyed, Destroying, Lost, Paused, Running, Stopped};
        const NO: Option<Phase> = None;
        let (run, pause, stop) = (Some(Running), Some(Paused), Some(Stopped));
        let (lose, end, gone) = (Some(Lost), Some(Destroying), Some(Destroyed));
        let table = [
            (Creating, [run, end, NO, NO, NO, NO, NO, NO]),
            (Running, [NO, NO, pause, run, stop, lose, end, NO]),
            (Paused, [NO, NO, pause, run, stop, lose, end, NO]),
            (Stopped, [NO, NO, stop, stop, stop, stop, end, NO]),
            (Lost, [NO, NO, lose, lose, lose, lose, end, NO]),
            (Destroying, [NO, NO, end, end, end, end, end, gone]),
            (Destroyed, [NO, NO, gone, gone, gone, gone, gone, NO]),
        ];
        for (phase, row) in table {
            for (event, next) in EVENTS.into_iter().zip(row) {
                assert_eq!(phase.on(event).ok(), next, "{phase:?} on {event:?}");
            }
        }
    }

    #[test]
    fn nothing_leaves_destroyed_and_only_what_was_paused_runs_again() {
        for event in EVENTS {
            if let Ok(next) = Phase::Destroyed.on(event) {
                assert_eq!(next, Phase::Destroyed, "{event:?}");
            }
            for phase in &PHASES[3..] {
                let next = phase.on(event);
                assert!(!next.is_ok_and(Phase::is_alive), "{phase:?} on {event:?}");
            }
        }
    }

    #[test]
    fn a_restart_finishes_what_was_half_done_and_believes_the_backend() {
        let alive = Some(Observed::Box(BoxState::Running));
        let dead = Some(Observed::Box(BoxState::Dead));
        let paused = Some(Observed::Box(BoxState::Paused));
        let partial = Some(Observed::Box(BoxState::Partial));
        let absent = Some(Observed::Absent);
        for observed in [None, alive, paused, dead, partial, absent] {
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
        assert_eq!(running(paused), Phase::Paused);
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
