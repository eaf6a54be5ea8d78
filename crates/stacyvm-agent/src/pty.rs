//! Terminals for commands.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use stacyvm_proto::message::TerminalSize;

/// The character that ends input at a terminal.
pub(crate) const END_OF_INPUT: &[u8] = &[4];

/// Opens a new terminal: the agent's side, which does not block, and the command's side.
pub(crate) fn open(size: TerminalSize) -> Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let ours = rustix::fs::open("/dev/ptmx", flags, Mode::empty())?;
    unlockpt(&ours)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = match ioctl_tiocgptpeer(&ours, flags) {
        // gVisor opens a terminal's other side by its name only.
        Err(Errno::NOTTY) => {
            let name = ptsname(&ours, Vec::new())?;
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
            rustix::fs::open(name, flags, Mode::empty())?
        }
        theirs => theirs?,
    };
    resize(&ours, size)?;
    Ok((ours, theirs))
}

/// Changes the terminal's size; the kernel signals its foreground processes.
pub(crate) fn resize(terminal: impl AsFd, size: TerminalSize) -> Result<()> {
    let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    tcsetwinsize(
        terminal,
        Winsize {
            ws_row: cells(size.rows),
            ws_col: cells(size.cols),
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}
