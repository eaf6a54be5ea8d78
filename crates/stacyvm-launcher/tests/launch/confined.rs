//! What a sandbox is from inside.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde_json::Value;
use stacyvm_launcher::control::{LaunchRequest, PidFile};
use stacyvm_sys::cgroup;

use crate::scripted;
use crate::support::{Fixture, ID_BASE, Launcher, Sandbox, TEST_TIMEOUT, gone};

const EPERM: i64 = 1;
pub(crate) const EACCES: i64 = 13;
pub(crate) const EROFS: i64 = 30;
const ENOSYS: i64 = 38;
const EAFNOSUPPORT: i64 = 97;

/// The script that looks around.
pub(crate) const LOOK: &str =
    "exec /usr/bin/python3 /workspace/inside.py /workspace/facts.json 2>/workspace/err.txt\n";

/// Runs the script that looks around and answers what it saw.
fn look_inside(launcher: &mut Launcher, request: &mut LaunchRequest) -> (Value, Sandbox) {
    let workspace = request.box_dir.join("layers/0/upper/workspace");
    fs::write(workspace.join("inside.py"), include_str!("inside.py")).unwrap();
    // The directory is there before the launcher makes it, so it is ours to hand over.
    let owner = ID_BASE + request.uid;
    std::os::unix::fs::chown(&workspace, Some(owner), Some(owner)).unwrap();
    std::os::unix::fs::chown(workspace.join(".."), Some(ID_BASE), Some(ID_BASE)).unwrap();
    let mut sandbox = launcher.launch(request).unwrap();
    sandbox.set_up().unwrap();
    assert!(sandbox.ended(), "the script takes too long");
    let text = fs::read_to_string(workspace.join("facts.json"))
        .expect("the script writes what it sees; its errors stand in err.txt");
    (serde_json::from_str(&text).unwrap(), sandbox)
}

pub(crate) fn assert_confined(facts: &Value, id: &str) {
    let status = &facts["status"];
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Seccomp"], "2");
    assert_eq!(facts["hostname"], id);
    for (call, errno) in facts["calls"].as_object().unwrap() {
        assert_eq!(errno, EPERM, "{call}");
    }
    assert_eq!(facts["clone3"], ENOSYS);
    assert_eq!(facts["sync"], 0);
    assert_eq!(facts["vsock"], EAFNOSUPPORT);
    assert_eq!(facts["packet"], EAFNOSUPPORT);
    let device_node = facts["device_node"].as_i64().unwrap();
    assert!([EPERM, EACCES].contains(&device_node), "{device_node}");
    for (name, link) in facts["namespaces"].as_object().unwrap() {
        let ours = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(link, ours.to_str().unwrap(), "namespace {name}");
    }
    for line in facts["cgroup"].as_str().unwrap().lines() {
        if line.contains("memory") || line.starts_with("0::") {
            assert!(line.ends_with(":/"), "{line}");
        }
    }
    assert_eq!(facts["interfaces"], serde_json::json!(["lo"]));
    assert_eq!(facts["low_port"], 0);
    assert_eq!(facts["kill_sibling"], -9);
    assert_eq!(facts["rename_across"], 0);
    assert_eq!(facts["fifo"], 0);
    assert!(facts["terminal"].as_str().unwrap().starts_with("/dev/pts/"));
    // The fourth is the one that lists them.
    assert_eq!(facts["descriptors"], serde_json::json!([0, 1, 2, 3]));
    assert_eq!(facts["standard"][0], "/dev/null");
    assert_eq!(facts["standard"][1], "/dev/null");
    assert_eq!(facts["limits"]["files"], serde_json::json!([1024, 1024]));
    assert_eq!(facts["limits"]["core"], serde_json::json!([0, 0]));
    assert_eq!(facts["umask"], 0o022);
    assert!(!facts["environment"].to_string().contains("SECRET"));
    assert!(facts["processes"].as_array().unwrap().len() <= 3);
    for (name, seen) in facts["covered"].as_object().unwrap() {
        assert_eq!(seen, "", "/proc/{name}");
    }
    assert_eq!(
        facts["sys"],
        serde_json::json!(["devices", "firmware", "kernel"])
    );
    let writes = &facts["writes"];
    for path in ["/workspace/new", "/tmp/new", "/dev/shm/new", "/dev/null"] {
        assert_eq!(writes[path], 0, "{path}");
    }
    assert_ne!(facts["cpu_online"], "");
    for path in ["/dev/new", "/sys/new", "/proc/sys/kernel/hostname"] {
        let errno = writes[path].as_i64().unwrap();
        assert!([EROFS, EACCES].contains(&errno), "{path}: {errno}");
    }
    assert_ne!(writes["/proc/sysrq-trigger"], 0);
    // One line for each path with a source of the host, which must not be named.
    let mounts = facts["mounts"].as_str().unwrap();
    for word in ["stacyvm", "layers", "boxes", "/root", "/staging"] {
        assert!(!mounts.contains(word), "{word} in:\n{mounts}");
    }
}

