//! Limits that only the whole server shows: kept over a restart, read from its configuration.

use serde_json::json;

use crate::harness::{Options, SOON, Server, eventually};

#[test]
fn quotas_hold_after_the_server_was_killed() {
    let mut server = Server::with(Options {
        provider: "mock",
        ..Options::default()
    });
    let quota = json!({"owner_id": "alice", "max_sandboxes": 1, "max_ttl": "10m"});
    let made = server.request("POST", "/quotas", Some(quota)).expect(201);
    server.kill();
    server.resume();
    let found = server.request("GET", "/quotas/alice", None).expect(200);
    assert_eq!(found, made);
    let spawn = |body| server.request("POST", "/sandboxes", Some(body));
    spawn(json!({"owner_id": "alice", "ttl": "11m"})).expect(429);
    spawn(json!({"owner_id": "alice"})).expect(201);
    spawn(json!({"owner_id": "alice"})).expect(429);
    assert_eq!(
        server.request("GET", "/quotas/summary", None).expect(200),
        json!({"total": 1, "with_max_sandboxes": 1, "with_max_ttl": 1, "with_max_exec_timeout": 0})
    );
}

#[test]
fn the_configuration_sets_rates_and_the_line() {
    let server = Server::with(Options {
        provider: "mock",
        more: "defaults:\n  max_sandboxes: 1\nlimits:\n  spawn_queue: 2\n  spawn_queue_timeout: 10ms\n  owner_spawns_per_minute: 3\n".to_owned(),
        ..Options::default()
    });
    server.spawn(json!({"owner_id": "alice"}));
    let full = server.request("POST", "/sandboxes", Some(json!({"owner_id": "alice"})));
    let full = full.expect(429);
    let message = full["message"].as_str().unwrap();
    assert!(message.contains("no room within 10ms"), "{message}");
    let dry = server.request("POST", "/sandboxes/admission", Some(json!({})));
    assert_eq!(dry.expect(200)["queueable"], true);
    // The fourth of a minute, or a later one where the machine is so slow that one is given back.
    eventually("it is too often", SOON, || {
        let often = server.request("POST", "/sandboxes", Some(json!({"owner_id": "alice"})));
        let often = often.expect(429);
        let message = often["message"].as_str().unwrap();
        message.contains("too many spawns")
    });
    let shown = server.cli(&["config", "show"]).ok();
    assert!(shown.contains("owner_spawns_per_minute"), "{shown}");
}
