//! Detached commands outlive the server that started them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::{Options, SOON, Server, eventually, host, need_root};

fn detach(server: &Server, id: &str, command: &str) -> String {
    let request = json!({"command": command, "detach": true});
    let info = server.exec_with(id, request).expect(201);
    let exec_id = info["exec_id"].as_str().unwrap();
    format!("/sandboxes/{id}/execs/{exec_id}")
}

fn get(server: &Server, path: &str) -> Value {
    server.request("GET", path, None).expect(200)
}

/// Reads an attachment until `enough` and says what came and where to go on.
fn read(
    server: &Server,
    path: &str,
    offset: u64,
    enough: impl Fn(&str) -> bool,
) -> (String, u64, Option<Value>) {
    let path = format!("{path}/attach?offset={offset}");
    let mut stream = server.open("GET", &path, None);
    let (mut text, mut offset) = (String::new(), offset);
    while let Ok(Some(line)) = stream.line() {
        assert_ne!(line["stream"], "gap", "{line}");
        if line["stream"] == "exit" {
            return (text, offset, Some(line));
        }
        text.push_str(line["data"].as_str().unwrap());
        offset = line["offset"].as_u64().unwrap();
        if enough(&text) {
            break;
        }
    }
    (text, offset, None)
}

#[test]
fn a_detached_command_is_found_again_after_the_server_was_killed() {
    let mut server = Server::start();
    let id = server.spawn(json!({}));
    let script = "i=0; while [ $i -lt 400 ]; do echo \"line $i é\"; i=$((i+1)); sleep 0.005; done; read last; echo \"$last\"; exit 6";
    let path = detach(&server, &id, script);
    let (mut all, mut offset, exit) = read(&server, &path, 0, |text| text.lines().count() > 40);
    assert!(exit.is_none());
    server.kill();
    server.resume();
    let (more, next, _) = read(&server, &path, offset, |text| text.lines().count() > 40);
    all.push_str(&more);
    offset = next;
    assert!(server.stop().success(), "{}", server.log());
    server.resume();
    let info = get(&server, &path);
    assert_eq!(
        (&info["state"], &info["detached"]),
        (&json!("running"), &json!(true))
    );
    let told = json!({"data": "the last\n"});
    server
        .request("POST", &format!("{path}/stdin"), Some(told))
        .expect(200);
    let (more, _, exit) = read(&server, &path, offset, |_| false);
    all.push_str(&more);
    assert_eq!(exit.unwrap()["exit_code"], 6);
    let expected: String = (0..400).map(|i| format!("line {i} é\n")).collect();
    assert_eq!(
        all,
        expected + "the last\n",
        "nothing missing, nothing twice"
    );
    let waited = get(&server, &format!("{path}/wait"));
    assert_eq!(
        (&waited["state"], &waited["reason"]),
        (&json!("exited"), &json!("exit"))
    );
}

#[test]
fn a_deadline_holds_while_the_server_is_down_and_its_reason_is_kept() {
    let mut server = Server::start();
    let id = server.spawn(json!({}));
    let request = json!({"command": "sleep 86400 & sleep 86400", "detach": true, "timeout": "1s"});
    let info = server.exec_with(&id, request).expect(201);
    let path = format!(
        "/sandboxes/{id}/execs/{}",
        info["exec_id"].as_str().unwrap()
    );
    server.kill();
    server.resume();
    let ended = get(&server, &format!("{path}/wait"));
    assert_eq!(
        (&ended["exit_code"], &ended["reason"]),
        (&json!(137), &json!("timeout"))
    );
    eventually("nothing of the tree is left", SOON, || {
        let left = server.exec(
            &id,
            "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 86400'",
        );
        left["stdout"] == "0\n"
    });
}

#[test]
fn a_memory_bomb_in_the_background_says_what_it_died_of() {
    need_root!();
    let server = Server::start();
    let id = server.spawn(json!({"memory_mb": 64}));
    let path = detach(
        &server,
        &id,
        "python3 -c 'b = []\nwhile True: b.append(bytearray(1 << 20))'; exit $?",
    );
    let ended = get(&server, &format!("{path}/wait"));
    assert_eq!(
        (&ended["exit_code"], &ended["reason"]),
        (&json!(137), &json!("oom"))
    );
}

#[test]
fn destroying_the_sandbox_ends_it_and_leaves_nothing() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let path = detach(&server, &id, "echo up; sleep 86400");
    let mut stream = server.open("GET", &format!("{path}/attach"), None);
    assert_eq!(stream.line().unwrap().unwrap()["data"], "up\n");
    server
        .request("DELETE", &format!("/sandboxes/{id}"), None)
        .expect(200);
    let last = stream.line().unwrap().unwrap();
    assert_eq!(
        (&last["stream"], &last["reason"]),
        (&json!("exit"), &json!("sandbox_destroyed"))
    );
    assert_eq!(server.request("GET", &path, None).status, 404);
    assert!(host::remains(&id, &server.data_dir()).is_empty());
}

#[test]
fn a_stop_does_not_wait_for_those_who_only_wait_or_follow() {
    let mut server = Server::with(Options {
        // Waiting for any of them would outlast the patience with its end.
        shutdown_timeout: "1h",
        ..Options::default()
    });
    let id = server.spawn(json!({}));
    let path = detach(&server, &id, "echo up; sleep 86400");
    let mut following = server.open("GET", &format!("{path}/attach"), None);
    assert_eq!(following.line().unwrap().unwrap()["data"], "up\n");
    let mut waiting = TcpStream::connect(server.address()).unwrap();
    let request = format!("GET /api/v1{path}/wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
    waiting.write_all(request.as_bytes()).unwrap();
    // Answered after it: so the wait has begun, or is refused at the door.
    get(&server, &path);
    assert!(server.stop().success(), "{}", server.log());
    let mut answer = String::new();
    // Broken off where the request was never read, which is an end as well.
    let _ = waiting.read_to_string(&mut answer);
    assert!(
        answer.is_empty() || answer.contains("UNAVAILABLE"),
        "{answer}"
    );
    server.resume();
    assert_eq!(get(&server, &path)["state"], "running");
}
