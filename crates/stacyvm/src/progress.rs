//! Showing that something long goes on: on a terminal only, and on standard error.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Something that takes its time. Vanishes when dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Work of a known number of steps, of which nothing shows until `reach` is called.
    pub(crate) fn steps(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self {
            bar: Self::styled(bar, "{msg} {bar:30} {pos}/{len}", what),
        }
    }

    /// So many steps are done, of so many.
    pub(crate) fn reach(&self, done: usize, of: usize) {
        if self.bar.is_hidden() && std::io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
    }

    /// A transfer; the length in bytes when it is known.
    pub(crate) fn bytes(what: &str, length: Option<u64>) -> Self {
        let style = if length.is_some() {
            "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}"
        } else {
            "{spinner} {msg} {bytes} {bytes_per_sec}"
        };
        Self {
            bar: Self::bar(length, style, what),
        }
    }

    fn bar(length: Option<u64>, style: &str, what: &str) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = match length {
            Some(length) => ProgressBar::new(length),
            None => ProgressBar::no_length(),
        };
        Self::styled(bar, style, what)
    }

    fn styled(bar: ProgressBar, style: &str, what: &str) -> ProgressBar {
        bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
        bar.set_message(what.to_owned());
        bar
    }

    /// Some more is done.
    pub(crate) fn advance(&self, amount: u64) {
        self.bar.inc(amount);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
