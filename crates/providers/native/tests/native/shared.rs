//! Nothing that two sandboxes, or a sandbox and the host, can both lock, watch or look at.

use std::collections::BTreeSet;

use crate::support::{Sandbox, World, need_root};

/// Files and directories that every sandbox has, and that used to be one for the whole machine.
const PLACES: &str = "['/dev', '/dev/null', '/dev/zero', '/dev/full', '/dev/random', '/dev/urandom', '/dev/shm', '/dev/mqueue', \
    '/dev/pts', '/sys', '/sys/firmware', '/sys/devices/system/cpu', '/sys/devices/system/cpu/online', \
    '/sys/devices/system/node', '/sys/kernel/mm/transparent_hugepage/enabled', '/proc', '/proc/cmdline', \
    '/proc/interrupts', '/proc/pressure', '/proc/bus', '/proc/meminfo', '/proc/self/ns/user', '/proc/self/ns/time', \
    '/proc/self/ns/ipc', '/usr', '/usr/bin/env', '/etc/passwd', '/']";

/// Numbers of the file systems in a mount table.
fn devices(mount_table: &str) -> BTreeSet<String> {
    mount_table
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn no_file_system_is_in_two_places() {
    need_root!();
    let world = World::start().await;
    let (one, two) = (world.spawn().await, world.spawn().await);
    let table = async |sandbox: &Sandbox| sandbox.sh("cat /proc/self/mountinfo").await.ok();
    let (first, second) = (table(&one).await, table(&two).await);
    let host = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let both = |a: &str, b: &str| {
        let shared: Vec<String> = devices(a).intersection(&devices(b)).cloned().collect();
        assert_eq!(shared, [""; 0], "\n{a}\n{b}");
    };
    assert!(devices(&first).len() > 4, "{first}");
    both(&first, &second);
    both(&first, &host);

    let list = "cd /proc/self/ns && for n in *; do readlink $n; done";
    let (first, second) = (one.sh(list).await.ok(), two.sh(list).await.ok());
    for name in first.lines() {
        assert!(!second.contains(name), "{name} is in both");
        let kind = name.split(':').next().unwrap_or_default();
        if let Ok(hosts) = std::fs::read_link(format!("/proc/self/ns/{kind}")) {
            assert_ne!(hosts.to_str(), Some(name), "it is the host's");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn locks_do_not_cross() {
    need_root!();
    let world = World::start().await;
    let (one, two) = (world.spawn().await, world.spawn().await);
    // Opened for reading alone, which suffices for a lock of the whole file.
    let lock = format!(
        "import fcntl, os, time\nheld, n, own = [], 0, set()\nfor p in {PLACES}:\n  try: f = os.open(p, os.O_RDONLY)\n  except OSError: continue\n  held.append(f)\n  s = os.fstat(f)\n  if (s.st_dev, s.st_ino) in own: continue\n  own.add((s.st_dev, s.st_ino))\n  n += 1\n  try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n  except OSError: print('busy', p)\nprint(n > 15)\n"
    );
    let hold = format!(
        "{lock}\nopen('/workspace/held', 'w').close()\nwhile not os.path.exists('/workspace/stop'): time.sleep(0.01)"
    );
    one.write("/workspace/hold.py", &hold).await.unwrap();
    one.sh("python3 /workspace/hold.py >/workspace/said 2>&1 &")
        .await
        .ok();
    wait_for(&one, "/workspace/held").await;
    let said = one.read("/workspace/said").await.unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!said.contains("busy"), "{said}");
    assert_eq!(two.python(&lock).await.ok(), "True");
    for path in [
        "/dev/null",
        "/dev/urandom",
        "/sys/devices/system/cpu",
        "/sys/devices/system/cpu/online",
        "/proc/self/ns/time",
        "/usr",
        "/usr/bin/env",
    ] {
        let Ok(file) = std::fs::File::open(path) else {
            continue;
        };
        let taken = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
        assert_eq!(taken, Ok(()), "the sandbox holds the host's {path}");
    }
    // The same within one sandbox does cross, so the check can fail.
    let again = one.python(&lock).await.ok();
    assert!(again.contains("busy /dev/null"), "{again}");
    one.write("/workspace/stop", "").await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn watches_do_not_cross() {
    need_root!();
    let world = World::start().await;
    let (one, two) = (world.spawn().await, world.spawn().await);
    let watch = format!(
        r"
import ctypes, os, struct, time
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.inotify_init1(os.O_NONBLOCK)
names = {{}}
for p in {PLACES}:
    # Every event, and directories as such.
    wd = libc.inotify_add_watch(fd, p.encode(), 0xfff)
    if wd >= 0: names[wd] = p
print(len(names) > 15)
open('/workspace/ready', 'w').close()
while not os.path.exists('/workspace/stop'): time.sleep(0.01)
seen = set()
try:
    while True:
        data = os.read(fd, 65536)
        while data:
            wd, mask, cookie, length = struct.unpack_from('iIII', data)
            seen.add(names.get(wd, '?'))
            data = data[16 + length:]
except BlockingIOError: pass
# Its own: it has looked for the end itself.
print(sorted(seen - {{'/'}}))
open('/workspace/done', 'w').close()
"
    );
    one.write("/workspace/watch.py", &watch).await.unwrap();
    one.sh("exec python3 -u /workspace/watch.py </dev/null >/workspace/said 2>&1 &")
        .await
        .ok();
    wait_for(&one, "/workspace/ready").await;
    let touch = format!(
        "import os\nfor p in {PLACES}:\n  try:\n    f = os.open(p, os.O_RDONLY)\n    (os.listdir if os.path.isdir(p) else lambda f: os.read(f, 1))(f)\n    os.close(f)\n  except OSError: pass\nopen('/dev/shm/x', 'w').close()\nopen('/dev/null', 'w').write('x')"
    );
    two.python(&touch).await.ok();
    for path in ["/dev", "/sys/devices/system/cpu", "/usr"] {
        let _ = std::fs::read_dir(path).map(Iterator::count);
    }
    for path in [
        "/dev/null",
        "/dev/zero",
        "/sys/devices/system/cpu/online",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/proc/self/ns/time",
        "/usr/bin/env",
    ] {
        let file = std::fs::File::open(path);
        let _ = file.map(|mut file| std::io::Read::read(&mut file, &mut [0]));
    }
    one.write("/workspace/stop", "").await.unwrap();
    wait_for(&one, "/workspace/done").await;
    let said = one.read("/workspace/said").await.unwrap();
    assert_eq!(String::from_utf8_lossy(&said), "True\n[]\n");
    world.finish().await;
}

async fn wait_for(sandbox: &Sandbox, path: &str) {
    stacyvm_testing::eventually(path, async || sandbox.read(path).await.is_ok()).await;
}

#[tokio::test]
async fn the_machine_is_not_described_and_programs_that_measure_it_work() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let code = r"
import os
for name in ('cmdline', 'config.gz', 'diskstats', 'interrupts', 'iomem', 'ioports', 'kcore', 'key-users', 'keys', 'kmsg',
             'latency_stats', 'mdstat', 'modules', 'partitions', 'sched_debug', 'schedstat', 'softirqs', 'swaps', 'timer_list',
             'acpi', 'asound', 'bus', 'driver', 'fs', 'irq', 'pressure', 'scsi'):
    path = '/proc/' + name
    try: found = os.listdir(path) if os.path.isdir(path) else open(path, 'rb').read(64)
    except OSError: continue
    if found: print(path, found)
";
    for user in ["user", "root"] {
        assert_eq!(sandbox.python_as(user, code).await.ok(), "", "{user}");
    }
    for program in [
        "nproc",
        "free",
        "ps ax",
        "top -bn1",
        "uptime",
        "vmstat",
        "lscpu",
        "df",
        "mount",
        "lsblk",
        "python3 -c 'import os; print(os.cpu_count(), os.getloadavg(), os.sysconf(\"SC_PHYS_PAGES\"))'",
    ] {
        let name = program.split(' ').next().unwrap_or_default();
        let script = format!("command -v {name} >/dev/null || exit 0; {program}");
        let outcome = sandbox.sh(&script).await;
        if name == "lsblk" {
            // It names no disk, whatever it makes of that.
            assert_eq!(outcome.stdout.lines().skip(1).count(), 0, "{outcome:?}");
        } else {
            assert_eq!(outcome.exit.exit_code, 0, "{program}: {outcome:?}");
        }
    }
    let processors = sandbox.sh("cat /sys/devices/system/cpu/online").await.ok();
    let hosts = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert_eq!(processors, hosts.trim());
    world.finish().await;
}
