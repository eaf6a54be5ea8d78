//! Commands that somebody talks to while they run: a terminal, an input that stays open.

use stacyvm_provider::ops::TtySize;

use crate::command::Plan;

/// How a command is connected beside what its request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interactive {
    /// A terminal of this size instead of three pipes.
    pub tty: Option<TtySize>,
    /// Whether input comes while it runs, through `RunningExec::control`. The request's own `stdin`
    /// comes first; only the caller ends the input then.
    pub stdin: bool,
}

impl Plan {
    /// The same command, connected like this.
    pub(crate) fn connected(mut self, interactive: Interactive) -> Self {
        self.spec.tty = interactive.tty;
        self.spec.stdin |= interactive.stdin;
        self.keep_stdin_open = interactive.stdin;
        self
    }
}
