//! Commands in a real agent: contract section 4.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use stacyvm_types::{ErrorCode, ExecRequest, ExitReason, GoDuration, StreamLine};

use crate::http::{TEST_TIMEOUT, post};
use crate::mock::{Mocked, eventually};
use crate::sandboxes::alive;

fn shell(command: &str) -> ExecRequest {
    ExecRequest {
        command: command.to_owned(),
        ..ExecRequest::default()
    }
}

#[tokio::test]
async fn a_command_answers_with_its_output_and_code() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let path = format!("/api/v1/sandboxes/{id}/exec");
    let answer = post(
        server.address,
        &path,
        "{\"command\":\"echo out; echo err >&2; exit 42\"}",
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let value = answer.json();
    assert_eq!(
        (&value["exit_code"], &value["stdout"], &value["stderr"]),
        (&json!(42), &json!("out\n"), &json!("err\n"))
    );
    assert!(
        value["duration"]
            .as_str()
            .unwrap()
            .parse::<GoDuration>()
            .unwrap()
            .is_positive()
    );
    assert_eq!(value.as_object().unwrap().len(), 4, "{value}");
    for (body, code, stdout) in [
        (
            json!({"command": "echo", "args": ["a b", "$HOME", "it's", "*", ""]}),
            0,
            "a b $HOME it's * \n",
        ),
        (
            json!({"command": "printf '%s|' ", "args": ["x;y", "\"z\"", "\n"]}),
            0,
            "x;y|\"z\"|\n|",
        ),
        (
            json!({"command": "echo", "args": ["$HOME;"], "mode": "argv"}),
            0,
            "$HOME;\n",
        ),
        (
            json!({"command": "echo $A-$B", "env": {"A": "1", "B": "two words"}}),
            0,
            "1-two words\n",
        ),
        (json!({"command": "cat", "stdin": "typed é"}), 0, "typed é"),
        (json!({"command": "cat"}), 0, ""),
        (
            json!({"command": "printf 'a\\377b\\303'"}),
            0,
            "a\u{FFFD}b\u{FFFD}",
        ),
        (json!({"command": "kill -9 $$"}), 137, ""),
        (json!({"command": "kill -15 $$"}), 143, ""),
        (
            json!({"command": "true", "mode": "shell", "args": null, "env": null}),
            0,
            "",
        ),
    ] {
        let answer = post(server.address, &path, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        let value = answer.json();
        assert_eq!(
            (&value["exit_code"], &value["stdout"]),
            (&json!(code), &json!(stdout)),
            "{body}"
        );
    }
    let missing = json!({"command": "no-such-program", "mode": "argv"});
    let value = post(server.address, &path, &missing.to_string())
        .await
        .json();
    assert_eq!(value["exit_code"], 127);
    assert!(
        value["stderr"]
            .as_str()
            .unwrap()
            .contains("no-such-program"),
        "{value}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused() {
    let mut options = Mocked::options();
    options.orchestrator.max_exec_timeout = Some(Duration::from_secs(60));
    let server = Mocked::with(options).await;
    let id = server.spawn().await;
    for (body, status, code) in [
        (json!({}), 400, "BAD_REQUEST"),
        (json!({"command": "  "}), 400, "BAD_REQUEST"),
        (json!({"command": "x", "mode": "bash"}), 400, "BAD_REQUEST"),
        (
            json!({"command": "x", "workdir": "/no/such/directory"}),
            400,
            "BAD_REQUEST",
        ),
        (
            json!({"command": "x", "timeout": "-1s"}),
            400,
            "BAD_REQUEST",
        ),
        (
            json!({"command": "x", "timeout": "soon"}),
            400,
            "BAD_REQUEST",
        ),
        (
            json!({"command": "x", "timeout": "61s"}),
            429,
            "RESOURCE_LIMIT",
        ),
        (json!({"command": "a\u{0}b"}), 400, "BAD_REQUEST"),
        (
            json!({"command": "x", "args": ["a\u{0}b"]}),
            400,
            "BAD_REQUEST",
        ),
        (
            json!({"command": "x", "env": {"A": "a\u{0}b"}}),
            400,
            "BAD_REQUEST",
        ),
        (
            json!({"command": "x", "env": {"A=B": "c"}}),
            400,
            "BAD_REQUEST",
        ),
    ] {
        for stream in [false, true] {
            let mut body = body.clone();
            body["stream"] = json!(stream);
            let path = format!("/api/v1/sandboxes/{id}/exec");
            let answer = post(server.address, &path, &body.to_string()).await;
            assert_eq!(answer.status, status, "{body}: {}", answer.text());
            answer.expect(status, code);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_deadline_kills_the_whole_tree() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let tree =
        "rm -f a b; sleep 1000 & echo $! > a; setsid sh -c 'echo $$ > b; exec sleep 1000' & wait";
    let mut request = shell(tree);
    let mut pids: Vec<u32> = Vec::new();
    // The first that leaves a slow machine the time to grow the tree.
    for timeout in ["300ms", "4s", "20s"] {
        request.timeout = Some(timeout.to_owned());
        let error = server.client.exec(&id, &request).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Timeout));
        assert!(error.to_string().starts_with("exec timeout:"), "{error}");
        let stream = server.lines(&id, &request).await;
        let last = stream.last().unwrap();
        assert_eq!(
            (last.exit_code, last.reason),
            (Some(137), Some(ExitReason::Timeout))
        );
        let written = server.shell(&id, "cat a b").await.stdout;
        pids = written.lines().map(|line| line.parse().unwrap()).collect();
        if pids.len() == 2 {
            break;
        }
    }
    assert_eq!(pids.len(), 2, "the tree never stood");
    for pid in pids {
        assert!(!alive(pid), "{pid} outlived its command's deadline");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_child_in_the_background_lives_on() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let said = tokio::time::timeout(TEST_TIMEOUT, server.shell(&id, "sleep 1000 & echo $!")).await;
    let pid: u32 = said.unwrap().stdout.trim().parse().unwrap();
    assert_eq!(server.shell(&id, "true").await.exit_code, 0);
    assert!(alive(pid));
    server.client.destroy(&id).await.unwrap();
    assert!(!alive(pid));
    server.stop().await;
}

#[tokio::test]
async fn captured_output_is_capped_and_says_so() {
    let mut options = Mocked::options();
    options.orchestrator.max_output_bytes = 1000;
    let server = Mocked::with(options).await;
    let id = server.spawn().await;
    let said = server
        .shell(&id, "head -c 3000000 /dev/zero | tr '\\0' x; echo end >&2")
        .await;
    assert_eq!((said.stdout.len(), said.truncated), (1000, true));
    assert_eq!((said.exit_code, said.stderr.as_str()), (0, "end\n"));
    server.stop().await;
}

#[tokio::test]
async fn a_stream_is_exactly_lines_of_objects() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let body = json!({"command": "echo 'é€🦀'; echo oops >&2; exit 3", "stream": true});
    let path = format!("/api/v1/sandboxes/{id}/exec");
    let answer = post(server.address, &path, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert!(answer.text().ends_with("}\n"));
    let lines: Vec<&str> = answer.text().split_terminator('\n').collect();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    for line in &lines[..lines.len() - 1] {
        let value: Value = serde_json::from_str(line).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 2, "{line}");
        let into = match value["stream"].as_str().unwrap() {
            "stdout" => &mut stdout,
            "stderr" => &mut stderr,
            other => panic!("{other}"),
        };
        into.push_str(value["data"].as_str().unwrap());
    }
    assert_eq!((stdout.as_str(), stderr.as_str()), ("é€🦀\n", "oops\n"));
    let last = lines.last().unwrap();
    let head = "{\"stream\":\"exit\",\"data\":\"\",\"exit_code\":3,\"duration\":\"";
    assert!(last.starts_with(head) && last.ends_with("\"}"), "{last}");
    server.stop().await;
}

#[tokio::test]
async fn the_first_piece_comes_while_the_command_runs() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    // The command ends only when it sees the file that is written after its first line was read.
    let wait = shell("echo ready; until [ -e go ]; do sleep 0.02; done; echo done");
    let mut lines = server.client.exec_stream(&id, &wait).await.unwrap();
    let first = tokio::time::timeout(TEST_TIMEOUT, lines.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        (first.stream.as_str(), first.data.as_str()),
        ("stdout", "ready\n")
    );
    server
        .client
        .write_file(&id, "/workspace/go", "")
        .await
        .unwrap();
    let rest: Vec<StreamLine> = lines.map(Result::unwrap).collect().await;
    assert_eq!(rest[0].data, "done\n");
    assert_eq!(rest.last().unwrap().exit_code, Some(0));
    server.stop().await;
}

#[tokio::test]
async fn characters_are_never_cut_in_two() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let command =
        "printf '\\342\\202'; sleep 0.05; printf '\\254|\\303'; sleep 0.05; printf 'x\\360\\237'";
    let lines = server.lines(&id, &shell(command)).await;
    let text: String = lines.iter().map(|line| line.data.as_str()).collect();
    assert_eq!(text, "€|\u{FFFD}x\u{FFFD}");
    server.stop().await;
}

