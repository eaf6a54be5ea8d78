//! How the process starts, is confined, and ends.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use stacyvm_egress::{EgressError, EgressHandle, Policy, Program, Settings};

use crate::world::{DEADLINE, NOBODY, World, eventually, generous_limits, program, settings};

fn status(pid: u32) -> HashMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().replace('\t', " ")))
        .collect()
}

fn exists(pid: u32) -> bool {
    // A zombie has no command line any more.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn loopback() -> Settings {
    let any = "127.0.0.1:0".parse().unwrap();
    Settings {
        dns: vec![any],
        proxy: vec![any],
        ..settings(generous_limits())
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
fn it_is_confined_before_it_serves() {
    let Some(world) = World::new() else {
        return;
    };
    let pid = world.egress().pid();
    let status = status(pid);
    let nobody = [NOBODY; 4].map(|id| id.to_string()).join(" ");
    for (key, wanted) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("Uid", nobody.as_str()),
        ("Gid", nobody.as_str()),
        ("Groups", ""),
        ("Threads", "1"),
    ] {
        assert_eq!(status[key], wanted, "{key}");
    }
    // The files in /proc of a process that is not dumpable belong to root.
    let owner = std::fs::metadata(format!("/proc/{pid}/mem")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&owner), 0);
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.starts_with(b"stacyvm\0"));
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| limits.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(!limit("Max open files").contains("unlimited"));
    assert!(!limit("Max address space").contains("unlimited"));
    if stacyvm_sys::landlock::version() > 0 {
        assert!(world.egress().ready().landlock > 0);
    }
}

#[test]
fn its_ports_are_free_when_it_has_closed() {
    let Some(mut world) = World::new() else {
        return;
    };
    for _ in 0..3 {
        let handle = world.egress.take().unwrap();
        let pid = handle.pid();
        world.runtime.block_on(handle.close());
        assert!(!exists(pid));
        world.start(&settings(generous_limits()));
    }
}

#[test]
fn it_serves_where_it_was_told() {
    let runtime = runtime();
    runtime.block_on(async {
        let (handle, _notices) = EgressHandle::start(&program(), &start_as_oneself(loopback()))
            .await
            .unwrap();
        let ready = handle.ready().clone();
        assert!(ready.dns[0].port() > 0 && ready.proxy[0].port() > 0);
        let pid = handle.pid();
        let id = crate::world::id();
        let address = "127.0.0.1".parse().unwrap();
        for _ in 0..2 {
            handle.set(&id, &[address], &Policy::Open).await.unwrap();
        }
        handle.remove(&[address]).await.unwrap();
        handle.close().await;
        assert!(!exists(pid));
    });
}

/// Without root there is no other identity to take.
fn start_as_oneself(settings: Settings) -> Settings {
    let identity = settings
        .identity
        .filter(|_| rustix::process::geteuid().is_root());
    Settings {
        identity,
        ..settings
    }
}

#[test]
fn what_is_wrong_with_the_settings_is_said() {
    let runtime = runtime();
    let start = |settings: Settings| {
        let started = runtime.block_on(EgressHandle::start(&program(), &settings));
        started.map(|_| ()).unwrap_err().to_string()
    };
    let text = start(Settings {
        upstreams: Vec::new(),
        ..loopback()
    });
    assert!(text.contains("no name server"), "{text}");
    let text = start(Settings {
        dns: vec!["0.0.0.0:0".parse().unwrap()],
        ..loopback()
    });
    assert!(text.contains("name each address"), "{text}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = start(Settings {
        proxy: vec![address],
        ..loopback()
    });
    assert!(text.contains(&address.to_string()), "{text}");
    let missing = Program {
        path: "/nonexistent/egress".into(),
        arguments: Vec::new(),
    };
    let started = runtime.block_on(EgressHandle::start(&missing, &loopback()));
    assert!(matches!(started, Err(EgressError::Start { .. })));
}

#[test]
fn its_death_is_seen() {
    let runtime = runtime();
    runtime.block_on(async {
        let settings = start_as_oneself(loopback());
        let (handle, mut notices) = EgressHandle::start(&program(), &settings).await.unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(handle.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        tokio::time::timeout(DEADLINE, handle.ended())
            .await
            .unwrap();
        let set = handle.set(&crate::world::id(), &[], &Policy::Open).await;
        assert!(matches!(set, Err(EgressError::Ended)), "{set:?}");
        assert_eq!(notices.next().await, None);
    });
}

/// The variable with which the next test starts itself as a provider to be killed.
const PROVIDER: &str = "STACYVM_TEST_EGRESS_PROVIDER";

#[test]
fn it_ends_with_its_provider() {
    if let Some(path) = std::env::var_os(PROVIDER) {
        let runtime = runtime();
        runtime.block_on(async {
            let settings = start_as_oneself(loopback());
            let (handle, _notices) = EgressHandle::start(&program(), &settings).await.unwrap();
            std::fs::write(path, handle.pid().to_string()).unwrap();
            tokio::time::sleep(Duration::from_secs(600)).await;
        });
        return;
    }
    let path = std::env::temp_dir().join(format!("stacyvm-egress-{}", std::process::id()));
    let mut provider = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "life::it_ends_with_its_provider", "--nocapture"])
        .env(PROVIDER, &path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut pid: Option<u32> = None;
    eventually("the provider has started it", || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        pid = text.parse().ok().filter(|pid| exists(*pid));
        pid.is_some()
    });
    let _ = std::fs::remove_file(&path);
    provider.kill().unwrap();
    provider.wait().unwrap();
    eventually("the process has ended", || !exists(pid.unwrap()));
}
