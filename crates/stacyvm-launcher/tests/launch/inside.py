"""Looks at a sandbox from inside and writes what it sees to /workspace/facts.json."""
import ctypes, json, os, resource, socket, stat, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def errno_of(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    return 0 if result >= 0 else ctypes.get_errno()


def attempt(action):
    try:
        action()
        return 0
    except OSError as error:
        return error.errno


def write(path, text="x"):
    def action():
        with open(path, "w") as file:
            file.write(text)
    return action


def status():
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def low_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 80))
        listener.listen()
        with socket.create_connection(("127.0.0.1", 80), timeout=5):
            pass


def kill_sibling():
    child = subprocess.Popen(["sleep", "1000"])
    child.kill()
    return child.wait()


def rename_across():
    os.makedirs("/workspace/a", exist_ok=True)
    os.makedirs("/workspace/b", exist_ok=True)
    write("/workspace/a/file")()
    os.rename("/workspace/a/file", "/workspace/b/file")


def terminal():
    leader, follower = os.openpty()
    os.write(follower, b"x")
    return os.ttyname(follower)


def owner(path):
    found = os.stat(path)
    return [found.st_uid, found.st_gid, oct(stat.S_IMODE(found.st_mode))]


def read(path):
    with open(path) as file:
        return file.read()


def covered(path):
    """What can be read there; nothing of it when it is empty, closed or not there."""
    try:
        if os.path.isdir(path):
            return " ".join(os.listdir(path))
        with open(path, "rb") as file:
            return ascii(file.read(64)).removeprefix("b").strip("'")
    except OSError:
        return ""


# What describes the machine, or what it is doing.
COVERED = ("acpi", "asound", "bus", "cmdline", "config.gz", "diskstats", "driver", "fs", "interrupts",
           "iomem", "ioports", "irq", "kcore", "key-users", "keys", "kmsg", "latency_stats", "mdstat",
           "modules", "partitions", "pressure", "sched_debug", "schedstat", "scsi", "softirqs", "swaps",
           "sysrq-trigger", "timer_list")

# Numbers of the x86-64 table; the other machines' tests leave them out.
CALLS = {
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "chroot": (161, 0),
    "ptrace": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "keyctl": (250, 0, 0, 0, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "userfaultfd": (323, 0),
    "io_uring_setup": (425, 1, 0),
    "unshare_user": (272, 0x10000000),
    "clone_user": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "setns": (308, 0, 0),
    "init_module": (175, 0, 0, 0),
    "finit_module": (313, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "x32_getpid": (0x40000000 | 39,),
    "sethostname": (170, 0, 0),
    "settimeofday": (164, 0, 0),
    "swapon": (167, 0, 0),
    "syslog": (103, 3, 0, 0),
}

facts = {
    "status": status(),
    "ids": [os.getresuid(), os.getresgid(), os.getgroups()],
    "pid": os.getpid(),
    "hostname": socket.gethostname(),
    "mounts": read("/proc/self/mountinfo"),
    "cgroup": read("/proc/self/cgroup"),
    "namespaces": {name: os.readlink("/proc/self/ns/" + name)
                   for name in os.listdir("/proc/self/ns")},
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    "standard": [os.readlink("/proc/self/fd/%d" % number) for number in (0, 1, 2)],
    "environment": dict(os.environ),
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "calls": {name: errno_of(*call) for name, call in CALLS.items()},
    "sync": errno_of(162),
    "clone3": errno_of(435, 0, 0),
    "vsock": attempt(lambda: socket.socket(40, socket.SOCK_STREAM)),
    "packet": attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "limits": {"files": resource.getrlimit(resource.RLIMIT_NOFILE),
               "core": resource.getrlimit(resource.RLIMIT_CORE)},
    "umask": os.umask(0o022),
    "low_port": attempt(low_port),
    "kill_sibling": kill_sibling(),
    "rename_across": attempt(rename_across),
    "terminal": terminal(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "owners": {path: owner(path) for path in
               ("/", "/workspace", "/tmp", "/usr/bin/env", "/etc/owned-by-root", "/dev/null",
                "/dev/shm", "/proc", "/sys")},
    "devices": sorted(os.listdir("/dev")),
    "sys": sorted(os.listdir("/sys")),
    "cpu_online": read("/sys/devices/system/cpu/online"),
    "covered": {name: covered("/proc/" + name) for name in COVERED},
    "writes": {path: attempt(write(path)) for path in
               ("/workspace/new", "/tmp/new", "/dev/shm/new", "/etc/new", "/etc/owned-by-root",
                "/etc/for-everybody", "/usr/new", "/dev/new", "/sys/new", "/proc/sys/kernel/hostname",
                "/proc/sysrq-trigger", "/dev/null")},
    "fifo": attempt(lambda: os.mkfifo("/workspace/fifo")),
    "device_node": attempt(lambda: os.mknod("/workspace/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))),
}

text = json.dumps(facts)
target = sys.argv[1]
write(target + ".unfinished", text)()
os.rename(target + ".unfinished", target)
