#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::program::{
    AND, ARCHITECTURE, Instruction, JUMP, JUMP_AT_LEAST, JUMP_EQUAL, LOAD, OFFSET_ARCHITECTURE,
    OFFSET_ARGUMENTS, OFFSET_NUMBER, RETURN, Verdict, X32_BIT, assemble,
};
use super::{filter, list, network, network_filter};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn answer(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}

/// Runs a program as the kernel would; panics on whatever the kernel would refuse.
fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let instruction = program.get(at).expect("no jump leaves the program");
        at += 1;
        match instruction.code {
            LOAD => {
                accumulator = match instruction.constant {
                    OFFSET_NUMBER => number,
                    OFFSET_ARCHITECTURE => architecture,
                    offset => {
                        let place = usize::try_from(offset - OFFSET_ARGUMENTS).unwrap();
                        let bytes = arguments[place / 8].to_le_bytes();
                        u32::from_le_bytes(bytes[place % 8..place % 8 + 4].try_into().unwrap())
                    }
                };
            }
            AND => accumulator &= instruction.constant,
            JUMP => at += usize::try_from(instruction.constant).unwrap(),
            JUMP_EQUAL | JUMP_AT_LEAST => {
                let holds = if instruction.code == JUMP_EQUAL {
                    accumulator == instruction.constant
                } else {
                    accumulator >= instruction.constant
                };
                at += usize::from(if holds {
                    instruction.jump_true
                } else {
                    instruction.jump_false
                });
            }
            RETURN => return instruction.constant,
            other => panic!("an instruction that is not used: {other:#x}"),
        }
    }
}

/// What a verdict says, worked out without the program.
fn expected(verdict: Option<&Verdict>, arguments: [u64; 6]) -> u32 {
    match verdict {
        None => answer(libc::EPERM),
        Some(Verdict::Allow) => ALLOW,
        Some(Verdict::Answer(errno)) => answer((*errno).into()),
        Some(Verdict::ByArgument {
            argument,
            mask,
            cases,
            otherwise,
        }) => {
            let value = u32::try_from(arguments[*argument as usize] & u64::from(*mask)).unwrap();
            let case = cases.iter().find(|(case, _)| *case == value);
            expected(
                Some(case.map_or(otherwise, |(_, verdict)| verdict)),
                arguments,
            )
        }
    }
}

fn ask(number: libc::c_long, arguments: [u64; 6]) -> u32 {
    run(
        filter(),
        ARCHITECTURE,
        u32::try_from(number).unwrap(),
        arguments,
    )
}

fn first(argument: u64) -> [u64; 6] {
    [argument, 0, 0, 0, 0, 0]
}

#[test]
fn agrees_with_the_list_for_every_number() {
    let rules = list::rules();
    for number in 0..=u32::from(u16::MAX) {
        let want = if number > list::NEWEST_KNOWN {
            answer(libc::ENOSYS)
        } else {
            expected(rules.get(&number), [0; 6])
        };
        assert_eq!(
            run(filter(), ARCHITECTURE, number, [0; 6]),
            want,
            "system call {number}"
        );
    }
}

#[test]
fn refuses_what_a_sandbox_never_needs() {
    for call in [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_open_tree,
        libc::SYS_move_mount,
        libc::SYS_fsopen,
        libc::SYS_mount_setattr,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_sethostname,
        libc::SYS_open_by_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_syslog,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
    ] {
        assert_eq!(ask(call, [0; 6]), answer(libc::EPERM), "system call {call}");
    }
}

#[test]
fn refuses_other_ways_into_the_kernel() {
    const I386: u32 = 0x4000_0003;
    for number in [0, 1, 11, 39, 59, 300] {
        assert_eq!(
            run(filter(), I386, number, [0; 6]),
            libc::SECCOMP_RET_KILL_PROCESS
        );
        assert_eq!(
            run(filter(), ARCHITECTURE, X32_BIT | number, [0; 6]),
            answer(libc::EPERM)
        );
    }
    assert_eq!(
        run(filter(), ARCHITECTURE, u32::MAX, [0; 6]),
        answer(libc::EPERM)
    );
}

#[test]
fn looks_at_arguments_where_it_must() {
    let flags = |flags: i32| first(u64::from(flags.unsigned_abs()));
    assert_eq!(ask(libc::SYS_clone, flags(libc::SIGCHLD)), ALLOW);
    for namespace in [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWCGROUP,
    ] {
        assert_eq!(
            ask(libc::SYS_clone, flags(namespace | libc::SIGCHLD)),
            answer(libc::EPERM)
        );
    }
    assert_eq!(ask(libc::SYS_clone3, [0; 6]), answer(libc::ENOSYS));
    assert_eq!(ask(libc::SYS_sync, [0; 6]), answer(0));
    assert_eq!(ask(libc::SYS_personality, first(0xffff_ffff)), ALLOW);
    assert_eq!(
        ask(libc::SYS_personality, first(0x0040_0000)),
        answer(libc::EPERM)
    );
    for (family, want) in [
        (libc::AF_UNIX, ALLOW),
        (libc::AF_INET, ALLOW),
        (libc::AF_INET6, ALLOW),
        (libc::AF_NETLINK, ALLOW),
        (libc::AF_PACKET, answer(libc::EAFNOSUPPORT)),
        (libc::AF_ALG, answer(libc::EAFNOSUPPORT)),
        (libc::AF_VSOCK, answer(libc::EAFNOSUPPORT)),
    ] {
        assert_eq!(
            ask(libc::SYS_socket, flags(family)),
            want,
            "family {family}"
        );
    }
    assert_eq!(
        ask(libc::SYS_socket, [16, 3, 12, 0, 0, 0]),
        answer(libc::EPROTONOSUPPORT),
        "netlink to the packet filter"
    );
    assert_eq!(ask(libc::SYS_ioctl, [0, 0x5401, 0, 0, 0, 0]), ALLOW);
    assert_eq!(
        ask(libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0]),
        answer(libc::EPERM)
    );
    assert_eq!(
        ask(libc::SYS_ioctl, [0, 0xdead_0000_5412, 0, 0, 0, 0]),
        answer(libc::EPERM),
        "the kernel cuts the command to 32 bits, and so must the filter"
    );
}