#[tokio::test]
async fn much_output_arrives_whole_and_in_order() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let mut lines = server
        .client
        .exec_stream(&id, &shell("seq 1 400000"))
        .await
        .unwrap();
    let (mut text, mut exit) = (String::new(), None);
    while let Some(line) = lines.next().await {
        let line = line.unwrap();
        text.push_str(&line.data);
        exit = line.exit_code;
    }
    assert_eq!(exit, Some(0));
    let mut expected = 1;
    for line in text.lines() {
        assert_eq!(line.parse::<u32>(), Ok(expected));
        expected += 1;
    }
    assert_eq!(expected, 400_001);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_vanishes_takes_the_process_tree_with_it() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let tree = "sleep 1000 & echo $!; setsid sh -c 'echo $$; exec sleep 1000' & wait";
    let mut lines = server.client.exec_stream(&id, &shell(tree)).await.unwrap();
    let mut text = String::new();
    while text.lines().count() < 2 || !text.ends_with('\n') {
        text.push_str(&lines.next().await.unwrap().unwrap().data);
    }
    let pids: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(pids.iter().all(|pid| alive(*pid)));
    drop(lines);
    eventually("the tree of the stream is gone", || async {
        !pids.iter().any(|pid| alive(*pid))
    })
    .await;
    // The same for one that waits for a synchronous answer.
    let client = server.client.clone();
    let waiting = tokio::spawn({
        let id = id.clone();
        async move {
            client
                .exec(&id, &shell("echo $$ > pid; sleep 1000 & wait"))
                .await
        }
    });
    let read = || async {
        let bytes = server.client.read_file(&id, "/workspace/pid").await.ok()?;
        String::from_utf8(bytes.to_vec())
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()
    };
    eventually("the command has started", || async {
        read().await.is_some()
    })
    .await;
    let pid = read().await.unwrap();
    assert!(alive(pid));
    waiting.abort();
    eventually("the tree of the exec is gone", || async { !alive(pid) }).await;
    server.stop().await;
}

#[tokio::test]
async fn a_sandbox_destroyed_under_a_command_ends_its_stream_with_the_reason() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let mut lines = server
        .client
        .exec_stream(&id, &shell("echo up; sleep 1000"))
        .await
        .unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().data, "up\n");
    server.client.destroy(&id).await.unwrap();
    let rest: Vec<StreamLine> = lines.map(Result::unwrap).collect().await;
    let last = rest.last().unwrap();
    assert_eq!(
        (last.exit_code, last.reason),
        (Some(137), Some(ExitReason::SandboxDestroyed))
    );
    server.stop().await;
}

#[tokio::test]
async fn fifty_commands_run_at_once() {
    let server = Mocked::start().await;
    let id = server.spawn().await;
    let all = futures_util::future::join_all((0..50).map(|number| {
        let (client, id) = (server.client.clone(), id.clone());
        async move {
            (
                number,
                client
                    .exec(&id, &shell(&format!("echo {number}")))
                    .await
                    .unwrap(),
            )
        }
    }));
    for (number, said) in all.await {
        assert_eq!((said.exit_code, said.stdout), (0, format!("{number}\n")));
    }
    server.stop().await;
}
