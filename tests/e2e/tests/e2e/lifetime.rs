//! Sandboxes outlive the server, and do not outlive their time.

use serde_json::json;

use crate::harness::{Options, SOON, Server, eventually, host};

#[test]
fn sandboxes_stay_usable_across_a_restart() {
    let mut server = Server::start();
    let id = server.spawn(json!({"env": {"KEPT": "yes"}}));
    server.exec(&id, "echo before > file; sleep 86400 & echo $! > pid");
    let first = server
        .request("GET", &format!("/sandboxes/{id}"), None)
        .expect(200);
    assert!(server.stop().success(), "{}", server.log());
    server.resume();
    let mut second = server
        .request("GET", &format!("/sandboxes/{id}"), None)
        .expect(200);
    // It carries the server's port, and that is a new one.
    second["preview_domain"] = first["preview_domain"].clone();
    assert_eq!(first, second);
    let answer = server.exec(
        &id,
        "cat file; echo $KEPT; kill -0 $(cat pid) && echo alive",
    );
    assert_eq!(answer["stdout"], "before\nyes\nalive\n");
}

#[test]
fn a_stop_waits_for_nobody_for_ever() {
    let mut server = Server::with(Options {
        more: "defaults:\n  ttl: 5m\n".to_owned(),
        ..Options::default()
    });
    let id = server.spawn(json!({}));
    let mut stream = server.open(
        "POST",
        &format!("/sandboxes/{id}/exec"),
        Some(json!({"command": "echo up; sleep 86400", "stream": true})),
    );
    stream.line().unwrap().unwrap();
    assert!(server.stop().success(), "{}", server.log());
    server.resume();
    assert_eq!(server.exec(&id, "echo ok")["stdout"], "ok\n");
}

#[test]
fn time_runs_out() {
    let server = Server::start();
    let id = server.spawn(json!({"ttl": "1s"}));
    eventually("the sandbox has expired", SOON, || {
        server
            .request("GET", &format!("/sandboxes/{id}"), None)
            .status
            == 404
    });
    eventually("nothing of it is left", SOON, || {
        host::remains(&id, &server.data_dir()).is_empty()
    });
}

#[test]
fn time_that_ran_out_while_the_server_was_down_counts() {
    let mut server = Server::start();
    let short = server.spawn(json!({"ttl": "1s"}));
    let long = server.spawn(json!({"ttl": "1h"}));
    let made = std::time::Instant::now();
    server.kill();
    // Its second passes while no server runs.
    eventually("the time is over", SOON, || {
        made.elapsed().as_millis() > 1100
    });
    server.resume();
    eventually("the sandbox has expired", SOON, || {
        server
            .request("GET", &format!("/sandboxes/{short}"), None)
            .status
            == 404
            && host::remains(&short, &server.data_dir()).is_empty()
    });
    assert_eq!(server.exec(&long, "echo ok")["stdout"], "ok\n");
}

#[test]
fn a_sandbox_whose_agent_died_is_not_called_running() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let inside = host::processes(&id);
    assert!(!inside.is_empty(), "no process of the sandbox was found");
    for pid in inside
        .into_iter()
        .filter_map(rustix::process::Pid::from_raw)
    {
        // Killing the first ends the others.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    eventually("it no longer counts as running", SOON, || {
        let response = server.request("GET", &format!("/sandboxes/{id}"), None);
        response.status == 404 || response.json()["state"] != "running"
    });
    server
        .request("DELETE", &format!("/sandboxes/{id}"), None)
        .expect(200);
    assert_eq!(host::remains(&id, &server.data_dir()), Vec::<String>::new());
}
