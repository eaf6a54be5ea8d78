//! Which system calls a sandbox may make.
//!
//! It starts from what container engines allow by default and is stricter where a sandbox never
//! needs a call: nothing that mounts, traces, loads code into the kernel, talks to the key rings,
//! or opens namespaces, whether the capabilities for it are there or not.

use std::collections::BTreeMap;

use super::program::{Verdict, errno};

/// The newest system call that this list has an opinion on (`listns`, Linux 6.19).
pub(super) const NEWEST_KNOWN: u32 = 470;

/// Flags of clone(2) that open namespaces: mount, cgroup, uts, ipc, user, pid, network.
const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// Always allowed, on every architecture.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // files by descriptor
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64,
    libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2,
    libc::SYS_pwritev2, libc::SYS_close, libc::SYS_close_range, libc::SYS_lseek, libc::SYS_dup,
    libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_flock, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_fallocate, libc::SYS_ftruncate, libc::SYS_fadvise64, libc::SYS_readahead,
    libc::SYS_sendfile, libc::SYS_splice, libc::SYS_tee, libc::SYS_vmsplice,
    libc::SYS_copy_file_range, libc::SYS_pipe2, libc::SYS_getdents64, libc::SYS_fchdir,
    libc::SYS_fchmod, libc::SYS_fchown, libc::SYS_fstat, libc::SYS_fstatfs,
    libc::SYS_memfd_create, libc::SYS_memfd_secret,
    // files by path
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_faccessat, libc::SYS_faccessat2,
    libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_readlinkat,
    libc::SYS_mkdirat, libc::SYS_mknodat, libc::SYS_unlinkat, libc::SYS_symlinkat,
    libc::SYS_linkat, libc::SYS_renameat2, RENAMEAT, libc::SYS_fchmodat, FCHMODAT2,
    libc::SYS_fchownat, libc::SYS_utimensat, libc::SYS_truncate, libc::SYS_chdir,
    libc::SYS_getcwd, libc::SYS_umask, libc::SYS_getxattr, libc::SYS_lgetxattr,
    libc::SYS_fgetxattr, libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr,
    libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_flistxattr, libc::SYS_removexattr,
    libc::SYS_lremovexattr, libc::SYS_fremovexattr, libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // waiting
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_ppoll, libc::SYS_pselect6, libc::SYS_eventfd2, libc::SYS_signalfd4,
    libc::SYS_timerfd_create, libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    libc::SYS_io_setup, libc::SYS_io_submit, libc::SYS_io_getevents, IO_PGETEVENTS,
    libc::SYS_io_cancel, libc::SYS_io_destroy,
    // memory
    libc::SYS_brk, libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect,
    libc::SYS_madvise, libc::SYS_mincore, libc::SYS_msync, libc::SYS_mlock, libc::SYS_mlock2,
    libc::SYS_munlock, libc::SYS_mlockall, libc::SYS_munlockall, libc::SYS_remap_file_pages,
    libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect, libc::SYS_membarrier,
    libc::SYS_process_mrelease, libc::SYS_mseal,
    // processes, threads, scheduling
    libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_wait4,
    libc::SYS_waitid, libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid,
    libc::SYS_getpgid, libc::SYS_setpgid, libc::SYS_getsid, libc::SYS_setsid,
    libc::SYS_set_tid_address, libc::SYS_set_robust_list, libc::SYS_get_robust_list,
    libc::SYS_rseq, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_restart_syscall,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam, libc::SYS_sched_setparam, libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler, libc::SYS_sched_getattr, libc::SYS_sched_setattr,
    libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_sched_rr_get_interval, libc::SYS_getpriority, libc::SYS_setpriority,
    libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_getcpu, libc::SYS_getrusage,
    libc::SYS_times, libc::SYS_prlimit64, libc::SYS_prctl, libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrandom,
    // signals
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait, libc::SYS_sigaltstack,
    // time
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_getitimer, libc::SYS_setitimer,
    libc::SYS_timer_create, libc::SYS_timer_settime, libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun, libc::SYS_timer_delete,
    // users; what they may become is the capabilities' business
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid,
    libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_setuid, libc::SYS_setgid,
    libc::SYS_setreuid, libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid,
    libc::SYS_setgroups, libc::SYS_setfsuid, libc::SYS_setfsgid, libc::SYS_capget,
    libc::SYS_capset,
    // sockets, once made
    libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_recvfrom,
    libc::SYS_recvmsg, libc::SYS_recvmmsg, libc::SYS_shutdown,
    // System V and POSIX communication, inside the sandbox's own namespace
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_semget,
    libc::SYS_semop, libc::SYS_semtimedop, libc::SYS_semctl, libc::SYS_msgget, libc::SYS_msgsnd,
    libc::SYS_msgrcv, libc::SYS_msgctl, libc::SYS_mq_open, libc::SYS_mq_unlink,
    libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive, libc::SYS_mq_notify,
    libc::SYS_mq_getsetattr,
    // newer than the C library's table, with the same number everywhere: cachestat,
    // map_shadow_stack, futex_wake, futex_wait, futex_requeue, statmount, listmount,
    // lsm_get_self_attr, lsm_list_modules, the four *xattrat, file_getattr
    451, 453, 454, 455, 456, 457, 458, 459, 461, 463, 464, 465, 466, 468,
];

