//! Container roots, the rights of root inside, and peers from inside.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use prost::Message as _;
use stacyvm_agent_client::{Credentials, ExecSpec};
use stacyvm_proto::message::Hello;
use stacyvm_proto::{Header, Kind};
use stacyvm_testing::{programs_or_skip, root_or_skip};

use crate::harness::{PROGRAM, TestAgent, finish, sh};

const USER: [&str; 5] = ["--prepare", "--uid", "1000", "--gid", "1000"];

/// The lines of `/proc/self/status` about capabilities, for a command of a user.
async fn capabilities(sandbox: &TestAgent, user: &str) -> Vec<String> {
    let spec = ExecSpec {
        user: Credentials::User(user.to_owned()),
        ..sh("grep '^Cap[IPEB]' /proc/self/status")
    };
    let said = finish(sandbox.agent.exec(spec).await.unwrap()).await;
    assert_eq!(said.code(), 0, "{said:?}");
    said.stdout.lines().map(str::to_owned).collect()
}

fn sets(inheritable: u64, permitted: u64, effective: u64, bounding: u64) -> Vec<String> {
    [
        ("CapInh", inheritable),
        ("CapPrm", permitted),
        ("CapEff", effective),
        ("CapBnd", bounding),
    ]
    .map(|(name, set)| format!("{name}:\t{set:016x}"))
    .into()
}

#[tokio::test]
async fn root_inside_has_what_it_was_given_and_others_nothing() {
    if !root_or_skip() {
        return;
    }
    // KILL, which the agent has too, and NET_BIND_SERVICE, which it lacks.
    let flags = [&USER[..], &["--root-caps", "420"]].concat();
    let sandbox = TestAgent::started_by(&[PROGRAM], &flags, None).await;
    open(&sandbox);
    assert_eq!(
        capabilities(&sandbox, "0").await,
        sets(0, 0x420, 0x420, 0x420)
    );
    assert_eq!(capabilities(&sandbox, "1000").await, sets(0, 0, 0, 0x420));
    let sandbox = TestAgent::started_by(&[PROGRAM], &USER, None).await;
    open(&sandbox);
    assert_eq!(capabilities(&sandbox, "0").await, sets(0, 0, 0, 0));
    assert_eq!(capabilities(&sandbox, "1000").await, sets(0, 0, 0, 0));
}

/// Lets other users than root into the directory that stands for the sandbox's root.
fn open(sandbox: &TestAgent) {
    use std::os::unix::fs::PermissionsExt as _;
    let root = sandbox.root();
    for place in [root.parent().unwrap(), &root] {
        let everyone = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place, everyone).unwrap();
    }
}

#[tokio::test]
async fn a_prepared_agent_keeps_three_capabilities_and_still_serves() {
    if !root_or_skip() {
        return;
    }
    let mut sandbox = TestAgent::started_by(&[PROGRAM], &USER, None).await;
    open(&sandbox);
    let status = std::fs::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
    // SETUID, SETGID and KILL; CHOWN was dropped after the preparation.
    assert!(status.contains("CapEff:\t00000000000000e0"), "{status}");
    assert!(status.contains("CapPrm:\t00000000000000e0"), "{status}");
    let workspace = std::fs::metadata(sandbox.root().join("workspace")).unwrap();
    assert_eq!((workspace.uid(), workspace.gid()), (1000, 1000));
    let home = std::fs::metadata(sandbox.root().join("home/user")).unwrap();
    assert_eq!(home.uid(), 1000);
    let said = sandbox.sh("id -u; echo mine > file").await;
    assert_eq!((said.stdout.as_str(), said.code()), ("1000\n", 0));
    // It may end another user's process.
    sandbox
        .agent
        .exec_detached(sh("exec sleep 1000"))
        .await
        .unwrap();
    sandbox
        .agent
        .shutdown(std::time::Duration::ZERO)
        .await
        .unwrap();
    assert!(sandbox.exit_status().await.success());
}

#[tokio::test]
async fn peers_from_inside_are_refused() {
    if !root_or_skip() || !programs_or_skip(&["python3"]) {
        return;
    }
    let launcher = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        PROGRAM,
    ];
    let mut sandbox = TestAgent::started_by(&launcher, &["--init"], None).await;
    let hello = Hello {
        generation_min: 1,
        generation_max: 1,
        ..Hello::default()
    };
    let header = Header::new(Kind::Hello, 0, 0, hello.encoded_len() as u32).encode();
    let mut bytes = header.to_vec();
    hello.encode_raw(&mut bytes);
    let hexadecimal: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let script = format!(
        "import socket
s = socket.socket(socket.AF_UNIX)
s.connect({:?})
try:
    s.sendall(bytes.fromhex('{hexadecimal}'))
    print(len(s.recv(1)))
except (BrokenPipeError, ConnectionResetError):
    print(0)
",
        sandbox.socket()
    );
    // A peer outside, like this test, gets an answer to the same bytes.
    let outside = Command::new("python3").args(["-c", &script]).output();
    let words = ["python3", "-c", &script];
    let inside = sandbox.agent.exec(crate::harness::argv(&words)).await;
    let inside = finish(inside.unwrap()).await;
    let outside = outside.unwrap().stdout;
    // The launching program ignores signals, and a failure must not wait for it for ever.
    let ended = sandbox.agent.shutdown(std::time::Duration::ZERO).await;
    ended.unwrap();
    assert!(sandbox.exit_status().await.success());
    assert_eq!(outside, b"1\n");
    assert_eq!((inside.stdout.as_str(), inside.code()), ("0\n", 0));
}