fn assert_own_ids(facts: &Value, request: &LaunchRequest) {
    assert_eq!(
        facts["ids"],
        serde_json::json!([[1000, 1000, 1000], [1000, 1000, 1000], []])
    );
    let owners = &facts["owners"];
    assert_eq!(
        owners["/workspace"],
        serde_json::json!([1000, 1000, "0o755"])
    );
    assert_eq!(owners["/tmp"], serde_json::json!([0, 0, "0o1777"]));
    // The host's: nobody's inside.
    assert_eq!(
        owners["/usr/bin/env"],
        serde_json::json!([65_534, 65_534, "0o755"])
    );
    assert_eq!(owners["/etc/owned-by-root"][0], 0);
    assert_eq!(owners["/dev/null"], serde_json::json!([0, 0, "0o666"]));
    assert_eq!(owners["/"], serde_json::json!([0, 0, "0o755"]));
    if request.read_only_rootfs {
        return;
    }
    let upper = request.box_dir.join("layers/0/upper");
    let owner = |path: &str| fs::metadata(upper.join(path)).unwrap().uid();
    assert_eq!(owner("workspace/new"), ID_BASE + 1000);
    assert_eq!(
        owner("etc/for-everybody"),
        ID_BASE,
        "copied up with its owner"
    );
}

#[test]
fn a_sandbox_is_confined_and_at_home() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("confined");
    let mut launcher = Launcher::start(&program, &[], None);
    let mut request = home.request("confined", false, LOOK);
    let (facts, sandbox) = look_inside(&mut launcher, &mut request);
    assert_confined(&facts, "confined");
    assert_own_ids(&facts, &request);
    let writes = &facts["writes"];
    assert_eq!(writes["/etc/for-everybody"], 0);
    assert_eq!(writes["/etc/owned-by-root"], EACCES);
    assert_eq!(writes["/usr/new"], EACCES);
    assert_eq!(
        fs::read_to_string(home.root().join("etc/for-everybody")).unwrap(),
        "lower\n",
        "the image itself stays as it is"
    );
    let recorded: PidFile =
        serde_json::from_slice(&fs::read(request.box_dir.join("pid.json")).unwrap()).unwrap();
    assert_eq!(recorded, sandbox.launched);
    assert!(
        !fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains("confined")
    );
}

#[test]
fn a_read_only_root_leaves_two_places_to_write() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("read-only");
    let mut launcher = Launcher::start(&program, &[], None);
    let mut request = home.request("read-only", true, LOOK);
    let (facts, _sandbox) = look_inside(&mut launcher, &mut request);
    assert_confined(&facts, "read-only");
    assert_own_ids(&facts, &request);
    for path in [
        "/etc/new",
        "/etc/owned-by-root",
        "/etc/for-everybody",
        "/usr/new",
    ] {
        assert_eq!(facts["writes"][path], EROFS, "{path}");
    }
}

