//! The command line against a running server.

use std::fs;

use serde_json::{Value, json};

use crate::harness::server::finish;
use crate::harness::{Options, Server, host};

#[test]
fn a_sandbox_from_spawn_to_kill() {
    let server = Server::start();
    assert_eq!(server.cli(&["list"]).ok(), "No active sandboxes\n");

    let line = server.cli(&["spawn", "--ttl", "1h"]).ok();
    let id = line.split(' ').nth(1).unwrap().to_owned();
    assert!(
        line.starts_with(&format!("Sandbox {id} spawned (provider: ")),
        "{line}"
    );

    let table = server.cli(&["ls"]).ok();
    let heading: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        heading,
        ["ID", "STATE", "PROVIDER", "IMAGE", "CREATED", "EXPIRES"]
    );
    assert!(table.contains(&id) && table.contains("running"), "{table}");

    let finished = server.cli(&[
        "exec",
        &id,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(finished.code, Some(7));
    assert_eq!(finished.stdout, "out\n");
    assert!(finished.stderr.contains("err\n"));
    assert!(server.cli(&["logs", &id]).ok().contains("out\n"));

    assert_eq!(
        server.cli(&["kill", &id]).ok(),
        format!("Sandbox {id} destroyed\n")
    );
    assert_eq!(host::remains(&id, &server.data_dir()), Vec::<String>::new());
    assert_eq!(server.cli(&["list"]).ok(), "No active sandboxes\n");
}

#[test]
fn files_are_copied_in_and_out() {
    let server = Server::start();
    let id = server.spawn(serde_json::json!({}));
    let original = server.scratch("in.bin");
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    fs::write(&original, &content).unwrap();
    let inside = format!("{id}:/workspace/deep/in.bin");
    server
        .cli(&["cp", original.to_str().unwrap(), &inside])
        .ok();
    let size = server.exec(&id, "wc -c < deep/in.bin");
    assert_eq!(size["stdout"].as_str().unwrap().trim(), "300000");
    let back = server.scratch("out.bin");
    server.cli(&["cp", &inside, back.to_str().unwrap()]).ok();
    assert!(fs::read(back).unwrap() == content, "it came back changed");
}

#[test]
fn answers_for_programs_are_json() {
    let server = Server::start();
    let id = server.spawn(serde_json::json!({"metadata": {"a": "b"}}));
    let text = server.cli(&["list", "--output", "json"]).ok();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list[0]["id"], id.as_str());
    assert_eq!(list[0]["metadata"]["a"], "b");
}

#[test]
fn failures_are_words_and_a_code() {
    let server = Server::start();
    let finished = server.cli(&["exec", "sb-00000000", "--", "true"]);
    assert_ne!(finished.code, Some(0));
    assert!(finished.stderr.contains("error: "), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("sb-00000000"),
        "{}",
        finished.stderr
    );

    let finished = server.cli(&["--server", "http://127.0.0.1:1", "list"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("hint: ") || finished.stderr.contains("stacyvm serve"));
    assert!(!server.cli(&["no-such-command"]).stderr.is_empty());
}

#[test]
fn a_server_with_a_key_wants_it() {
    let server = Server::with(Options {
        api_key: Some("k-5e1f"),
        ..Options::default()
    });
    server.cli(&["list"]).ok();
    for key in ["", "wrong"] {
        let finished =
            crate::harness::server::finish(server.command(&["list"]).env("STACYVM_API_KEY", key));
        assert_eq!(finished.code, Some(1), "{}", finished.stdout);
    }
    assert!(
        !server.log().contains("k-5e1f"),
        "the key stands in the log"
    );
}

#[test]
fn doctor_says_what_this_machine_can_do() {
    let server = Server::start();
    let report = server.cli(&["doctor"]);
    for words in [
        "shares the host's kernel",
        "cgroups",
        "landlock",
        "a sandbox",
    ] {
        assert!(report.stdout.contains(words), "{words}: {}", report.stdout);
    }
    if crate::harness::is_root() {
        assert_eq!(report.code, Some(0), "{}{}", report.stdout, report.stderr);
    }
}

#[test]
fn doctor_tells_programs_and_ends_with_what_it_found() {
    let server = Server::start();
    let tools = server.scratch("tools");
    std::fs::create_dir(&tools).unwrap();
    for (name, said) in [("runc", "runc version 1.1.5"), ("docker", "no number")] {
        let path = tools.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho '{said}'\n")).unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, all).unwrap();
    }
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", tools.display());
    let report = finish(server.command(&["doctor", "--json"]).env("PATH", &path));
    let said: Value = serde_json::from_str(&report.stdout).unwrap();
    let provider = |name: &str| {
        let all = said["providers"].as_array().unwrap();
        let found = all.iter().find(|provider| provider["name"] == name);
        found.unwrap_or_else(|| panic!("{name}: {said}")).clone()
    };
    assert_eq!(provider("native")["isolation"], "container");
    assert_eq!(provider("docker")["enabled"], false);
    assert_eq!(provider("proot")["in_this_version"], false);
    let findings = said["findings"].as_array().unwrap();
    let runc = findings
        .iter()
        .find(|found| found["topic"] == "runc")
        .unwrap();
    assert_eq!(runc["level"], "warning");
    assert_eq!(runc["remedy"], "apt-get install runc");
    for topic in ["kernel", "cgroups", "disk quota", "network"] {
        let found = findings.iter().find(|found| found["topic"] == topic);
        let found = found.unwrap_or_else(|| panic!("{topic}: {said}"));
        assert_eq!(found["provider"], "native");
        assert!(
            found["level"] == "ok" || found["remedy"].is_string(),
            "{found}"
        );
    }
    if crate::harness::is_root() {
        assert_eq!(
            (&said["able"], report.code),
            (&json!(true), Some(0)),
            "{said}"
        );
        assert_eq!(provider("native")["works"], true);
    }

    let nowhere = ["doctor", "--json"];
    let mut broken = server.command(&nowhere);
    let report = finish(broken.env("STACYVM_SERVER_DATA_DIR", "/proc/nowhere"));
    let said: Value = serde_json::from_str(&report.stdout).unwrap();
    assert_eq!(
        (&said["able"], report.code),
        (&json!(false), Some(1)),
        "{said}"
    );
}

#[test]
fn version_and_completions_need_no_server() {
    let server = Server::start();
    assert!(server.cli(&["version"]).ok().starts_with("stacyvm "));
    assert!(
        server
            .cli(&["completions", "bash"])
            .ok()
            .contains("stacyvm")
    );
}
