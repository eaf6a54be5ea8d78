//! A disk that fills up: errors while it is full, work as before when there is room again.

use serde_json::{Value, json};

use crate::harness::http::Response;
use crate::harness::{Options, SOON, Server, eventually, need_root};

fn is_an_honest_error(response: &Response) -> bool {
    let body: Value = response.json();
    body["code"].is_string() && body["message"].is_string()
}

#[test]
fn a_full_disk_is_an_error_and_not_the_end() {
    need_root!();
    let server = Server::with(Options {
        small_disk: Some(96 * 1024 * 1024),
        ..Options::default()
    });
    let id = server.spawn(json!({}));
    server.exec(&id, "echo small > keep");
    let full = server.exec(&id, "cat /dev/zero > hog; echo more > /tmp/more");
    assert_ne!(full["exit_code"], 0);

    // Every kind of work may fail now, each with words; none may hang or end the server.
    let spawn = server.request("POST", "/sandboxes", Some(json!({})));
    assert!(
        spawn.status == 201 || is_an_honest_error(&spawn),
        "{}",
        spawn.text()
    );
    let write = server.request(
        "POST",
        &format!("/sandboxes/{id}/files"),
        Some(json!({"path": "x", "content": "y".repeat(100_000)})),
    );
    assert!(
        write.status >= 400 && is_an_honest_error(&write),
        "{}",
        write.text()
    );
    assert_eq!(server.request("GET", "/live", None).status, 200);
    assert_eq!(server.exec(&id, "cat keep")["stdout"], "small\n");

    assert_eq!(server.exec(&id, "rm hog")["exit_code"], 0);
    eventually("there is room again", SOON, || {
        server.request("POST", "/sandboxes", Some(json!({}))).status == 201
    });
    for id in server.list() {
        assert_eq!(server.exec(&id, "echo ok")["stdout"], "ok\n");
        server
            .request("DELETE", &format!("/sandboxes/{id}"), None)
            .expect(200);
    }
}
