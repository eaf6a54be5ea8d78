//! What a sandbox sees of itself and of the host.

use std::collections::BTreeMap;

use crate::support::{Canary, World, need_root};

/// `/proc/PID/status` as seen from the host, of a process that lives.
fn status(pid: i32) -> BTreeMap<String, String> {
    status_of(pid).unwrap()
}

/// The same of one that may have ended meanwhile.
fn status_of(pid: i32) -> Option<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(parse_status(&text))
}

fn parse_status(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The host's process ids of what runs in a sandbox.
fn members(world: &World, id: &stacyvm_types::SandboxId) -> Vec<i32> {
    let procs = world.cgroups(id)[0].join("cgroup.procs");
    let text = std::fs::read_to_string(procs).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test]
async fn the_user_is_neither_root_nor_anybody_of_the_host() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    assert_eq!(
        sandbox.sh("id -u; id -g; id -un; id -G").await.ok(),
        "1000\n1000\nuser\n1000"
    );
    sandbox.sh("sleep 600 >/dev/null 2>&1 &").await.ok();
    let mut looked_at = 0;
    for pid in members(&world, &sandbox.id) {
        // The agent and the one in the background stay; a shell may be on its way out.
        let Some(status) = status_of(pid) else {
            continue;
        };
        looked_at += 1;
        for field in ["Uid", "Gid"] {
            for number in status[field].split_whitespace() {
                let number: u32 = number.parse().unwrap();
                assert!(
                    (0x2000_0000..0x6000_0000).contains(&number),
                    "{field} of process {pid} is {number} on the host"
                );
            }
        }
    }
    assert!(looked_at >= 2, "{looked_at}");
    world.finish().await;
}

#[tokio::test]
async fn two_sandboxes_never_share_an_id() {
    need_root!();
    let world = World::start().await;
    let (one, two) = (world.spawn().await, world.spawn().await);
    let uid = |id| status(world.provider().first_process(id).unwrap())["Uid"].clone();
    assert_ne!(uid(&one.id), uid(&two.id));
    world.finish().await;
}

