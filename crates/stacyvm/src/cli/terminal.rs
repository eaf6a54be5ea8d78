//! Our own terminal while a command in a sandbox has one.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use stacyvm_provider::ops::TtySize;

/// The terminal passes every key on as it is; dropping this brings its usual mode back.
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// None when standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        let input = std::io::stdin();
        let before = tcgetattr(&input).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that has gone needs no mode.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The size of the terminal on standard output.
pub(crate) fn terminal_size() -> Option<TtySize> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    Some(TtySize {
        cols: size.ws_col,
        rows: size.ws_row,
    })
}
