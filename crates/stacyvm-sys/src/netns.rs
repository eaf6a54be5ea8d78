//! Network namespaces with a loopback and nothing else.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Result;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::namespaces::{Kind, current, enter, leave};

/// Brings the loopback of the calling process's network namespace up.
///
/// # Errors
/// `EPERM` without the right to administer that namespace; otherwise the error of the system call.
pub fn loopback_up() -> Result<()> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: every field of the C structure may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("two low bits");
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is, and it outlives the call.
    let result = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            std::ptr::from_ref(&request),
        )
    };
    crate::check(result.into()).map(drop)
}

/// Lets every user of the calling process's network namespace listen on low ports and send
/// echo requests, because no other process uses it. Where the kernel has no such setting, nothing is changed.
pub fn open_low_ports() {
    for (setting, value) in [
        ("ip_unprivileged_port_start", "0"),
        ("ping_group_range", "0 2147483647"),
    ] {
        // Missing with IPv4 compiled out or `/proc` mounted read-only: a convenience is lost.
        let _ = fs::write(format!("/proc/sys/net/ipv4/{setting}"), value);
    }
}

/// Makes a network namespace with its loopback up. The calling process must have one thread, and
/// stays in its own namespace.
///
/// # Errors
/// `EDEADLK` when there are other threads; otherwise the error of the system call. When returning
/// fails, the process is left in the new namespace and the error says so by being `ENOTRECOVERABLE`.
pub fn create() -> Result<OwnedFd> {
    let home = current(Kind::Network)?;
    leave(Kind::Network)?;
    let made = loopback_up().and_then(|()| {
        open_low_ports();
        current(Kind::Network)
    });
    enter(&home).map_err(|_| rustix::io::Errno::NOTRECOVERABLE)?;
    made
}

/// The network namespace of the calling thread, which need not be that of its process.
///
/// # Errors
/// When `/proc` is not there.
pub fn of_thread() -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    openat(CWD, "/proc/thread-self/ns/net", flags, Mode::empty())
}

/// Like [`create`], from one of several threads. The other threads are not affected.
///
/// # Errors
/// The error of the system call. When returning fails, the thread is left in the new namespace and the
/// error says so by being `ENOTRECOVERABLE`: it must end.
pub fn make_on_thread() -> Result<OwnedFd> {
    let home = of_thread()?;
    // SAFETY: the call is marked unsafe for what CLONE_FILES does to descriptors that other
    // threads share; that flag is not given, and a network namespace is a thread's own affair.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let made = loopback_up().and_then(|()| {
        open_low_ports();
        of_thread()
    });
    enter(&home).map_err(|_| rustix::io::Errno::NOTRECOVERABLE)?;
    made
}