#[test]
fn a_network_server_moves_bytes_and_nothing_else() {
    let program = network_filter();
    let ask = |call: libc::c_long, arguments| {
        run(&program, ARCHITECTURE, call.try_into().unwrap(), arguments)
    };
    let rules = network::rules();
    for number in 0..=list::NEWEST_KNOWN {
        let want = expected(rules.get(&number), [0; 6]);
        assert_eq!(
            run(&program, ARCHITECTURE, number, [0; 6]),
            want,
            "{number}"
        );
        // It is a part of what a sandbox may, but never more.
        if want == ALLOW {
            let sandbox = run(filter(), ARCHITECTURE, number, [0; 6]);
            assert_eq!(sandbox, ALLOW, "{number}");
        }
    }
    for call in [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_listen,
        libc::SYS_kill,
        libc::SYS_tgkill,
        libc::SYS_ptrace,
        libc::SYS_setresuid,
        libc::SYS_prctl,
        libc::SYS_memfd_create,
        libc::SYS_socketpair,
        libc::SYS_unlinkat,
        libc::SYS_mount,
    ] {
        assert_eq!(ask(call, [0; 6]), answer(libc::EPERM), "system call {call}");
    }
    let socket = |family: i32| ask(libc::SYS_socket, first(family.unsigned_abs().into()));
    assert_eq!(socket(libc::AF_INET), ALLOW);
    assert_eq!(socket(libc::AF_INET6), ALLOW);
    assert_eq!(socket(libc::AF_UNIX), answer(libc::EAFNOSUPPORT));
    assert_eq!(socket(libc::AF_NETLINK), answer(libc::EAFNOSUPPORT));
    assert_eq!(socket(libc::AF_PACKET), answer(libc::EAFNOSUPPORT));
    assert_eq!(ask(libc::SYS_mmap, [0, 0, 3, 0, 0, 0]), ALLOW);
    assert_eq!(ask(libc::SYS_mmap, [0, 0, 5, 0, 0, 0]), answer(libc::EPERM));
    assert_eq!(
        ask(libc::SYS_mprotect, [0, 0, 7, 0, 0, 0]),
        answer(libc::EPERM)
    );
}

#[test]
fn stays_short() {
    assert!(filter().len() < 400, "{} instructions", filter().len());
    // Every comparison that can be reached costs: none may be deeper than a tree allows.
    let depth = (0..=list::NEWEST_KNOWN)
        .map(|number| steps(filter(), number))
        .max();
    assert!(depth.unwrap() < 24, "{depth:?} steps");
}

fn steps(program: &[Instruction], number: u32) -> usize {
    // The interpreter again, counting: the shortest honest way to measure.
    let mut count = 0;
    let mut at = 0;
    let mut accumulator = 0;
    loop {
        let instruction = program[at];
        count += 1;
        at += 1;
        match instruction.code {
            LOAD => {
                accumulator = match instruction.constant {
                    OFFSET_NUMBER => number,
                    OFFSET_ARCHITECTURE => ARCHITECTURE,
                    _ => 0,
                }
            }
            JUMP => at += instruction.constant as usize,
            JUMP_EQUAL if accumulator == instruction.constant => {
                at += usize::from(instruction.jump_true);
            }
            JUMP_AT_LEAST if accumulator >= instruction.constant => {
                at += usize::from(instruction.jump_true);
            }
            JUMP_EQUAL | JUMP_AT_LEAST => at += usize::from(instruction.jump_false),
            RETURN => return count,
            _ => {}
        }
    }
}

fn simple_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Allow),
        (0..4096_u16).prop_map(Verdict::Answer),
    ]
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        3 => simple_verdict(),
        1 => (0..6_u32, any::<u32>(), prop::collection::vec((0..8_u32, simple_verdict()), 0..5),
              simple_verdict())
            .prop_map(|(argument, mask, cases, otherwise)| Verdict::ByArgument {
                argument,
                mask,
                cases,
                otherwise: Box::new(otherwise),
            }),
    ]
}

proptest! {
    #[test]
    fn any_rules_become_a_program_that_says_the_same(
        rules in prop::collection::btree_map(0..600_u32, verdict(), 0..400),
        calls in prop::collection::vec((0..700_u32, prop::array::uniform6(0..8_u64)), 64),
    ) {
        let rules: BTreeMap<u32, Verdict> = rules;
        let newest = 650;
        let program = assemble(&rules, newest);
        for (number, arguments) in calls {
            let want = if number > newest {
                answer(libc::ENOSYS)
            } else {
                expected(rules.get(&number), arguments)
            };
            prop_assert_eq!(run(&program, ARCHITECTURE, number, arguments), want);
        }
    }
}
