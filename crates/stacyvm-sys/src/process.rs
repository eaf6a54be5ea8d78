//! Properties of the calling process: name, arguments, environment, descriptors, signals, keyring.

use std::convert::Infallible;
use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::{Errno, Result};

/// Names the process and overwrites its arguments and its environment, so that neither shows in
/// `/proc` nor stays in its memory. For a process with one thread, at its start, after it has read
/// its arguments.
///
/// # Errors
/// `EDEADLK` when there are other threads; else when `/proc` cannot be read.
pub fn set_title(title: &CStr) -> Result<()> {
    if crate::proc::thread_count()? != 1 {
        return Err(Errno::DEADLK);
    }
    rustix::thread::set_name(title)?;
    let stat = fs::read("/proc/self/stat")
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let areas = memory_areas(&stat).ok_or(Errno::IO)?;
    // SAFETY: there is one thread, so nobody reads the environment while it is emptied.
    if unsafe { libc::clearenv() } != 0 {
        return Err(Errno::NOMEM);
    }
    overwrite(areas.environment, &[]);
    overwrite(areas.arguments, title.to_bytes());
    Ok(())
}

/// The addresses of the argument and environment strings: first and one past the last.
struct Areas {
    arguments: (usize, usize),
    environment: (usize, usize),
}

/// Fields 48 to 51 of `/proc/PID/stat`, see proc(5).
fn memory_areas(stat: &[u8]) -> Option<Areas> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&stat[after_name..])
        .ok()?
        .split_ascii_whitespace()
        .skip(45)
        .map(|field| field.parse::<usize>().ok());
    let mut next = || fields.next().flatten();
    Some(Areas {
        arguments: (next()?, next()?),
        environment: (next()?, next()?),
    })
}

/// Fills an area with `text` and zeros after it.
fn overwrite((start, end): (usize, usize), text: &[u8]) {
    if start == 0 || end <= start {
        return;
    }
    let length = end - start;
    let kept = text.len().min(length - 1);
    let area = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel reports `start..end` as the area at the bottom of this process's own
    // stack that it filled with strings at exec; it is mapped writable, and ends with a NUL, which
    // stays. No Rust reference points there: the standard library copies arguments when it is
    // asked for them, and the environment's pointers were dropped before. There is one thread.
    unsafe {
        std::ptr::write_bytes(area, 0, length);
        std::ptr::copy_nonoverlapping(text.as_ptr(), area, kept);
    }
}

/// Makes children that end leave no zombie, so that they need not be waited for.
///
/// # Errors
/// The error of the system call.
pub fn reap_children_automatically() -> Result<()> {
    child_signal(libc::SIG_IGN, libc::SA_NOCLDWAIT)
}

/// Makes children that end wait to be reaped again.
///
/// # Errors
/// The error of the system call.
pub fn reap_children_by_waiting() -> Result<()> {
    child_signal(libc::SIG_DFL, 0)
}

fn child_signal(handler: libc::sighandler_t, flags: libc::c_int) -> Result<()> {
    // SAFETY: every field of the C structure may be zero: an empty mask and no restorer.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: `action` is valid, names no handler function of ours, and outlives the call; the
    // former action is not asked for.
    let result = unsafe {
        libc::sigaction(
            libc::SIGCHLD,
            std::ptr::from_ref(&action),
            std::ptr::null_mut(),
        )
    };
    crate::check(result.into()).map(drop)
}

/// Turns the process into something else, as exec does but without a new program: closes every
/// descriptor above 2 that is not in `kept`, runs `body`, and ends with the code it returns.
///
/// `body` is a plain function and `plain` is plain data, so that neither can hold a descriptor that
/// is closed here; the caller's own values are never used or dropped again, because this does not
/// return.
///
/// # Errors
/// `EDEADLK` when there are other threads, otherwise the error of the system call; nothing has
/// run then, and some descriptors may be closed: the caller should end the process with [`exit_now`].
pub fn become_another<T: Copy + 'static>(
    kept: Vec<OwnedFd>,
    plain: T,
    body: fn(Vec<OwnedFd>, T) -> i32,
) -> Result<Infallible> {
    if crate::proc::thread_count()? != 1 {
        return Err(Errno::DEADLK);
    }
    let mut numbers: Vec<u32> = kept
        .iter()
        .map(|descriptor| descriptor.as_raw_fd().unsigned_abs())
        .collect();
    numbers.sort_unstable();
    let mut first = 3;
    for number in numbers {
        if number > first {
            close_range(first, number - 1)?;
        }
        first = first.max(number + 1);
    }
    close_range(first, u32::MAX)?;
    exit_now(body(kept, plain))
}

fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: closes descriptors and touches no memory; that nobody uses them afterwards
    // is what the one caller, `become_another`, is shaped for.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    crate::check(result).map(drop)
}

/// Starts an empty session keyring, so that the keys of the process's parent cannot be reached.
///
/// # Errors
/// `ENOSYS` when the kernel has no keyrings; otherwise the error of the system call.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is touched.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) };
    crate::check(result).map(drop)
}

/// Ends the process at once, without running exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: always sound; nothing of this process runs any more.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_areas_by_field_number() {
        let mut line = String::from("1 (x y) S");
        for field in 4..=52 {
            line.push_str(&format!(" {field}"));
        }
        let areas = memory_areas(line.as_bytes()).expect("all fields are there");
        assert_eq!(areas.arguments, (48, 49));
        assert_eq!(areas.environment, (50, 51));
    }

    #[test]
    fn refuses_a_title_beside_other_threads() {
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || receiver.recv());
            assert_eq!(set_title(c"nope"), Err(Errno::DEADLK));
            drop(sender);
        });
    }
}
