//! Details of exec that no client may be surprised by: contract section 4.

use std::time::Duration;

use serde_json::json;
use stacyvm_types::GoDuration;

use crate::http::{get, post};
use crate::mock::Mocked;

#[tokio::test]
async fn the_default_directory_is_a_writable_workspace_and_relative_ones_start_there() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let one = format!("/api/v1/sandboxes/{id}");
    let run = async |body: serde_json::Value| {
        let answer = post(at, &format!("{one}/exec"), &body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(answer.json()["exit_code"], 0, "{body}: {}", answer.text());
    };
    run(json!({"command": "touch here && mkdir sub"})).await;
    run(json!({"command": "touch", "args": ["program"], "mode": "argv"})).await;
    run(json!({"command": "touch below", "workdir": "sub"})).await;
    run(json!({"command": "touch beside", "workdir": "/workspace/sub"})).await;
    run(json!({"command": "touch blank", "workdir": ""})).await;
    for path in ["here", "program", "sub/below", "sub/beside", "blank"] {
        let stat = get(at, &format!("{one}/files/stat?path=/workspace/{path}")).await;
        assert_eq!(stat.status, 200, "{path}: {}", stat.text());
    }
    for stream in [false, true] {
        for workdir in ["missing", "/workspace/here", "a\u{0}b"] {
            let body = json!({"command": "true", "workdir": workdir, "stream": stream});
            let answer = post(at, &format!("{one}/exec"), &body.to_string()).await;
            assert_eq!(answer.status, 400, "{body}: {}", answer.text());
            answer.expect(400, "BAD_REQUEST");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn blank_commands_modes_and_missing_programs_are_told_apart() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let path = format!("/api/v1/sandboxes/{id}/exec");
    for command in ["", " ", "\t\n"] {
        for mode in ["", "shell", "argv"] {
            let body = json!({"command": command, "mode": mode});
            let answer = post(at, &path, &body.to_string()).await;
            answer.expect(400, "BAD_REQUEST");
        }
    }
    for mode in ["SHELL", "sh", "argv ", "exec"] {
        let body = json!({"command": "true", "mode": mode});
        post(at, &path, &body.to_string())
            .await
            .expect(400, "BAD_REQUEST");
    }
    for body in [
        json!({"command": "no-such-program"}),
        json!({"command": "no-such-program", "mode": "argv"}),
        json!({"command": "/no/such/program", "mode": "argv"}),
    ] {
        let answer = post(at, &path, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let said = answer.json();
        assert_eq!(
            (&said["exit_code"], &said["stdout"]),
            (&json!(127), &json!(""))
        );
        assert_ne!(said["stderr"], "", "{body}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_deadline_that_nobody_asked_for_is_the_servers() {
    let short = Some(Duration::from_millis(200));
    let hour = Some(Duration::from_secs(3600));
    // The default's, and where there is none, the longest that is allowed.
    for (default, max) in [(short, hour), (None, short), (hour, short)] {
        let mut options = Mocked::options();
        options.orchestrator.default_exec_timeout = default;
        options.orchestrator.max_exec_timeout = max;
        let server = Mocked::with(options).await;
        let id = server.spawn().await;
        let path = format!("/api/v1/sandboxes/{id}/exec");
        let answer = post(server.address, &path, r#"{"command":"sleep 1000"}"#).await;
        answer.expect(408, "TIMEOUT");
        let value = answer.json();
        let message = value["message"].as_str().unwrap();
        assert!(message.starts_with("exec timeout:"), "{message}");
        server.stop().await;
    }
}

#[tokio::test]
async fn the_last_line_of_a_stream_says_what_killed_it_and_nothing_else_is_sent() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let path = format!("/api/v1/sandboxes/{id}/exec");
    for (command, timeout, code, reason) in [
        ("true", "0s", 0, None),
        ("exit 137", "1m", 137, None),
        ("kill -9 $$", "1m", 137, Some("signal")),
        ("kill -15 $$", "1m", 143, Some("signal")),
        ("sleep 1000", "200ms", 137, Some("timeout")),
    ] {
        let body = json!({"command": command, "timeout": timeout, "stream": true});
        let answer = post(at, &path, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{command}: {}", answer.text());
        let line = answer.text().strip_suffix('\n').unwrap();
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let duration = value["duration"].as_str().unwrap();
        let read: GoDuration = duration.parse().unwrap();
        assert_eq!(read.to_string(), duration);
        let reason = reason.map_or(String::new(), |word| format!(",\"reason\":\"{word}\""));
        assert_eq!(
            line,
            format!(
                "{{\"stream\":\"exit\",\"data\":\"\",\"exit_code\":{code},\"duration\":\"{duration}\"{reason}}}"
            ),
            "{command}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn each_stream_has_its_own_cap_and_a_stream_of_lines_has_none() {
    let mut options = Mocked::options();
    options.orchestrator.max_output_bytes = 1000;
    let server = Mocked::with(options).await;
    let at = server.address;
    let id = server.spawn().await;
    let path = format!("/api/v1/sandboxes/{id}/exec");
    let fill = |count: u32| format!("head -c {count} /dev/zero | tr '\\0' x");
    for (out, err, truncated) in [(1000, 1000, false), (10, 1001, true), (1001, 0, true)] {
        let command = format!("{}; {} >&2", fill(out), fill(err));
        let body = json!({"command": command}).to_string();
        let said = post(at, &path, &body).await.json();
        let length = |name: &str| said[name].as_str().unwrap().len() as u32;
        assert_eq!(length("stdout"), out.min(1000));
        assert_eq!(length("stderr"), err.min(1000));
        assert_eq!(said.get("truncated").is_some(), truncated, "{out} {err}");
        assert!(!truncated || said["truncated"] == true);
    }
    let body = json!({"command": fill(5000), "stream": true}).to_string();
    let answer = post(at, &path, &body).await;
    let lines = answer.text().lines().map(serde_json::from_str);
    let data: String = lines
        .map(|line: Result<serde_json::Value, _>| {
            line.unwrap()["data"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(data.len(), 5000);
    server.stop().await;
}

#[tokio::test]
async fn what_no_system_could_start_is_the_clients_mistake() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let path = format!("/api/v1/sandboxes/{id}/exec");
    let long = "x".repeat(200_000);
    for body in [
        json!({"command": "true", "args": [long]}),
        json!({"command": long}),
        json!({"command": "true", "env": {"A": long}}),
        json!({"command": "true", "args": vec!["y".repeat(100_000); 30]}),
        json!({"command": "true", "mode": "argv", "args": vec!["y".repeat(100_000); 30]}),
        json!({"command": "true", "env": {"": "x"}}),
        json!({"command": "true", "user": "no-such-user"}),
    ] {
        for way in ["none", "stream", "detach"] {
            let mut body = body.clone();
            body[way] = json!(true);
            let answer = post(at, &path, &body.to_string()).await;
            let shown: String = body.to_string().chars().take(60).collect();
            assert_eq!(answer.status, 400, "{shown}: {}", answer.text());
            answer.expect(400, "BAD_REQUEST");
        }
    }
    server.stop().await;
}
