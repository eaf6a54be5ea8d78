//! System calls that no sandbox may make, one test each, asked with the bare number.

use crate::support::{World, need_root};

/// Tries `code`, which has `call(number, …)` and prints the error's name, as both users.
async fn refused(code: &str) {
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let program = format!(
        r"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    print('worked' if result >= 0 else errno.errorcode[ctypes.get_errno()])
{code}
"
    );
    for user in ["user", "root"] {
        let outcome = sandbox.python_as(user, &program).await;
        // SIGSYS is as good an answer as an error.
        if outcome.exit.signal == Some(31) {
            continue;
        }
        let answers = outcome.ok();
        assert!(!answers.is_empty());
        for answer in answers.lines() {
            assert!(
                matches!(answer, "EPERM" | "ENOSYS"),
                "{user} got {answer} for {code}"
            );
        }
    }
    assert_eq!(sandbox.sh("echo alive").await.ok(), "alive");
    world.finish().await;
}

macro_rules! refused {
    ($($name:ident: $code:expr;)*) => {$(
        #[tokio::test]
        async fn $name() {
            need_root!();
            refused($code).await;
        }
    )*};
}

// Numbers of the two architectures from the kernel's arch/x86/entry/syscalls/syscall_64.tbl and
// include/uapi/asm-generic/unistd.h.
#[cfg(target_arch = "x86_64")]
refused! {
    mount: "call(165, b'none', b'/tmp', b'tmpfs', 0, 0)";
    new_mount_calls: "call(430, b'tmpfs', 0)\ncall(428, -100, b'/', 1)\ncall(429, 0, b'', -100, b'/tmp', 4)\ncall(442, -100, b'/', 0, 0, 0)";
    umount_and_pivot_root: "call(166, b'/proc', 2)\ncall(155, b'/', b'/tmp')\ncall(161, b'/tmp')";
    ptrace: "call(101, 0, 0, 0, 0)\ncall(101, 16, 1, 0, 0)";
    memory_of_others: "call(310, 1, 0, 0, 0, 0, 0)\ncall(311, 1, 0, 0, 0, 0, 0)\ncall(312, 1, 1, 0, 0, 0)";
    kernel_modules: "call(175, 0, 0, b'')\ncall(313, 0, b'', 0)\ncall(176, b'x', 0)\ncall(246, 0, 0, 0, 0, 0)\ncall(320, 0, 0, 0, 0, 0)";
    bpf: "call(321, 0, 0, 0)";
    perf: "call(298, 0, 0, -1, -1, 0)";
    key_rings: "call(250, 0, -3, 0, 0, 0)\ncall(248, b'user', b'x', b'x', 1, -3)\ncall(249, b'user', b'x', 0, 0)";
    userfaultfd: "call(323, 0)";
    io_uring: "call(425, 8, 0)\ncall(426, 0, 0, 0, 0, 0)\ncall(427, 0, 0, 0, 0)";
    unshare_a_user_namespace: "call(272, 0x10000000)";
    unshare_other_namespaces: "[call(272, kind) for kind in (0x20000, 0x40000000, 0x20000000, 0x4000000, 0x8000000, 0x2000000)]";
    clone_a_user_namespace: "call(56, 0x10000000 | 17, 0, 0, 0, 0)";
    clone3: "call(435, (ctypes.c_uint64 * 11)(), 88)";
    join_a_namespace: "call(308, os.open('/proc/self/ns/user', 0), 0)";
    handles_to_files: "call(304, 0, 0, 0)\ncall(303, -100, b'/', 0, 0, 0)";
    time_and_reboot: "call(227, 0, 0)\ncall(164, 0, 0)\ncall(169, 0xfee1dead, 672274793, 0, 0)\ncall(167, b'x', 0)";
    host_name: "call(170, b'x', 1)\ncall(171, b'x', 1)";
    x32_calls: "call(0x40000000 + 39)\ncall(0x40000000 + 2, b'/etc/passwd', 0)";
    calls_of_32_bit_programs: r"
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))
function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
result = function()
print('worked' if result >= 0 else errno.errorcode[-result])";
}

#[cfg(target_arch = "aarch64")]
refused! {
    mount: "call(40, b'none', b'/tmp', b'tmpfs', 0, 0)";
    ptrace: "call(117, 0, 0, 0, 0)\ncall(117, 16, 1, 0, 0)";
    kernel_modules: "call(105, 0, 0, b'')\ncall(273, 0, b'', 0)";
    bpf: "call(280, 0, 0, 0)";
    key_rings: "call(219, 0, -3, 0, 0, 0)";
    userfaultfd: "call(282, 0)";
    io_uring: "call(425, 8, 0)";
    unshare_a_user_namespace: "call(97, 0x10000000)";
    clone_a_user_namespace: "call(220, 0x10000000 | 17, 0, 0, 0, 0)";
    clone3: "call(435, (ctypes.c_uint64 * 11)(), 88)";
}
