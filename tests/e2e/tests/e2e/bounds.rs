//! What a sandbox may use at most, through the front door: it holds, and its cause is said.

use serde_json::{Value, json};

use crate::events::Watching;
use crate::harness::{Options, SOON, Server, eventually, host, need_root, skip};

/// Waits for the event that says that a sandbox has come to a limit.
#[track_caller]
fn told(server: &Server, id: &str, limit: &str) {
    let only = ["--type", "resource.limit", "--sandbox", id];
    let command = ["events", "--replay", "--output", "json"];
    let events = Watching::start(server.command(&[&command[..], &only].concat()));
    events.until(&["resource.limit", id, &format!("\"limit\":\"{limit}\"")]);
}

fn stats(server: &Server, id: &str) -> Value {
    server
        .request("GET", &format!("/sandboxes/{id}/stats"), None)
        .expect(200)
}

/// Whether the machine can limit disks; says so when not.
fn has_disks(server: &Server) -> bool {
    let native = server.request("GET", "/providers/native", None).expect(200);
    let all = native["capabilities"].as_array().unwrap();
    let has = all.iter().any(|one| one == "disk-limit");
    if !has {
        skip("this machine cannot limit disks");
    }
    has
}

/// Whether a loop device stands on a file of this server.
fn loop_devices(server: &Server) -> bool {
    let data = server.data_dir().canonicalize().unwrap();
    std::fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("loop/backing_file")).ok())
        .any(|file| file.contains(data.to_str().unwrap()))
}

#[test]
fn a_disk_has_an_end_and_says_so_everywhere() {
    need_root!();
    let mut server = Server::start();
    if !has_disks(&server) {
        return;
    }
    let id = server.spawn(json!({"disk_mb": 32}));
    let path = format!("/sandboxes/{id}");
    assert_eq!(
        server.request("GET", &path, None).expect(200)["disk_mb"],
        32
    );
    let full = server.exec(&id, "echo small > keep; cat /dev/zero > hog");
    assert_ne!(full["exit_code"], 0);
    assert!(
        full["stderr"].as_str().unwrap().contains("No space left"),
        "{full}"
    );
    let body = json!({"path": "new", "content": "y".repeat(300_000)});
    let refused = server.request("POST", &format!("{path}/files"), Some(body));
    let refused = refused.expect(429);
    assert_eq!(refused["code"], "RESOURCE_LIMIT");
    assert!(
        refused["message"].as_str().unwrap().contains("disk full"),
        "{refused}"
    );
    told(&server, &id, "disk");
    let other = server.spawn(json!({}));
    assert_eq!(
        server.exec(&other, "echo more > file && cat file")["stdout"],
        "more\n"
    );

    let shown = stats(&server, &id);
    assert_eq!(shown["disk_limit_bytes"], 32 << 20);
    assert!(shown["disk_bytes"].as_u64().unwrap() > 28 << 20, "{shown}");
    let table = server.cli(&["stats", &id]).ok();
    assert!(
        table.contains("LIMIT") && table.contains("32 MiB"),
        "{table}"
    );
    let json: Value =
        serde_json::from_str(&server.cli(&["stats", &id, "--output", "json"]).ok()).unwrap();
    assert_eq!(json["disk_limit_bytes"], 32 << 20);

    // The limit, and what is on the disk, outlive the server.
    server.kill();
    server.resume();
    assert_eq!(
        server.request("GET", &path, None).expect(200)["disk_mb"],
        32
    );
    let again = server.exec(&id, "cat keep; head -c 1000000 /dev/zero > more");
    assert_eq!(again["stdout"], "small\n");
    assert_ne!(again["exit_code"], 0, "{again}");
    server.request("DELETE", &path, None).expect(200);
    eventually("nothing of it is left", SOON, || {
        host::remains(&id, &server.data_dir()).is_empty() && !loop_devices(&server)
    });
}

