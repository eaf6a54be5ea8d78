//! Our own terminal while a command in a sandbox has one.
//!
//! However this program ends, short of being killed outright, the terminal gets its usual mode
//! back: by dropping [`RawTerminal`], or, before a panic is printed, by the hook that it installs.
//! Signals that ask for an end are listened for wherever a terminal is raw, so they lead to the
//! drop too.

use std::sync::Once;

use parking_lot::Mutex;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use stacyvm_provider::ops::TtySize;

/// The usual mode of the terminal, while it has another.
static SAVED_MODE: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal passes every key on as it is; dropping this brings its usual mode back.
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// None when standard input is no terminal.
    pub(crate) fn enter() -> Option<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                next(panic);
            }));
        });
        let input = std::io::stdin();
        let usual = tcgetattr(&input).ok()?;
        let mut raw = usual.clone();
        raw.make_raw();
        *SAVED_MODE.lock() = Some(usual);
        let raw_terminal = Self(());
        tcsetattr(&input, OptionalActions::Now, &raw).ok()?;
        Some(raw_terminal)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let usual = SAVED_MODE.lock().take();
    if let Some(usual) = usual {
        // A terminal that has gone needs no mode.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &usual);
    }
}

/// The size of the terminal on standard output, or else on standard input.
pub(crate) fn terminal_size() -> Option<TtySize> {
    let size = tcgetwinsize(std::io::stdout())
        .or_else(|_| tcgetwinsize(std::io::stdin()))
        .ok()?;
    Some(TtySize {
        cols: size.ws_col,
        rows: size.ws_row,
    })
}
