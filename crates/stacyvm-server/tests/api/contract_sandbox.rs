//! What becomes of sandboxes that are not there, never were, or died: contract section 3.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::contract_access::everything_of;
use crate::http::{get, post, send};
use crate::mock::{Mocked, eventually};

#[tokio::test]
async fn no_operation_finds_what_never_was_or_is_no_more() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let path = format!("/api/v1/sandboxes/{id}");
    send(server.address, "DELETE", &path, "", b"").await;
    for id in [&id, "sb-00000000", "nonsense"] {
        for (what, answer) in everything_of(&server, id, "").await {
            if what == "DELETE " {
                assert_eq!(answer.text(), "{\"status\":\"destroyed\"}", "{id}");
                continue;
            }
            assert_eq!(answer.status, 404, "{id} {what}: {}", answer.text());
            answer.expect(404, "NOT_FOUND");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn an_exec_that_is_not_there_is_not_found_whatever_is_asked_of_it() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let mut asked = 0;
    for (what, answer) in everything_of(&server, &id, "").await {
        if what.contains("ex-99") {
            assert_eq!(answer.status, 404, "{what}: {}", answer.text());
            answer.expect(404, "NOT_FOUND");
            asked += 1;
        }
    }
    assert_eq!(asked, 8);
    server.stop().await;
}

#[tokio::test]
async fn a_spawn_hears_what_is_missing_by_name() {
    let server = Mocked::start().await;
    let at = server.address;
    for (body, status, code, word) in [
        (json!({"template": "web"}), 404, "NOT_FOUND", "web"),
        (json!({"provider": "moon"}), 404, "NOT_FOUND", "moon"),
        (
            json!({"network": "bridge"}),
            422,
            "UNSUPPORTED",
            "network-bridge",
        ),
        (json!({"network": "moon"}), 400, "BAD_REQUEST", "moon"),
        (json!({"volumes": ["data"]}), 422, "UNSUPPORTED", "volumes"),
        (json!({"isolation": "vm"}), 422, "UNSUPPORTED", "vm"),
        (json!({"isolation": "moon"}), 400, "BAD_REQUEST", "moon"),
        (json!({"memory_mb": -1}), 400, "BAD_REQUEST", ""),
        (json!({"vcpus": -1}), 400, "BAD_REQUEST", ""),
        (json!({"vcpus": 0.01}), 400, "BAD_REQUEST", "0.05"),
        (json!({"vcpus": "two"}), 400, "BAD_REQUEST", ""),
        (json!({"disk_mb": -1}), 400, "BAD_REQUEST", "disk_mb"),
        (json!({"disk_mb": 64}), 422, "UNSUPPORTED", "disk-limit"),
        (json!({"workdir": "a\u{0}b"}), 400, "BAD_REQUEST", ""),
        (json!({"user": "a b"}), 400, "BAD_REQUEST", ""),
        (json!({"env": {"A=B": "c"}}), 400, "BAD_REQUEST", ""),
    ] {
        for path in ["/api/v1/sandboxes", "/api/v1/sandboxes/admission"] {
            let answer = post(at, path, &body.to_string()).await;
            assert_eq!(answer.status, status, "{path} {body}: {}", answer.text());
            answer.expect(status, code);
            assert!(answer.text().contains(word), "{body}: {}", answer.text());
        }
    }
    assert_eq!(get(at, "/api/v1/sandboxes").await.text(), "[]");
    // What is blank is not said.
    let blank = json!({
        "image": "", "provider": "", "template": "", "owner_id": "", "workdir": "", "user": "",
        "network": "", "isolation": "", "volumes": [], "env": {}, "metadata": {},
        "memory_mb": 0, "vcpus": 0,
    });
    let made = post(at, "/api/v1/sandboxes", &blank.to_string()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(
        (&made["provider"], &made["memory_mb"]),
        (&json!("mock"), &json!(1024))
    );
    for absent in ["owner_id", "template", "metadata"] {
        assert!(made.get(absent).is_none(), "{made}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_a_spawn_sets_holds_for_every_command() {
    let server = Mocked::start().await;
    let at = server.address;
    let body =
        json!({"workdir": "/workspace/app", "env": {"A": "1", "B": "2"}, "isolation": "none"});
    let made = post(at, "/api/v1/sandboxes", &body.to_string()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let mkdir = format!("/api/v1/sandboxes/{id}/files/mkdir");
    post(at, &mkdir, r#"{"path":"/workspace/app"}"#).await;
    let exec = format!("/api/v1/sandboxes/{id}/exec");
    let run = json!({"command": "echo $A$B; touch here", "env": {"B": "3"}});
    let said = post(at, &exec, &run.to_string()).await.json();
    assert_eq!(said["stdout"], "13\n", "{said}");
    let stat = format!("/api/v1/sandboxes/{id}/files/stat?path=/workspace/app/here");
    assert_eq!(get(at, &stat).await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn a_dead_workload_is_not_running_and_refuses_work() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let one = format!("/api/v1/sandboxes/{id}");
    // The shell's parent is the agent, which is all that this sandbox is.
    let kill = r#"{"command":"kill -9 $PPID","stream":true}"#;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let length = kill.len();
    let request = format!(
        "POST {one}/exec HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{kill}"
    );
    // Whatever it hears of this: the connection may well be cut.
    stream.write_all(request.as_bytes()).await.unwrap();
    let state = async || -> Value { get(at, &one).await.json()["state"].clone() };
    eventually("it does not run", async || state().await != "running").await;
    assert_eq!(state().await, "stopped");
    let running = get(at, "/api/v1/sandboxes?state=running").await;
    assert_eq!(running.text(), "[]");
    let stopped = get(at, "/api/v1/sandboxes?state=stopped").await.json();
    assert_eq!(stopped[0]["id"], id);
    for (path, body) in [
        ("exec", r#"{"command":"true"}"#),
        ("exec", r#"{"command":"true","stream":true}"#),
        ("files", r#"{"path":"/x","content":""}"#),
    ] {
        let answer = post(at, &format!("{one}/{path}"), body).await;
        assert_eq!(answer.status, 409, "{path}: {}", answer.text());
        answer.expect(409, "CONFLICT");
    }
    let gone = send(at, "DELETE", &one, "", b"").await;
    assert_eq!(gone.text(), "{\"status\":\"destroyed\"}");
    get(at, &one).await.expect(404, "NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn a_key_sent_many_times_at_once_makes_one_sandbox() {
    let server = Mocked::start().await;
    let at = server.address;
    let spawn = |key: &'static str, body: &'static str| async move {
        let header = format!("Idempotency-Key: {key}\r\n");
        send(at, "POST", "/api/v1/sandboxes/", &header, body.as_bytes()).await
    };
    let body = r#"{"ttl":"10m"}"#;
    let all = futures_util::future::join_all((0..8).map(|_| spawn("k", body))).await;
    for answer in &all {
        assert_eq!((answer.status, answer.text()), (201, all[0].text()));
    }
    let listed = get(at, "/api/v1/sandboxes").await.json();
    assert_eq!(listed, json!([all[0].json()]));
    spawn("k", "{}").await.expect(409, "CONFLICT");
    for state in ["creating", "paused", "stopped", "error", "destroyed"] {
        let none = get(at, &format!("/api/v1/sandboxes?state={state}")).await;
        assert_eq!((none.status, none.text()), (200, "[]"), "{state}");
    }
    server.stop().await;
}
