//! What a container may use at most: it holds, its cause is said, and no neighbour notices.

use serde_json::{Value, json};

use crate::events::Watching;
use crate::harness::docker::need_docker;
use crate::harness::{SOON, Server, eventually};

/// Whether a server and one of its sandboxes answer.
#[track_caller]
fn well(server: &Server, id: &str) {
    assert_eq!(server.exec(id, "echo well")["stdout"], "well\n");
}

/// Waits for the event that says that a sandbox has come to a limit.
#[track_caller]
fn told(server: &Server, id: &str, limit: &str) {
    let only = ["--type", "resource.limit", "--sandbox", id];
    let command = ["events", "--replay", "--output", "json"];
    let events = Watching::start(server.command(&[&command[..], &only].concat()));
    events.until(&["resource.limit", id, &format!("\"limit\":\"{limit}\"")]);
}

#[test]
fn a_fork_bomb_fills_its_own_container_only() {
    let engine = need_docker!();
    let server = engine.server(&["pids_limit: 64"]);
    let id = server.spawn(json!({}));
    let other = server.spawn(json!({}));
    // Whatever a spawn asks for, the provider's limit is the most.
    assert_eq!(engine.inspect(&id, "{{.HostConfig.PidsLimit}}"), "64");
    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 10000";
    let started = server.exec_with(&id, json!({"command": bomb, "detach": true}));
    started.expect(201);
    well(&server, &other);
    // A bomb whose processes stay where they are, so that they can be counted.
    let full = server.spawn(json!({}));
    let fill = "for n in $(seq 200); do sleep 10000 & done";
    let answer = server.exec(&full, fill);
    let said = answer["stderr"].as_str().unwrap();
    assert!(said.contains("can't fork"), "{answer}");
    let listed = engine.docker(&["top", &engine.container(&full), "-o", "pid"]);
    // A line is the heading.
    let processes = listed.ok().lines().count() - 1;
    assert!((48..=64).contains(&processes), "{processes} processes");
    well(&server, &other);
    server
        .request("DELETE", &format!("/sandboxes/{id}"), None)
        .expect(200);
    assert!(engine.things(&id).is_empty(), "{:?}", engine.things(&id));
    well(&server, &other);
}

#[test]
fn a_memory_bomb_ends_itself_and_says_why() {
    let engine = need_docker!();
    let server = engine.server(&[]);
    let id = server.spawn(json!({"image": engine.image(), "memory_mb": 64}));
    let other = server.spawn(json!({}));
    let limits = "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}";
    assert_eq!(engine.inspect(&id, limits), "67108864 67108864");
    let bomb = "python3 -c 'hog = []\nwhile True: hog.append(bytes(1 << 20))'";
    let answer = server.exec(&id, bomb);
    assert_eq!(answer["exit_code"], 137, "{answer}");
    assert_eq!(answer["reason"], "oom", "{answer}");
    told(&server, &id, "memory");
    well(&server, &other);
    // The agent lived through it, and so does the sandbox.
    well(&server, &id);
}

#[test]
fn gvisors_memory_bomb_ends_its_sandbox_and_says_why() {
    let engine = need_docker!();
    if !engine.has_gvisor() {
        return;
    }
    let server = engine.server(&["runtime: runsc"]);
    let id = server.spawn(json!({"image": engine.image(), "memory_mb": 128}));
    let other = server.spawn(json!({}));
    let bomb = "python3 -c 'hog = []\nwhile True: hog.append(b\"x\" * (1 << 20))'";
    // Its kernel is a process of the same group, and may be what is ended: then so is the command.
    let ended = server.exec_with(&id, json!({"command": bomb}));
    if ended.status == 200 {
        assert_ne!(ended.json()["exit_code"], 0, "{}", ended.text());
    } else {
        eventually("the sandbox shows that it has ended", SOON, || {
            let sandbox = server.request("GET", &format!("/sandboxes/{id}"), None);
            sandbox.expect(200)["state"] != "running"
        });
    }
    well(&server, &other);
}

#[test]
fn the_kernel_holds_the_share_of_processors_and_memory() {
    let engine = need_docker!();
    let server = engine.server(&[]);
    let id = server.spawn(json!({"vcpus": 0.5, "memory_mb": 100}));
    // The files of both versions of cgroups, as a container sees its own.
    let read = "cd /sys/fs/cgroup && if [ -f cpu.max ]; then cat cpu.max memory.max pids.max; else \
                cat cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes pids/pids.max; fi";
    let answer = server.exec(&id, read);
    let lines: Vec<&str> = answer["stdout"].as_str().unwrap().lines().collect();
    assert_eq!(lines.len(), 3, "{answer}");
    assert_eq!(lines[0].split(' ').next(), Some("50000"), "{answer}");
    assert_eq!(lines[1], (100 << 20).to_string(), "{answer}");
    assert_eq!(lines[2], "256", "{answer}");
}

#[test]
fn open_files_are_limited_and_nothing_is_dumped() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let mut options = engine.options(&[&format!("runtime: {runtime}")]);
        options.more.push_str("  open_files: 1234\n");
        let server = Server::with(options);
        let id = server.spawn(json!({}));
        let answer = server.exec(&id, "ulimit -n; ulimit -Hn; ulimit -c");
        assert_eq!(answer["stdout"], "1234\n1234\n0\n", "{runtime}: {answer}");
    }
}

#[test]
fn a_disk_is_limited_or_refused() {
    let engine = need_docker!();
    let server = engine.server(&[]);
    let provider = server.request("GET", "/providers/docker", None).expect(200);
    let has = provider["capabilities"]
        .as_array()
        .unwrap()
        .contains(&Value::from("disk-limit"));
    let answer = server.request("POST", "/sandboxes", Some(json!({"disk_mb": 32})));
    if !has {
        let refused = answer.expect(422);
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains("disk-limit"), "{refused}");
        assert_eq!(server.list(), Vec::<String>::new());
        return;
    }
    let id = answer.expect(201)["id"].as_str().unwrap().to_owned();
    let full = server.exec(&id, "head -c 100000000 /dev/zero > hog");
    let said = full["stderr"].as_str().unwrap();
    assert!(said.contains("No space left"), "{full}");
}
