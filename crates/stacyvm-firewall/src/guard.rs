//! Watching over the rules: when somebody removes them, as a reload of the host's firewall does, they
//! are put back at once.

use std::os::fd::OwnedFd;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use stacyvm_sys::netlink::{FilterNews, Removed};

/// How long the thread sleeps when nothing happens.
const QUIET: Duration = Duration::from_secs(3600);

/// The thread that watches.
#[derive(Debug)]
pub struct Guard {
    /// When it is closed, the thread ends.
    end: OwnedFd,
    thread: JoinHandle<()>,
}

impl Guard {
    /// Watches over the tables of this name, of every family; `removed` is called when something of
    /// them was removed, by whomever, the caller included.
    ///
    /// # Errors
    /// When the kernel tells no news of its rules, or there can be no thread.
    pub fn start(table: String, removed: impl Fn() + Send + 'static) -> Result<Self, Errno> {
        let mut news = FilterNews::open()?;
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC)?;
        let thread = std::thread::Builder::new()
            .name("firewall-guard".to_owned())
            .spawn(move || {
                loop {
                    match news.wait(QUIET, &ended) {
                        Ok(Removed::From(tables)) if !tables.contains(&table) => {
                            if has_ended(&ended) {
                                return;
                            }
                        }
                        Ok(_) => removed(),
                        Err(error) => {
                            tracing::error!(%error, "nobody watches over the network's rules");
                            return;
                        }
                    }
                }
            })
            .map_err(|_| Errno::AGAIN)?;
        Ok(Self { end, thread })
    }

    /// Ends the thread; waits for the call under way.
    pub fn stop(self) {
        drop(self.end);
        let _ = self.thread.join();
    }
}

fn has_ended(pipe: &OwnedFd) -> bool {
    stacyvm_sys::pidfd::wait(pipe, Duration::ZERO).unwrap_or(true)
}
