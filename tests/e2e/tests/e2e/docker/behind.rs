//! What happens to a container behind the server's back shows, and so does an engine that is gone.

use serde_json::json;

use crate::harness::docker::need_docker;
use crate::harness::engine::OwnEngine;
use crate::harness::{SOON, Server, eventually};

/// The state that a sandbox shows; `gone` when it is not found.
fn state(server: &Server, id: &str) -> String {
    let answer = server.request("GET", &format!("/sandboxes/{id}"), None);
    match answer.status {
        404 => "gone".to_owned(),
        _ => answer.json()["state"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn a_container_that_ended_or_was_removed_does_not_show_as_running() {
    let engine = need_docker!();
    for runtime in engine.runtimes() {
        let server = engine.server(&[&format!("runtime: {runtime}")]);
        for command in [&["rm", "--force"][..], &["kill"], &["stop", "--time", "0"]] {
            let id = server.spawn(json!({}));
            let container = engine.container(&id);
            engine.docker(&[command, &[&container]].concat()).ok();
            eventually("it does not show as running", SOON, || {
                state(&server, &id) != "running"
            });
            let answer = server.exec_with(&id, json!({"command": "true"}));
            assert!((400..500).contains(&answer.status), "{}", answer.text());
            // Asked for or not: nothing of it stays.
            let _ = server.request("DELETE", &format!("/sandboxes/{id}"), None);
            eventually("nothing of it is left", SOON, || {
                engine.things(&id).is_empty()
            });
        }
    }
}

#[test]
fn a_paused_container_shows_as_paused_and_goes_on() {
    let engine = need_docker!();
    let server = engine.server(&[]);
    let id = server.spawn(json!({}));
    let container = engine.container(&id);
    for _ in 0..2 {
        engine.docker(&["pause", &container]).ok();
        eventually("it shows as paused", SOON, || {
            state(&server, &id) == "paused"
        });
        let answer = server.exec_with(&id, json!({"command": "true"}));
        assert_eq!(answer.status, 409, "{}", answer.text());
        engine.docker(&["unpause", &container]).ok();
        eventually("it shows as running", SOON, || {
            state(&server, &id) == "running"
        });
        assert_eq!(server.exec(&id, "echo on")["stdout"], "on\n");
    }
    engine.docker(&["pause", &container]).ok();
    eventually("it shows as paused", SOON, || {
        state(&server, &id) == "paused"
    });
    server
        .request("DELETE", &format!("/sandboxes/{id}"), None)
        .expect(200);
    assert!(engine.things(&id).is_empty(), "{:?}", engine.things(&id));
}

#[test]
fn what_happened_while_the_server_was_off_shows_after_its_start() {
    let engine = need_docker!();
    let mut server = engine.server(&[]);
    let spawn = json!({"metadata": {"kept": "yes"}, "owner_id": "alice", "ttl": "1h"});
    let [lives, dies, pauses] = [(); 3].map(|()| server.spawn(spawn.clone()));
    server.exec(&lives, "echo text > kept");
    let facts = |server: &Server| {
        let sandbox = server.request("GET", &format!("/sandboxes/{lives}"), None);
        let mut sandbox = sandbox.expect(200);
        // The port in it is the server's, which is another after a restart.
        sandbox.as_object_mut().unwrap().remove("preview_domain");
        sandbox
    };
    let before = facts(&server);
    server.kill();
    engine
        .docker(&["rm", "--force", &engine.container(&dies)])
        .ok();
    engine.docker(&["pause", &engine.container(&pauses)]).ok();
    server.resume();
    assert_eq!(facts(&server), before);
    assert_eq!(server.exec(&lives, "cat kept")["stdout"], "text\n");
    eventually(
        "the dead one does not run, the other is paused",
        SOON,
        || state(&server, &dies) != "running" && state(&server, &pauses) == "paused",
    );
    engine.docker(&["unpause", &engine.container(&pauses)]).ok();
    eventually("it runs again", SOON, || {
        state(&server, &pauses) == "running"
    });
    assert_eq!(server.exec(&pauses, "echo on")["stdout"], "on\n");
}

#[test]
fn an_engine_that_is_gone_is_said_and_found_again() {
    let shared = need_docker!();
    let mut own = OwnEngine::start(&shared);
    let server = own.engine().server(&[]);
    let id = server.spawn(json!({}));
    own.kill();
    let refused = server.request("POST", "/sandboxes", Some(json!({})));
    assert_eq!(refused.status, 503, "{}", refused.text());
    eventually("the provider shows as unhealthy", SOON, || {
        let provider = server.request("GET", "/providers/docker", None);
        provider.expect(200)["healthy"] == false
    });
    // Nothing is declared lost because the engine cannot be asked.
    assert_eq!(state(&server, &id), "running");
    assert_eq!(server.exec(&id, "echo still")["stdout"], "still\n");
    own.resume();
    eventually("sandboxes are made again, without a restart", SOON, || {
        let made = server.request("POST", "/sandboxes", Some(json!({})));
        assert!([201, 503].contains(&made.status), "{}", made.text());
        made.status == 201
    });
    assert_eq!(server.exec(&id, "echo still")["stdout"], "still\n");
    for id in server.list() {
        server
            .request("DELETE", &format!("/sandboxes/{id}"), None)
            .expect(200);
    }
    let left = own.engine().things("stacyvm-");
    assert!(left.is_empty(), "{left:?}");
}