/// Same number everywhere but on x86-64; the C library's table lacks it for some.
#[cfg(target_arch = "x86_64")]
const RENAMEAT: libc::c_long = libc::SYS_renameat;
#[cfg(target_arch = "aarch64")]
const RENAMEAT: libc::c_long = 38;
#[cfg(target_arch = "x86_64")]
const IO_PGETEVENTS: libc::c_long = 333;
#[cfg(target_arch = "aarch64")]
const IO_PGETEVENTS: libc::c_long = 292;
const FCHMODAT2: libc::c_long = 452;

/// Calls that only the oldest architecture still has.
#[rustfmt::skip]
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_creat, libc::SYS_access, libc::SYS_stat, libc::SYS_lstat,
    libc::SYS_readlink, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_mknod, libc::SYS_unlink,
    libc::SYS_symlink, libc::SYS_link, libc::SYS_rename, libc::SYS_chmod, libc::SYS_chown,
    libc::SYS_lchown, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat, libc::SYS_getdents,
    libc::SYS_dup2, libc::SYS_pipe, libc::SYS_select, libc::SYS_poll, libc::SYS_epoll_create,
    libc::SYS_epoll_wait, libc::SYS_eventfd, libc::SYS_signalfd, libc::SYS_inotify_init,
    libc::SYS_sync_file_range, libc::SYS_fork, libc::SYS_vfork, libc::SYS_getpgrp,
    libc::SYS_pause, libc::SYS_alarm, libc::SYS_time, libc::SYS_getrlimit, libc::SYS_setrlimit,
    libc::SYS_arch_prctl, libc::SYS_get_thread_area, libc::SYS_set_thread_area,
];
/// sync_file_range, getrlimit, setrlimit, which the C library's table lacks.
#[rustfmt::skip]
#[cfg(target_arch = "aarch64")]
const ALLOWED_HERE: &[libc::c_long] = &[84, 163, 164];

/// Every rule, by number.
pub(super) fn rules() -> BTreeMap<u32, Verdict> {
    let mut rules: BTreeMap<u32, Verdict> = ALLOWED
        .iter()
        .chain(ALLOWED_HERE)
        .map(|call| (number(*call), Verdict::Allow))
        .collect();
    let mut set = |call: libc::c_long, verdict: Verdict| {
        rules.insert(number(call), verdict);
    };
    set(libc::SYS_clone, clone());
    // Its flags stand in memory, out of a filter's sight. ENOSYS makes C libraries fall back to
    // clone, which EPERM would not.
    set(libc::SYS_clone3, Verdict::Answer(errno(libc::ENOSYS)));
    set(libc::SYS_personality, personality());
    set(libc::SYS_socket, socket());
    set(libc::SYS_socketpair, socket_pair());
    set(libc::SYS_ioctl, ioctl());
    // They would flush the whole machine's disks, from every sandbox as often as it likes.
    set(libc::SYS_sync, Verdict::Answer(0));
    set(libc::SYS_syncfs, Verdict::Answer(0));
    rules
}

pub(super) fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("system call numbers are small")
}

pub(super) fn allow_only(argument: u32, values: &[u32], refusal: libc::c_int) -> Verdict {
    Verdict::ByArgument {
        argument,
        mask: u32::MAX,
        cases: values
            .iter()
            .map(|value| (*value, Verdict::Allow))
            .collect(),
        otherwise: Box::new(Verdict::Answer(errno(refusal))),
    }
}

fn clone() -> Verdict {
    Verdict::ByArgument {
        argument: 0,
        mask: NEW_NAMESPACES,
        cases: vec![(0, Verdict::Allow)],
        otherwise: Box::new(Verdict::Answer(errno(libc::EPERM))),
    }
}

/// The ordinary ones, with and without a pretended older version, and asking for the present one.
fn personality() -> Verdict {
    allow_only(
        0,
        &[0, 0x0008, 0x0002_0000, 0x0002_0008, 0xffff_ffff],
        libc::EPERM,
    )
}

/// Local and internet sockets; of netlink only routing, which asks for addresses and interfaces.
fn socket() -> Verdict {
    let refusal = Verdict::Answer(errno(libc::EAFNOSUPPORT));
    let netlink = Verdict::ByArgument {
        argument: 2,
        mask: u32::MAX,
        cases: vec![(0, Verdict::Allow)],
        otherwise: Box::new(Verdict::Answer(errno(libc::EPROTONOSUPPORT))),
    };
    Verdict::ByArgument {
        argument: 0,
        mask: u32::MAX,
        cases: vec![
            (family(libc::AF_UNIX), Verdict::Allow),
            (family(libc::AF_INET), Verdict::Allow),
            (family(libc::AF_INET6), Verdict::Allow),
            (family(libc::AF_NETLINK), netlink),
        ],
        otherwise: Box::new(refusal),
    }
}

fn socket_pair() -> Verdict {
    allow_only(0, &[family(libc::AF_UNIX)], libc::EAFNOSUPPORT)
}

pub(super) fn family(family: libc::c_int) -> u32 {
    family.unsigned_abs()
}

/// All but typing into a terminal from inside it, pasting from the console, and loading line
/// disciplines.
fn ioctl() -> Verdict {
    const TIOCSETD: u32 = 0x5423;
    const TIOCSTI: u32 = 0x5412;
    const TIOCLINUX: u32 = 0x541c;
    Verdict::ByArgument {
        argument: 1,
        mask: u32::MAX,
        cases: [TIOCSTI, TIOCLINUX, TIOCSETD]
            .map(|command| (command, Verdict::Answer(errno(libc::EPERM))))
            .to_vec(),
        otherwise: Box::new(Verdict::Allow),
    }
}
