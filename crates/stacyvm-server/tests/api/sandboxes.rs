//! Sandboxes with a real agent inside: contract section 3.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use stacyvm_client::Client;
use stacyvm_types::{GoDuration, ListSandboxesQuery, SandboxState, SpawnRequest, Timestamp};

use crate::http::{Answer, get, post, send};
use crate::mock::{Mocked, eventually};

fn keys(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

fn set<const N: usize>(keys: [&'static str; N]) -> BTreeSet<&'static str> {
    BTreeSet::from(keys)
}

#[tokio::test]
async fn an_empty_object_makes_a_running_sandbox() {
    let server = Mocked::start().await;
    let at = server.address;
    let before = Timestamp::now();
    let answer = post(at, "/api/v1/sandboxes/", "{}").await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let made = answer.json();
    assert_eq!(
        keys(&made),
        set([
            "id",
            "state",
            "provider",
            "image",
            "memory_mb",
            "vcpus",
            "isolation",
            "created_at",
            "expires_at",
            "preview_domain",
        ])
    );
    let id = made["id"].as_str().unwrap();
    assert!(id.parse::<stacyvm_types::SandboxId>().is_ok(), "{id}");
    assert_eq!(made["state"], "running");
    assert_eq!(made["provider"], "mock");
    assert_eq!(made["isolation"], "none");
    assert_eq!(
        (&made["memory_mb"], &made["vcpus"]),
        (&json!(1024), &json!(1))
    );
    assert_eq!(made["preview_domain"], "localhost:7423");
    for time in ["created_at", "expires_at"] {
        assert!(made[time].as_str().unwrap().ends_with('Z'), "{made}");
    }
    let time = |name: &str| serde_json::from_value::<Timestamp>(made[name].clone()).unwrap();
    assert!(time("created_at") >= before);
    let life = time("expires_at").saturating_since(time("created_at"));
    assert_eq!(life, Duration::from_secs(30 * 60));
    assert_eq!(
        get(at, &format!("/api/v1/sandboxes/{id}")).await.json(),
        made
    );
    server.stop().await;
}

#[tokio::test]
async fn every_field_of_a_spawn_is_heard() {
    let server = Mocked::start().await;
    let at = server.address;
    let body = json!({
        "provider": "mock", "memory_mb": 256, "vcpus": 2, "ttl": "1h30m", "owner_id": "of-the-body",
        "metadata": {"a": "1"}, "env": {"GREETING": "hello"}, "surprise": [1, {"x": null}],
        "template": null, "network": null,
    });
    let headers = "X-User-ID:  alice@example.com \r\n";
    let body = body.to_string();
    let made = send(at, "POST", "/api/v1/sandboxes", headers, body.as_bytes()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(
        (&made["memory_mb"], &made["vcpus"]),
        (&json!(256), &json!(2))
    );
    assert_eq!(made["owner_id"], "alice@example.com");
    assert_eq!(made["metadata"], json!({"a": "1"}));
    assert!(
        !made.to_string().contains("hello"),
        "variables are not shown: {made}"
    );
    let id = made["id"].as_str().unwrap();
    let said = server.shell(id, "echo $GREETING").await;
    assert_eq!(said.stdout, "hello\n");
    server.stop().await;
}

#[tokio::test]
async fn a_spawn_that_makes_no_sense_is_refused() {
    let mut options = Mocked::options();
    options.orchestrator.max_ttl = Some(Duration::from_secs(3600));
    let server = Mocked::with(options).await;
    let at = server.address;
    for (body, status, code) in [
        ("{\"provider\":\"nowhere\"}", 404, "NOT_FOUND"),
        ("{\"ttl\":\"2h\"}", 429, "RESOURCE_LIMIT"),
        ("{\"ttl\":\"0s\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":\"-5m\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":\"1d\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":\"10\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":\"\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":\"30 m\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":30}", 400, "BAD_REQUEST"),
        ("{\"memory_mb\":-1}", 400, "BAD_REQUEST"),
        ("{\"vcpus\":-1}", 400, "BAD_REQUEST"),
        ("{\"memory_mb\":1.5}", 400, "BAD_REQUEST"),
        ("{\"metadata\":{\"a\":1}}", 400, "BAD_REQUEST"),
        ("{\"owner_id\":\"a b\"}", 400, "BAD_REQUEST"),
        ("{\"isolation\":\"perfect\"}", 400, "BAD_REQUEST"),
        ("{\"isolation\":\"vm\"}", 422, "UNSUPPORTED"),
        ("{\"volumes\":[\"data\"]}", 422, "UNSUPPORTED"),
    ] {
        let answer = post(at, "/api/v1/sandboxes", body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        answer.expect(status, code);
    }
    let long = "Idempotency-Key: ".to_owned() + &"k".repeat(256) + "\r\n";
    for headers in [
        "Idempotency-Key: \r\n",
        "Idempotency-Key: caf\u{e9}\r\n",
        &long,
    ] {
        let answer = send(at, "POST", "/api/v1/sandboxes", headers, b"{}").await;
        answer.expect(400, "BAD_REQUEST");
    }
    assert!(server.client.list().await.unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_repeated_key_returns_the_same_sandbox() {
    let server = Mocked::start().await;
    let request = SpawnRequest::default();
    let one = server.client.spawn_once(&request, "key-1").await.unwrap();
    let again = server.client.spawn_once(&request, "key-1").await.unwrap();
    let other = server.client.spawn_once(&request, "key-2").await.unwrap();
    assert_eq!(one.id, again.id);
    assert_ne!(one.id, other.id);
    assert_eq!(server.client.list().await.unwrap().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn lists_are_newest_first_and_narrowed_by_what_is_asked() {
    let server = Mocked::start().await;
    let mut made = Vec::new();
    for (owner, team) in [("alice", "red"), ("bob", "red"), ("alice", "blue & green")] {
        let request = SpawnRequest {
            owner_id: Some(owner.to_owned()),
            metadata: Some([("team".to_owned(), team.to_owned())].into()),
            ..SpawnRequest::default()
        };
        made.push(server.client.spawn(&request).await.unwrap().id);
    }
    made.reverse();
    let ids = |answer: Answer| -> Vec<_> {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let list: Vec<stacyvm_types::Sandbox> = serde_json::from_slice(&answer.body).unwrap();
        list.into_iter().map(|sandbox| sandbox.id).collect()
    };
    for (query, expected) in [
        ("", vec![0, 1, 2]),
        ("/", vec![0, 1, 2]),
        ("?state=running", vec![0, 1, 2]),
        ("?state=", vec![0, 1, 2]),
        ("?state=paused", vec![]),
        ("?owner=alice", vec![0, 2]),
        ("?owner=nobody", vec![]),
        ("?metadata.team=red", vec![1, 2]),
        ("?metadata.team=blue+%26%20green&owner=alice", vec![0]),
        ("?metadata.team=red&metadata.other=x", vec![]),
        ("?unknown=1", vec![0, 1, 2]),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|index: usize| made[index].clone())
            .collect();
        let path = format!("/api/v1/sandboxes{query}");
        assert_eq!(ids(get(server.address, &path).await), expected, "{query}");
    }
    let query = ListSandboxesQuery {
        state: Some(SandboxState::Running),
        owner: Some("bob".parse().unwrap()),
        metadata: [("team".to_owned(), "red".to_owned())].into(),
    };
    let found = server.client.list_filtered(&query).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].id, made[1]);
    server.client.destroy(made[1].as_str()).await.unwrap();
    let left = server.client.list().await.unwrap();
    assert!(left.iter().all(|sandbox| sandbox.id != made[1]));
    server.stop().await;
}

#[tokio::test]
async fn destroying_is_final_and_may_be_repeated() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let path = format!("/api/v1/sandboxes/{id}");
    let pid: u32 = server
        .shell(&id, "sleep 1000 >/dev/null 2>&1 & echo $!")
        .await
        .stdout
        .trim()
        .parse()
        .unwrap();
    assert!(alive(pid));
    for _ in 0..2 {
        let answer = send(at, "DELETE", &path, "", b"").await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, "{\"status\":\"destroyed\"}")
        );
        assert!(!alive(pid), "when it returns nothing of the sandbox runs");
    }
    for (method, rest, body) in [
        ("GET", "", ""),
        ("GET", "/stats", ""),
        ("GET", "/logs", ""),
        ("POST", "/extend", "{\"ttl\":\"1m\"}"),
        ("POST", "/exec", "{\"command\":\"true\"}"),
        ("POST", "/exec", "{\"command\":\"true\",\"stream\":true}"),
        ("GET", "/files?path=/x", ""),
        ("GET", "/files/list", ""),
        ("POST", "/files", "{\"path\":\"/x\",\"content\":\"\"}"),
    ] {
        let answer = send(at, method, &format!("{path}{rest}"), "", body.as_bytes()).await;
        assert_eq!(answer.status, 404, "{method} {rest}: {}", answer.text());
        answer.expect(404, "NOT_FOUND");
    }
    server.stop().await;
}

/// Whether a process runs; one that only waits to be reaped does not.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

#[tokio::test]
async fn extending_counts_from_now_and_may_shorten() {
    let mut options = Mocked::options();
    options.orchestrator.max_ttl = Some(Duration::from_secs(3600));
    let server = Mocked::with(options).await;
    let at = server.address;
    let id = server.spawn().await;
    for ttl in ["1h", "1m30s"] {
        let before = Timestamp::now();
        let sandbox = server.client.extend(&id, ttl).await.unwrap();
        let length = ttl.parse::<GoDuration>().unwrap().to_std();
        assert!(sandbox.expires_at >= before.saturating_add(length), "{ttl}");
        assert!(
            sandbox.expires_at <= Timestamp::now().saturating_add(length),
            "{ttl}"
        );
        assert_eq!(server.client.get(&id).await.unwrap(), sandbox);
    }
    let path = format!("/api/v1/sandboxes/{id}/extend");
    for (body, status, code) in [
        ("{\"ttl\":\"61m\"}", 429, "RESOURCE_LIMIT"),
        ("{\"ttl\":\"0s\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":\"-1s\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":\"soon\"}", 400, "BAD_REQUEST"),
        ("{\"ttl\":null}", 400, "BAD_REQUEST"),
        ("{}", 400, "BAD_REQUEST"),
    ] {
        let answer = post(at, &path, body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        answer.expect(status, code);
    }
    let unknown = post(
        at,
        "/api/v1/sandboxes/sb-00000000/extend",
        "{\"ttl\":\"1m\"}",
    )
    .await;
    unknown.expect(404, "NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn what_has_expired_is_destroyed_by_itself() {
    let server = Mocked::start().await;
    let request = SpawnRequest {
        ttl: Some("300ms".to_owned()),
        ..SpawnRequest::default()
    };
    let id = server.client.spawn(&request).await.unwrap().id;
    let (client, id) = (&server.client, id.as_str());
    eventually("the sandbox expires", || async {
        client
            .get(id)
            .await
            .is_err_and(|error| error.code() == Some(stacyvm_types::ErrorCode::NotFound))
    })
    .await;
    let pruned = send(server.address, "DELETE", "/api/v1/sandboxes", "", b"").await;
    assert_eq!((pruned.status, pruned.text()), (200, "{\"pruned\":0}"));
    server.stop().await;
}

#[tokio::test]
async fn admission_answers_with_exactly_its_keys() {
    let mut options = Mocked::options();
    options.orchestrator.max_sandboxes = 1;
    options.orchestrator.max_ttl = Some(Duration::from_secs(5400));
    let server = Mocked::with(options).await;
    let at = server.address;
    let path = "/api/v1/sandboxes/admission";
    let before = post(at, path, "{}").await;
    assert_eq!(before.status, 200);
    let before = before.json();
    assert_eq!(
        keys(&before),
        set([
            "allowed",
            "queueable",
            "reason",
            "active_sandboxes",
            "max_sandboxes",
            "active_owner_sandboxes",
            "max_owner_sandboxes",
            "max_ttl",
        ])
    );
    assert_eq!(before["allowed"], true);
    assert_eq!(
        (&before["reason"], &before["max_ttl"]),
        (&json!(""), &json!("1h30m0s"))
    );
    server.spawn().await;
    let after = post(at, path, "{}").await.json();
    assert_eq!(
        (&after["allowed"], &after["active_sandboxes"]),
        (&json!(false), &json!(1))
    );
    assert_ne!(after["reason"], "");
    post(at, "/api/v1/sandboxes", "{}")
        .await
        .expect(429, "RESOURCE_LIMIT");
    post(at, path, "{\"ttl\":\"x\"}")
        .await
        .expect(400, "BAD_REQUEST");
    server.stop().await;
}

#[tokio::test]
async fn stats_and_logs_tell_about_a_sandbox() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let stats = get(at, &format!("/api/v1/sandboxes/{id}/stats")).await;
    assert_eq!(stats.status, 200, "{}", stats.text());
    assert_eq!(
        keys(&stats.json()),
        set([
            "supported",
            "cpu_pct",
            "mem_bytes",
            "mem_limit_bytes",
            "pids",
            "disk_bytes",
            "net_rx_bytes",
            "net_tx_bytes",
            "cpu_limit",
            "pids_limit",
            "disk_limit_bytes",
            "oom_kills",
        ])
    );
    server
        .shell(
            &id,
            "for i in $(seq 1 250); do echo line $i; done; echo oops >&2",
        )
        .await;
    let path = format!("/api/v1/sandboxes/{id}/logs");
    let all = || async { server.client.logs(&id, 1000).await.unwrap() };
    eventually("the log has every line", || async {
        all().await.iter().any(|line| line.contains("oops"))
    })
    .await;
    let lines: Vec<String> = serde_json::from_slice(&get(at, &path).await.body).unwrap();
    assert_eq!(lines.len(), 100, "100 by default");
    let few: Vec<String> =
        serde_json::from_slice(&get(at, &format!("{path}?lines=3")).await.body).unwrap();
    assert_eq!(few.len(), 3);
    assert_eq!(few, lines[97..]);
    assert!(
        lines.iter().any(|line| line.ends_with("line 250")),
        "{few:?}"
    );
    for wrong in ["0", "-1", "x", "1.5", "99999999999999999999999"] {
        get(at, &format!("{path}?lines={wrong}"))
            .await
            .expect(400, "BAD_REQUEST");
    }
    server.stop().await;
}

#[tokio::test]
async fn in_pool_mode_another_owners_sandbox_is_not_there() {
    let mut options = Mocked::options();
    options.orchestrator.pool_mode = true;
    let server = Mocked::with(options).await;
    let url = format!("http://{}", server.address);
    let alice = Client::new(&url, None, Some("alice")).unwrap();
    let id = alice
        .spawn(&SpawnRequest::default())
        .await
        .unwrap()
        .id
        .to_string();
    assert!(alice.get(&id).await.is_ok());
    let bob = "X-User-ID: bob\r\n";
    for (method, rest, body) in [
        ("GET", "", ""),
        ("DELETE", "", ""),
        ("GET", "/stats", ""),
        ("GET", "/logs", ""),
        ("POST", "/extend", "{\"ttl\":\"1m\"}"),
        ("POST", "/exec", "{\"command\":\"true\"}"),
        ("POST", "/exec", "{\"command\":\"true\",\"stream\":true}"),
        ("GET", "/files?path=/x", ""),
        ("DELETE", "/files?path=/x", ""),
        ("POST", "/files", "{\"path\":\"/x\",\"content\":\"\"}"),
        ("POST", "/files?path=/x", "raw"),
        ("GET", "/files/list", ""),
        ("GET", "/files/stat?path=/x", ""),
        ("GET", "/files/glob?pattern=*", ""),
        ("POST", "/files/mkdir", "{\"path\":\"/x\"}"),
        (
            "POST",
            "/files/chmod",
            "{\"path\":\"/x\",\"mode\":\"0644\"}",
        ),
        (
            "POST",
            "/files/move",
            "{\"old_path\":\"/x\",\"new_path\":\"/y\"}",
        ),
        ("GET", "/files/archive?path=/", ""),
        ("PUT", "/files/archive?path=/", "tar"),
    ] {
        let path = format!("/api/v1/sandboxes/{id}{rest}");
        let answer = send(server.address, method, &path, bob, body.as_bytes()).await;
        assert_eq!(answer.status, 404, "{method} {rest}: {}", answer.text());
        answer.expect(404, "NOT_FOUND");
    }
    let listed = send(server.address, "GET", "/api/v1/sandboxes", bob, b"").await;
    assert_eq!(listed.text(), "[]");
    assert!(alice.get(&id).await.is_ok());
    server.stop().await;
}