#[tokio::test]
async fn privileges_are_gone_for_good() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    for user in ["user", "root"] {
        let seen = parse_status(&sandbox.sh_as(user, "cat /proc/self/status").await.ok());
        assert_eq!(seen["NoNewPrivs"], "1", "{user}");
        assert_eq!(seen["Seccomp"], "2", "{user}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(seen[set], "0000000000000000", "{set} of {user}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn the_agent_has_only_what_it_needs() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let agent = status(world.provider().first_process(&sandbox.id).unwrap());
    // kill, setgid and setuid: bits 5, 6 and 7, see capabilities(7).
    for set in ["CapPrm", "CapEff"] {
        assert_eq!(agent[set], "00000000000000e0", "{set}");
    }
    for set in ["CapInh", "CapBnd", "CapAmb"] {
        assert_eq!(agent[set], "0000000000000000", "{set}");
    }
    assert_eq!(agent["NoNewPrivs"], "1");
    assert_eq!(agent["Seccomp"], "2");
    world.finish().await;
}

#[tokio::test]
async fn only_its_own_processes_are_visible() {
    need_root!();
    let world = World::start().await;
    let (sandbox, other) = (world.spawn().await, world.spawn().await);
    other.sh("sleep 4711 >/dev/null 2>&1 &").await.ok();
    let seen = sandbox
        .python(
            "import os\nfor p in os.listdir('/proc'):\n  if p.isdigit():\n    print(p, ascii(open(f'/proc/{p}/cmdline').read()))",
        )
        .await
        .ok();
    assert!(seen.lines().count() <= 3, "{seen}");
    assert!(!seen.contains("4711"), "{seen}");
    let own = std::env::current_exe().unwrap();
    assert!(
        !seen.contains(own.file_name().unwrap().to_str().unwrap()),
        "{seen}"
    );
    world.finish().await;
}

#[tokio::test]
async fn nothing_of_the_hosts_is_readable() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let canaries =
        ["/root", "/home", "/opt", "/srv", "/var/lib", "/tmp", "/etc"].map(Canary::below);
    let mut paths: Vec<String> = canaries.iter().map(|canary| canary.path.clone()).collect();
    let data = world.config.data_dir.to_str().unwrap().to_owned();
    let box_dir = world.box_dir(&sandbox.id).to_str().unwrap().to_owned();
    for path in [
        &data,
        &box_dir,
        &format!("{box_dir}/agent.sock"),
        &format!("{box_dir}/meta.json"),
    ] {
        paths.push(path.clone());
    }
    for path in [
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/ssh",
        "/etc/sudoers",
        "/etc/machine-id",
        "/etc/hostname",
        "/proc/kcore",
        "/proc/keys",
        "/proc/1/environ",
        "/proc/1/mem",
        "/proc/1/root/etc/passwd",
        "/sys/firmware/acpi",
        "/sys/kernel/security",
        "/boot/vmlinuz",
        "/dev/sda",
        "/dev/vda",
        "/dev/mem",
        "/dev/kmsg",
    ] {
        paths.push(path.to_owned());
    }
    let code = format!(
        "import os\nfor p in {paths:?}:\n  try:\n    d = os.listdir(p) if os.path.isdir(p) else open(p, 'rb').read(64)\n    if d: print(p, d)\n  except OSError: pass"
    );
    for user in ["user", "root"] {
        assert_eq!(sandbox.python_as(user, &code).await.ok(), "", "{user}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_hosts_name_and_mounts_are_not_visible() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    assert_eq!(sandbox.sh("uname -n").await.ok(), sandbox.id.as_str());
    let mounts = sandbox
        .sh("cat /proc/self/mountinfo /proc/self/mounts")
        .await
        .ok();
    let data = world.config.data_dir.to_str().unwrap();
    assert!(!mounts.contains(data), "{mounts}");
    let groups = sandbox.sh("cat /proc/self/cgroup").await.ok();
    assert!(!groups.contains(&world.config.instance), "{groups}");
    world.finish().await;
}

#[tokio::test]
async fn the_hosts_ports_and_sockets_are_out_of_reach() {
    need_root!();
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    let world = World::start().await;
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let everywhere = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let name = format!("stacyvm-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();

    let sandbox = world.spawn().await;
    let code = format!(
        r"
import socket
def attempt(family, address):
    s = socket.socket(family)
    s.settimeout(5)
    try:
        s.connect(address)
        print('reached', address)
    except OSError: pass
for port in ({}, {}):
    for host in ('127.0.0.1', '127.1.2.3', '10.0.0.1', '192.168.0.1', '169.254.169.254'):
        attempt(socket.AF_INET, (host, port))
attempt(socket.AF_UNIX, '\0{name}')
attempt(socket.AF_UNIX, '{}/agent.sock')
",
        tcp.local_addr().unwrap().port(),
        everywhere.local_addr().unwrap().port(),
        world.box_dir(&sandbox.id).display(),
    );
    for user in ["user", "root"] {
        assert_eq!(sandbox.python_as(user, &code).await.ok(), "", "{user}");
    }
    // Its own loopback works.
    let own = "import socket\ns = socket.create_server(('127.0.0.1', 0))\nsocket.create_connection(s.getsockname())\nprint('own')";
    assert_eq!(sandbox.python(own).await.ok(), "own");
    let interfaces = "import socket\nprint(socket.if_nameindex())";
    assert_eq!(sandbox.python(interfaces).await.ok(), "[(1, 'lo')]");
    world.finish().await;
}

#[tokio::test]
async fn there_are_no_devices_but_the_harmless_ones() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let code = r"
import os, stat
for base, dirs, names in os.walk('/dev'):
    for name in names:
        path = os.path.join(base, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISBLK(mode): print('block', path)
        if stat.S_ISCHR(mode): print('char', path)
for kind in (stat.S_IFCHR, stat.S_IFBLK):
    for where in ('/dev/new', '/tmp/new', '/workspace/new'):
        try:
            os.mknod(where, kind | 0o666, os.makedev(1, 3))
            print('made', where)
        except OSError: pass
";
    let allowed = [
        "full", "null", "ptmx", "random", "tty", "urandom", "zero", "console",
    ];
    for user in ["user", "root"] {
        let seen = sandbox.python_as(user, code).await.ok();
        for line in seen.lines() {
            let name = line
                .strip_prefix("char /dev/")
                .unwrap_or_else(|| panic!("{user}: {line}"));
            assert!(
                allowed.contains(&name) || name.starts_with("pts/"),
                "{user}: {line}"
            );
        }
        assert!(seen.contains("/dev/null"), "{seen}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_kernels_settings_cannot_be_changed() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    let code = r"
import os
for path in ('/proc/sys/kernel/hostname', '/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches',
             '/proc/sys/net/ipv4/ip_forward', '/proc/sys/kernel/ns_last_pid', '/proc/sysrq-trigger',
             '/proc/irq/0/smp_affinity', '/proc/1/oom_score_adj', '/proc/self/uid_map', '/proc/self/setgroups',
             '/sys/kernel/mm/transparent_hugepage/enabled', '/sys/power/state',
             '/sys/fs/cgroup/memory/memory.limit_in_bytes', '/sys/fs/cgroup/cgroup.procs'):
    try:
        with open(path, 'w') as f: f.write('1')
        print('wrote', path)
    except OSError: pass
";
    for user in ["user", "root"] {
        assert_eq!(sandbox.python_as(user, code).await.ok(), "", "{user}");
    }
    world.finish().await;
}

#[tokio::test]
async fn programs_with_the_setuid_bit_give_nothing() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn().await;
    sandbox
        .sh_as(
            "root",
            "cp /usr/bin/id /tmp/id && chmod 6755 /tmp/id && ls -l /tmp/id",
        )
        .await
        .ok();
    assert_eq!(sandbox.sh("stat -c %u:%a /tmp/id").await.ok(), "0:6755");
    assert_eq!(
        sandbox.sh("/tmp/id -u; /tmp/id -g").await.ok(),
        "1000\n1000"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_read_only_root_leaves_two_places_to_write() {
    need_root!();
    let world = World::start().await;
    let sandbox = world.spawn_with(|spec| spec.read_only_rootfs = true).await;
    for user in ["user", "root"] {
        for path in [
            "/x",
            "/etc/x",
            "/usr/x",
            "/var/tmp/x",
            "/home/user/x",
            "/root/x",
            "/run/x",
            "/dev/x",
        ] {
            let tried = sandbox.sh_as(user, &format!("echo x > {path}")).await;
            assert_ne!(tried.exit.exit_code, 0, "{user} wrote {path}");
        }
    }
    sandbox
        .sh("echo x > /workspace/x && echo x > /tmp/x && cat /workspace/x /tmp/x")
        .await
        .ok();
    sandbox.write("/workspace/api", "x").await.unwrap();
    assert!(sandbox.write("/etc/api", "x").await.is_err());
    world.finish().await;
}

#[tokio::test]
async fn an_ordinary_root_is_private_and_writable_where_it_should_be() {
    need_root!();
    let world = World::start().await;
    let (one, two) = (world.spawn().await, world.spawn().await);
    one.sh("echo one > /workspace/x; echo one > /tmp/x; echo one > /home/user/x")
        .await
        .ok();
    one.sh_as(
        "root",
        "echo changed > /usr/share/stacyvm-test && echo changed >> /etc/passwd && rm /usr/bin/env",
    )
    .await
    .ok();
    assert_eq!(two.sh("ls /workspace /tmp; test -e /usr/share/stacyvm-test || echo clean; grep -c changed /etc/passwd; test -e /usr/bin/env && echo there").await.stdout.trim(), "/tmp:\n\n/workspace:\nclean\n0\nthere");
    assert!(!std::path::Path::new("/usr/share/stacyvm-test").exists());
    assert!(std::path::Path::new("/usr/bin/env").exists());
    // As the user, the system's own files cannot be changed even inside.
    assert_ne!(two.sh("echo x >> /etc/passwd").await.exit.exit_code, 0);
    world.finish().await;
}
