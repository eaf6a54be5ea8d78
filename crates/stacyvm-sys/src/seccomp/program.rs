//! The assembler: it turns rules by system call number into a binary tree of comparisons.
//!
//! The kernel runs the program on every call that is not always allowed, and once for each number
//! when the program is set; a tree over ranges takes seven comparisons where a list takes hundreds.
//! Every block of code ends in a return and jumps only forwards within itself, so blocks can be
//! joined freely.

use std::collections::BTreeMap;

/// One instruction of classic BPF; the layout is the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// How many instructions to skip when a comparison holds.
    pub jump_true: u8,
    /// How many instructions to skip when it does not hold.
    pub jump_false: u8,
    /// The constant.
    pub constant: u32,
}

// From linux/bpf_common.h, as far as it is needed here.
pub(super) const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
pub(super) const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub(super) const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
pub(super) const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
pub(super) const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
pub(super) const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// Offsets in `struct seccomp_data` (linux/seccomp.h).
pub(super) const OFFSET_NUMBER: u32 = 0;
pub(super) const OFFSET_ARCHITECTURE: u32 = 4;
pub(super) const OFFSET_ARGUMENTS: u32 = 16;

#[cfg(not(target_endian = "little"))]
compile_error!("arguments are read as two little-endian halves");

/// The calling convention of a call (linux/audit.h).
#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_00b7;

/// x32 calls use the x86-64 convention with this bit in their number.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The call is made.
    Allow,
    /// The call is not made and returns this errno; 0 is success without doing anything.
    Answer(u16),
    /// It depends on the low 32 bits of one argument; the kernel itself uses no more of it.
    ByArgument {
        /// Index of the argument, from 0.
        argument: u32,
        /// The bits of the argument that are compared.
        mask: u32,
        /// Values with a verdict of their own.
        cases: Vec<(u32, Verdict)>,
        /// For every other value.
        otherwise: Box<Verdict>,
    },
}

/// Builds the program. Calls without a rule answer `EPERM`, those above `newest` `ENOSYS`.
pub(super) fn assemble(rules: &BTreeMap<u32, Verdict>, newest: u32) -> Vec<Instruction> {
    let mut program = vec![
        load(OFFSET_ARCHITECTURE),
        jump(JUMP_EQUAL, ARCHITECTURE, 1, 0),
        plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS),
        load(OFFSET_NUMBER),
    ];
    program.extend(tree(&segments(rules, newest)));
    program
}

/// A run of numbers with the same verdict; it ends where the next one starts.
struct Segment {
    first: u32,
    verdict: Verdict,
}

fn segments(rules: &BTreeMap<u32, Verdict>, newest: u32) -> Vec<Segment> {
    const DENY: Verdict = Verdict::Answer(errno(libc::EPERM));
    let mut segments = Vec::new();
    let mut add = |first: u32, verdict: Verdict| {
        let same = segments
            .last()
            .is_some_and(|last: &Segment| last.verdict == verdict);
        if !same {
            segments.push(Segment { first, verdict });
        }
    };
    let mut next = 0;
    for (number, verdict) in rules {
        if *number > next {
            add(next, DENY);
        }
        add(*number, verdict.clone());
        next = number + 1;
    }
    if next <= newest {
        add(next, DENY);
    }
    add(newest + 1, Verdict::Answer(errno(libc::ENOSYS)));
    add(X32_BIT, DENY);
    segments
}

fn tree(segments: &[Segment]) -> Vec<Instruction> {
    if let [only] = segments {
        return code(&only.verdict);
    }
    let (low, high) = segments.split_at(segments.len() / 2);
    let low_code = tree(low);
    let distance = low_code.len();
    let mut program = match u8::try_from(distance) {
        Ok(distance) => vec![jump(JUMP_AT_LEAST, high[0].first, distance, 0)],
        // The distance exceeds a comparison's 8 bits; a plain jump has 32.
        Err(_) => vec![
            jump(JUMP_AT_LEAST, high[0].first, 0, 1),
            plain(JUMP, u32::try_from(distance).expect("programs are short")),
        ],
    };
    program.extend(low_code);
    program.extend(tree(high));
    program
}

fn code(verdict: &Verdict) -> Vec<Instruction> {
    match verdict {
        Verdict::Allow => vec![plain(RETURN, libc::SECCOMP_RET_ALLOW)],
        Verdict::Answer(errno) => vec![plain(RETURN, libc::SECCOMP_RET_ERRNO | u32::from(*errno))],
        Verdict::ByArgument {
            argument,
            mask,
            cases,
            otherwise,
        } => {
            let mut program = vec![load(OFFSET_ARGUMENTS + 8 * argument)];
            if *mask != u32::MAX {
                program.push(plain(AND, *mask));
            }
            for (value, verdict) in cases {
                let body = code(verdict);
                let distance = u8::try_from(body.len()).expect("bodies of cases are short");
                program.push(jump(JUMP_EQUAL, *value, 0, distance));
                program.extend(body);
            }
            program.extend(code(otherwise));
            program
        }
    }
}

pub(super) const fn errno(number: libc::c_int) -> u16 {
    assert!(number >= 0 && number < 4096, "the kernel cuts at 12 bits");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    {
        number as u16
    }
}

fn load(offset: u32) -> Instruction {
    plain(LOAD, offset)
}

fn plain(code: u16, constant: u32) -> Instruction {
    jump(code, constant, 0, 0)
}

fn jump(code: u16, constant: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction {
        code,
        jump_true,
        jump_false,
        constant,
    }
}
