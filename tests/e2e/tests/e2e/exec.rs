//! Commands that do not behave: slow, loud, many, left alone.

use std::time::Instant;

use serde_json::json;

use crate::harness::{SOON, Server, eventually, host};

/// An argument for `sleep` that no other process on the machine has.
fn unique_seconds(test: u32) -> String {
    format!("8640{test}.{}", std::process::id())
}

#[test]
fn a_deadline_ends_the_whole_tree_and_answers_408() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let mark = unique_seconds(1);
    // One that left the session, and one below it.
    let command = format!("setsid sh -c 'sleep {mark} & sleep {mark}' & sleep {mark}");
    let start = Instant::now();
    let response = server.exec_with(&id, json!({"command": command, "timeout": "1s"}));
    let took = start.elapsed();
    let body = response.expect(408);
    assert_eq!(body["code"], "TIMEOUT");
    assert!(
        body["message"]
            .as_str()
            .unwrap()
            .starts_with("exec timeout:"),
        "{body}"
    );
    // The promise to users is 2 s; this only tells a deadline that is kept from one that is not.
    assert!(took < SOON, "{took:?}");
    assert_eq!(host::with_argument(&mark).len(), 0, "processes are left");
    assert_eq!(
        server.exec(&id, "echo still here")["stdout"],
        "still here\n"
    );
}

#[test]
fn a_command_that_leaves_a_child_behind_returns_and_the_child_lives() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let mark = unique_seconds(2);
    let answer = server.exec(&id, &format!("sleep {mark} & echo started"));
    assert_eq!(answer["stdout"], "started\n");
    assert_eq!(answer["exit_code"], 0);
    // The shell does not wait until what it sent to the background has become `sleep`.
    eventually("the child lives", SOON, || {
        host::with_argument(&mark).len() == 1
    });
    server
        .request("DELETE", &format!("/sandboxes/{id}"), None)
        .expect(200);
    assert_eq!(host::with_argument(&mark).len(), 0, "the child outlived");
}

#[test]
fn a_gigabyte_of_output_leaves_the_servers_memory_flat() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    server.exec(&id, "true");
    let before = host::memory_kib(server.pid(), "VmHWM");
    let answer = server.exec(&id, "head -c 1000000000 /dev/zero | tr '\\0' x");
    assert_eq!(answer["exit_code"], 0);
    assert_eq!(answer["truncated"], true);
    assert_eq!(answer["stdout"].as_str().unwrap().len(), 16 * 1024 * 1024);
    let grown = host::memory_kib(server.pid(), "VmHWM") - before;
    // Sixteen MiB are kept, turned into text, and then into JSON.
    assert!(grown < 160 * 1024, "the server grew by {grown} KiB");
}

#[test]
fn a_reader_that_stops_reading_stops_the_command_and_not_the_server() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    server.exec(&id, "true");
    let before = host::memory_kib(server.pid(), "VmHWM");
    let mut stream = server.open(
        "POST",
        &format!("/sandboxes/{id}/exec"),
        Some(json!({
            "command": "head -c 200000000 /dev/zero | tr '\\0' x; echo done > finished",
            "stream": true
        })),
    );
    assert_eq!(stream.status, 200);
    stream.line().unwrap().unwrap();
    // The client reads no further; others are served all the same, and the command waits.
    for _ in 0..20 {
        assert_eq!(server.exec(&id, "test -e finished")["exit_code"], 1);
    }
    let grown = host::memory_kib(server.pid(), "VmHWM") - before;
    assert!(grown < 64 * 1024, "the server grew by {grown} KiB");
    assert!(stream.drain().unwrap() > 190_000_000);
    assert_eq!(server.exec(&id, "cat finished")["stdout"], "done\n");
}

#[test]
fn the_first_chunk_comes_while_the_command_still_runs() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let mut stream = server.open(
        "POST",
        &format!("/sandboxes/{id}/exec"),
        Some(json!({
            "command": "echo first; while ! test -e go; do sleep 0.01; done; echo second; exit 3",
            "stream": true
        })),
    );
    let first = stream.line().unwrap().unwrap();
    assert_eq!(first, json!({"stream": "stdout", "data": "first\n"}));
    // It ends only because of what is written now, after its first words were read.
    server
        .request(
            "POST",
            &format!("/sandboxes/{id}/files"),
            Some(json!({"path": "go", "content": ""})),
        )
        .expect(200);
    assert_eq!(stream.line().unwrap().unwrap()["data"], "second\n");
    let last = stream.line().unwrap().unwrap();
    assert_eq!(last["stream"], "exit");
    assert_eq!(last["exit_code"], 3);
    assert!(stream.line().unwrap().is_none());
}

#[test]
fn a_client_that_vanishes_takes_its_processes_with_it() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    for (number, stream) in [(4, true), (5, false)] {
        let mark = unique_seconds(number);
        let command = format!("echo x; setsid sleep {mark} & sleep {mark}");
        let body = json!({"command": command, "stream": stream}).to_string();
        // Written by hand: the connection must close while the request is on its way.
        let mut connection = std::net::TcpStream::connect(server.address()).unwrap();
        std::io::Write::write_all(
            &mut connection,
            format!(
                "POST /api/v1/sandboxes/{id}/exec HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
        .unwrap();
        eventually("the command runs", SOON, || {
            host::with_argument(&mark).len() == 2
        });
        drop(connection);
        eventually("the command's processes are gone", SOON, || {
            host::with_argument(&mark).is_empty()
        });
    }
    assert_eq!(server.exec(&id, "echo ok")["stdout"], "ok\n");
}

#[test]
fn fifty_commands_at_once_in_one_sandbox() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    // All wait for one file, so that all are there at once.
    let command = |number: usize| format!("while ! test -e go; do sleep 0.05; done; echo {number}");
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..50)
            .map(|number| {
                let (server, id) = (&server, &id);
                scope.spawn(move || server.exec(id, &command(number)))
            })
            .collect();
        assert_eq!(server.exec(&id, "touch go")["exit_code"], 0);
        for (number, thread) in running.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap()["stdout"], format!("{number}\n"));
        }
    });
}

#[test]
fn a_destroy_ends_commands_in_flight_and_says_so() {
    let server = Server::start();
    let id = server.spawn(json!({}));
    let mut stream = server.open(
        "POST",
        &format!("/sandboxes/{id}/exec"),
        Some(json!({"command": "echo up; sleep 86400", "stream": true})),
    );
    assert_eq!(stream.line().unwrap().unwrap()["data"], "up\n");
    server
        .request("DELETE", &format!("/sandboxes/{id}"), None)
        .expect(200);
    assert_eq!(host::remains(&id, &server.data_dir()), Vec::<String>::new());
    let last = stream.line().unwrap().unwrap();
    assert_eq!(last["stream"], "exit");
    assert_eq!(last["reason"], "sandbox_destroyed");
}
