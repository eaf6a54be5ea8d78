//! Which system calls a network server may make once it has its listening sockets.
//!
//! For a program with one thread that moves bytes between sockets: it opens no file, starts no
//! program and no thread, signals nobody but itself, and maps no memory that can be executed.

use std::collections::BTreeMap;

use super::list::{allow_only, family, number};
use super::program::{Verdict, errno};

#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // bytes
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_close,
    // sockets; listening on another one is not among it
    libc::SYS_bind, libc::SYS_connect, libc::SYS_accept4, libc::SYS_getsockname,
    libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto,
    libc::SYS_sendmsg, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_shutdown,
    // waiting
    libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    libc::SYS_futex, libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    // memory
    libc::SYS_brk, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise,
    // time and chance
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_getrandom,
    // itself: signal masks, and the way out
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older forms that the C library still uses where they exist.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(target_arch = "aarch64")]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Every rule, by number.
pub(super) fn rules() -> BTreeMap<u32, Verdict> {
    let mut rules: BTreeMap<u32, Verdict> = ALLOWED
        .iter()
        .chain(ALLOWED_HERE)
        .map(|call| (number(*call), Verdict::Allow))
        .collect();
    for (call, verdict) in [
        (
            libc::SYS_socket,
            allow_only(
                0,
                &[family(libc::AF_INET), family(libc::AF_INET6)],
                libc::EAFNOSUPPORT,
            ),
        ),
        (libc::SYS_mmap, without_execution()),
        (libc::SYS_mprotect, without_execution()),
        // FIONBIO and FIONREAD.
        (
            libc::SYS_ioctl,
            allow_only(1, &[0x5421, 0x541b], libc::EPERM),
        ),
        (
            libc::SYS_fcntl,
            allow_only(
                1,
                &[
                    libc::F_GETFD.unsigned_abs(),
                    libc::F_SETFD.unsigned_abs(),
                    libc::F_GETFL.unsigned_abs(),
                    libc::F_SETFL.unsigned_abs(),
                    libc::F_DUPFD_CLOEXEC.unsigned_abs(),
                ],
                libc::EPERM,
            ),
        ),
    ] {
        rules.insert(number(call), verdict);
    }
    rules
}

/// By the third argument, the protection.
fn without_execution() -> Verdict {
    Verdict::ByArgument {
        argument: 2,
        mask: libc::PROT_EXEC.unsigned_abs(),
        cases: vec![(0, Verdict::Allow)],
        otherwise: Box::new(Verdict::Answer(errno(libc::EPERM))),
    }
}
