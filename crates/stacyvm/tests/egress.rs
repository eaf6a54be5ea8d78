//! The hidden command `egress`: the program is the egress process when a provider starts it so.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};

use stacyvm_egress::{EgressHandle, Limits, Program, Settings};

const STACYVM: &str = env!("CARGO_BIN_EXE_stacyvm");

#[test]
fn the_program_is_the_egress_process() {
    let any = "127.0.0.1:0".parse().unwrap();
    let settings = Settings {
        dns: vec![any],
        proxy: vec![any],
        upstreams: vec!["127.0.0.53:53".parse().unwrap()],
        allow_cidrs: Vec::new(),
        ipv6: false,
        identity: None,
        limits: Limits::default(),
    };
    let program = Program {
        path: STACYVM.into(),
        arguments: vec!["egress".into()],
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (handle, _notices) = EgressHandle::start(&program, &settings).await.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{}/status", handle.pid())).unwrap();
        for line in [
            "Seccomp:\t2",
            "NoNewPrivs:\t1",
            "CapEff:\t0000000000000000",
            "Threads:\t1",
        ] {
            assert!(status.contains(line), "{line}\n{status}");
        }
        handle.close().await;
    });
}

#[test]
fn nobody_needs_to_know_of_it_and_without_a_provider_it_says_so() {
    let help = Command::new(STACYVM).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("completions") && !help.contains("egress"));
    let alone = Command::new(STACYVM)
        .arg("egress")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!alone.status.success());
    let said = String::from_utf8(alone.stderr).unwrap();
    assert!(said.contains("cannot read the settings"), "{said}");
}