#[test]
fn kernels_that_take_layers_by_path_only_give_the_same() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("by-path");
    let mut launcher = Launcher::start(&program, &["--overlay-by-path"], None);
    let mut request = home.request("by-path", false, LOOK);
    let top = home.directory.path().join("top:layer, with \\ odd name");
    fs::create_dir_all(top.join("etc")).unwrap();
    fs::write(top.join("etc/only-in-top"), "top\n").unwrap();
    request.overlays[0].lowers.insert(0, top);
    let script = format!("cat /etc/only-in-top > /workspace/top\n{LOOK}");
    fs::write(
        request.box_dir.join("layers/0/upper/workspace/run.sh"),
        script,
    )
    .unwrap();
    let (facts, _sandbox) = look_inside(&mut launcher, &mut request);
    assert_own_ids(&facts, &request);
    assert_eq!(
        fs::read_to_string(request.box_dir.join("layers/0/upper/workspace/top")).unwrap(),
        "top\n"
    );
}

#[test]
fn as_many_layers_as_an_image_may_have_become_one_root() {
    let Some(program) = scripted() else { return };
    for (name, arguments) in [
        ("by-descriptor", [].as_slice()),
        ("by-path", &["--overlay-by-path"]),
        ("at-once", &["--overlay-at-once"]),
    ] {
        let home = Fixture::new(&format!("tall-{name}"));
        let mut launcher = Launcher::start(&program, arguments, None);
        let mut request = home.request(&format!("tall-{name}"), false, LOOK);
        for number in 0..127 {
            let layer = home.directory.path().join(format!("layer-{number}"));
            fs::create_dir_all(layer.join("layers")).unwrap();
            fs::write(layer.join(format!("layers/{number}")), "").unwrap();
            fs::write(layer.join("top"), format!("{number}\n")).unwrap();
            request.overlays[0].lowers.insert(0, layer);
        }
        assert_eq!(request.overlays[0].lowers.len(), 128);
        let script = format!("(cat /top; ls /layers | wc -l) > /workspace/seen\n{LOOK}");
        let workspace = request.box_dir.join("layers/0/upper/workspace");
        fs::write(workspace.join("run.sh"), script).unwrap();
        let (facts, _sandbox) = look_inside(&mut launcher, &mut request);
        assert_own_ids(&facts, &request);
        let seen = fs::read_to_string(workspace.join("seen")).unwrap();
        assert_eq!(seen, "126\n127\n", "{name}");
    }
}

#[test]
fn limits_hold_and_the_process_stands_in_its_cgroups() {
    let Some(program) = scripted() else { return };
    let home = Fixture::new("limits");
    let mut launcher = Launcher::start(&program, &[], None);
    // More than the limit of 64. The inner shell ends when it cannot fork any more, the outer one
    // waits for a writer who never comes.
    let script = "cd /tmp && mkfifo never && (while :; do sleep 1000 & done); read x < never\n";
    let mut request = home.request("limits", false, script);
    let mut sandbox = launcher.launch(&mut request).unwrap();
    sandbox.set_up().unwrap();
    let directories = sandbox.launched.cgroups.clone();
    assert!(!directories.is_empty());
    for directory in directories.values() {
        let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap();
        let pid = sandbox.launched.pid.to_string();
        assert!(members.lines().any(|line| line == pid), "{directory:?}");
    }
    let degraded = sandbox.launched.degraded.join("\n");
    if !degraded.contains("pids cgroup controller") {
        let directory = directories.get("pids").unwrap_or(&directories["unified"]);
        let events = || fs::read_to_string(directory.join("pids.events")).unwrap();
        let waiting = std::time::Instant::now();
        while events().contains("max 0") {
            assert!(
                waiting.elapsed() < TEST_TIMEOUT,
                "the limit is never reached"
            );
            std::thread::yield_now();
        }
        let pids = cgroup::usage(&directories).pids.unwrap();
        assert!((32..=64).contains(&pids), "{pids} processes");
    }
    if !degraded.contains("memory cgroup controller") {
        assert_eq!(
            cgroup::usage(&directories).memory_limit_bytes,
            Some(256 << 20)
        );
    }
    drop(sandbox);
    assert!(gone(&directories));
}