#[test]
fn a_default_disk_and_the_most_that_may_be_asked_for() {
    need_root!();
    let server = Server::with(Options {
        more: "defaults:\n  disk_mb: 24\n  max_disk_mb: 48\n  vcpus: 0.5\n  max_vcpus: 1.5\n"
            .to_owned(),
        ..Options::default()
    });
    if !has_disks(&server) {
        return;
    }
    let id = server.spawn(json!({}));
    let made = server
        .request("GET", &format!("/sandboxes/{id}"), None)
        .expect(200);
    assert_eq!(
        (&made["disk_mb"], &made["vcpus"]),
        (&json!(24), &json!(0.5))
    );
    for (body, word) in [
        (json!({"disk_mb": 49}), "disk_mb"),
        (json!({"vcpus": 1.51}), "vcpus"),
    ] {
        let refused = server.request("POST", "/sandboxes", Some(body)).expect(429);
        assert!(
            refused["message"].as_str().unwrap().contains(word),
            "{refused}"
        );
    }
    let large = server.spawn(json!({"disk_mb": 48, "vcpus": 1}));
    let made = server
        .request("GET", &format!("/sandboxes/{large}"), None)
        .expect(200);
    assert_eq!((&made["disk_mb"], &made["vcpus"]), (&json!(48), &json!(1)));
    let spawned = server
        .cli(&[
            "spawn", "--vcpus", "0.25", "--disk", "16", "--output", "json",
        ])
        .ok();
    let spawned: Value = serde_json::from_str(&spawned).unwrap();
    assert_eq!(
        (&spawned["disk_mb"], &spawned["vcpus"]),
        (&json!(16), &json!(0.25))
    );
}

#[test]
fn a_memory_bomb_is_named_and_its_neighbours_live_on() {
    need_root!();
    let server = Server::start();
    let id = server.spawn(json!({"memory_mb": 64}));
    let other = server.spawn(json!({}));
    let bomb = "python3 -c 'b = []\nwhile True: b.append(bytearray(1 << 20))'";
    let answer = server.exec(&id, bomb);
    assert_eq!(
        (&answer["exit_code"], &answer["reason"]),
        (&json!(137), &json!("oom"))
    );
    let mut stream = server.open(
        "POST",
        &format!("/sandboxes/{id}/exec"),
        Some(json!({"command": bomb, "stream": true})),
    );
    let mut last = Value::Null;
    while let Some(line) = stream.line().unwrap() {
        last = line;
    }
    assert_eq!(
        (&last["stream"], &last["reason"]),
        (&json!("exit"), &json!("oom"))
    );
    told(&server, &id, "memory");
    let shown = stats(&server, &id);
    assert!(shown["oom_kills"].as_u64().unwrap() >= 2, "{shown}");
    assert_eq!(shown["mem_limit_bytes"], 64 << 20);
    assert_eq!(server.exec(&other, "echo fine")["stdout"], "fine\n");
    assert_eq!(server.exec(&id, "echo alive")["stdout"], "alive\n");
}

#[test]
fn a_fork_bomb_and_open_files_end_at_their_limits() {
    need_root!();
    let server = Server::with(Options {
        more: "defaults:\n  pids_limit: 32\n  open_files: 80\n".to_owned(),
        ..Options::default()
    });
    let id = server.spawn(json!({}));
    let other = server.spawn(json!({}));
    let bomb = json!({"command": "bash -c ':(){ :|:& };:; wait'", "timeout": "1s"});
    let ended = server.exec_with(&id, bomb);
    assert!([200, 408].contains(&ended.status), "{}", ended.text());
    told(&server, &id, "pids");
    assert_eq!(server.exec(&other, "echo fine")["stdout"], "fine\n");
    let shown = stats(&server, &id);
    assert_eq!(shown["pids_limit"], 32);
    assert!(shown["pids"].as_u64().unwrap() <= 32, "{shown}");

    assert_eq!(
        server.exec(&other, "ulimit -n; ulimit -Hn")["stdout"],
        "80\n80\n"
    );
    let many = "python3 -c 'import os\nwhile True: os.open(\"/dev/null\", os.O_RDONLY)'";
    let answer = server.exec(&other, many);
    assert!(
        answer["stderr"]
            .as_str()
            .unwrap()
            .contains("Too many open files"),
        "{answer}"
    );
}

#[test]
fn a_machine_without_the_means_refuses_a_disk_by_name() {
    let server = Server::with(Options {
        provider: "mock",
        more: "defaults:\n  disk_mb: 64\n".to_owned(),
        ..Options::default()
    });
    // A default that cannot be enforced is no reason to refuse.
    server.spawn(json!({}));
    let refused = server.request("POST", "/sandboxes", Some(json!({"disk_mb": 64})));
    let refused = refused.expect(422);
    assert!(
        refused["message"].as_str().unwrap().contains("disk-limit"),
        "{refused}"
    );
}
