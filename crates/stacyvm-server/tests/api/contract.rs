//! What holds for every success, whatever route it comes from: contract section 1.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use stacyvm_types::{GoDuration, Timestamp};

use crate::http::{Answer, post, send};
use crate::mock::Mocked;

/// A request that succeeds, with its status.
type Step<'a> = (&'a str, String, Value, u16);

/// Asks something of every route that answers in JSON, and gives what it said. Every body has a
/// field that is unknown, and no request says that it is JSON.
async fn tour(server: &Mocked) -> Vec<(String, Answer)> {
    let unknown = json!([1, {"deep": null}]);
    let kind = "Content-Type: text/plain; charset=latin1\r\nX-User-ID: alice\r\n";
    let ask = async |(method, path, mut body, status): Step<'_>| {
        if !body.is_null() {
            body["surprise"] = unknown.clone();
        }
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let path = format!("/api/v1{path}");
        let answer = send(server.address, method, &path, kind, text.as_bytes()).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
        (format!("{method} {path}"), answer)
    };
    let spawn = json!({"metadata": {"name": "é", "code": "mine"}, "ttl": "1.5h"});
    let mut told = vec![ask(("POST", "/sandboxes".to_owned(), spawn, 201)).await];
    let one = format!("/sandboxes/{}", told[0].1.json()["id"].as_str().unwrap());
    let run = json!({"command": "sleep 0.01", "detach": true});
    told.push(ask(("POST", format!("{one}/exec"), run, 201)).await);
    let exec = told[1].1.json()["exec_id"].as_str().unwrap().to_owned();
    let exec = format!("{one}/execs/{exec}");
    let quota = json!({"owner_id": "bob", "max_ttl": "90m", "max_exec_timeout": "1500ms"});
    let none = || Value::Null;
    let file = json!({"path": "a/b", "content": "x"});
    let steps: Vec<Step<'_>> = vec![
        ("GET", "/sandboxes".to_owned(), none(), 200),
        ("GET", one.clone(), none(), 200),
        ("POST", "/sandboxes/admission".to_owned(), json!({}), 200),
        (
            "POST",
            format!("{one}/extend"),
            json!({"ttl": "1h0.5m"}),
            200,
        ),
        ("GET", format!("{one}/stats"), none(), 200),
        (
            "POST",
            format!("{one}/exec"),
            json!({"command": "echo é"}),
            200,
        ),
        ("GET", format!("{one}/logs"), none(), 200),
        ("GET", format!("{exec}/wait"), none(), 200),
        ("GET", exec, none(), 200),
        ("GET", format!("{one}/execs"), none(), 200),
        ("POST", format!("{one}/files"), file, 200),
        (
            "GET",
            format!("{one}/files/list?path=/workspace"),
            none(),
            200,
        ),
        ("GET", format!("{one}/files/stat?path=a/b"), none(), 200),
        ("GET", format!("{one}/files/glob?pattern=a/*"), none(), 200),
        (
            "POST",
            format!("{one}/files/mkdir"),
            json!({"path": "d"}),
            200,
        ),
        (
            "POST",
            format!("{one}/files/chmod"),
            json!({"path": "a/b", "mode": "600"}),
            200,
        ),
        (
            "POST",
            format!("{one}/files/move"),
            json!({"old_path": "a/b", "new_path": "a/c"}),
            200,
        ),
        ("DELETE", format!("{one}/files?path=a/c"), none(), 200),
        ("GET", "/providers".to_owned(), none(), 200),
        ("GET", "/providers/mock".to_owned(), none(), 200),
        ("POST", "/providers/test".to_owned(), none(), 200),
        ("POST", "/quotas".to_owned(), quota, 201),
        ("GET", "/quotas".to_owned(), none(), 200),
        (
            "PUT",
            "/quotas/bob".to_owned(),
            json!({"max_ttl": "2h"}),
            200,
        ),
        ("GET", "/quotas/bob".to_owned(), none(), 200),
        ("GET", "/quotas/summary".to_owned(), none(), 200),
        ("DELETE", "/quotas/bob".to_owned(), none(), 200),
        ("POST", "/tickets".to_owned(), json!({}), 201),
        ("GET", "/templates".to_owned(), none(), 200),
        ("GET", "/snapshots".to_owned(), none(), 200),
        ("GET", "/pool/status".to_owned(), none(), 200),
        ("GET", "/health".to_owned(), none(), 200),
        ("GET", "/live".to_owned(), none(), 200),
        ("GET", "/ready".to_owned(), none(), 200),
        ("GET", "/metrics".to_owned(), none(), 200),
        ("DELETE", one, none(), 200),
        ("DELETE", "/sandboxes".to_owned(), none(), 200),
    ];
    for step in steps {
        told.push(ask(step).await);
    }
    told
}

/// Every text in a value, with the key that it stands under.
fn texts<'a>(key: &'a str, value: &'a Value, out: &mut Vec<(&'a str, &'a str)>) {
    match value {
        Value::String(text) => out.push((key, text)),
        Value::Array(items) => items.iter().for_each(|item| texts(key, item, out)),
        Value::Object(fields) => fields
            .iter()
            .for_each(|(key, value)| texts(key, value, out)),
        _ => {}
    }
}

fn is_compact(text: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    text.chars().all(|char| {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        quoted || !char.is_whitespace()
    })
}

#[tokio::test]
async fn every_success_is_compact_json_with_its_times_and_no_code() {
    let server = Mocked::start().await;
    let (mut times, mut durations) = (BTreeSet::new(), BTreeSet::new());
    for (what, answer) in tour(&server).await {
        let text = answer.text();
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/json"), "{what}");
        assert_eq!(answer.header("x-request-id").unwrap().len(), 36, "{what}");
        assert!(is_compact(text), "{what}: {text}");
        assert!(!text.contains("\\u"), "UTF-8 as it is, {what}: {text}");
        let value = answer.json();
        let items = value.as_array().cloned().unwrap_or(vec![value.clone()]);
        for item in items {
            assert!(item.get("code").is_none(), "{what}: {text}");
        }
        let mut found = Vec::new();
        texts("", &value, &mut found);
        for (key, text) in found {
            match key {
                "created_at" | "updated_at" | "expires_at" | "last_checked" | "mod_time"
                | "started_at" | "ended_at" => {
                    let time = serde_json::from_value::<Timestamp>(json!(text));
                    assert!(time.is_ok() && text.ends_with('Z'), "{what} {key}: {text}");
                    times.insert(key.to_owned());
                }
                // No limit at all.
                "max_ttl" if text.is_empty() && what.ends_with("/admission") => {}
                "duration" | "uptime" | "max_ttl" | "max_exec_timeout" => {
                    let read: GoDuration = text.parse().unwrap();
                    assert_eq!(read.to_string(), text, "{what} {key}");
                    durations.insert(key.to_owned());
                }
                _ => {
                    let dated = text.as_bytes().get(10) == Some(&b'T') && text.starts_with("20");
                    assert!(!dated, "a time that is not looked at, {what} {key}: {text}");
                }
            }
        }
    }
    for key in [
        "created_at",
        "expires_at",
        "last_checked",
        "mod_time",
        "updated_at",
    ] {
        assert!(times.contains(key), "{key} not in {times:?}");
    }
    for key in ["duration", "uptime", "max_ttl", "max_exec_timeout"] {
        assert!(durations.contains(key), "{key} not in {durations:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn durations_are_read_as_go_reads_them_wherever_one_stands() {
    let server = Mocked::start().await;
    let at = server.address;
    let id = server.spawn().await;
    let one = format!("/api/v1/sandboxes/{id}");
    let fields = [
        ("/api/v1/sandboxes".to_owned(), "{\"ttl\":D}"),
        ("/api/v1/sandboxes/admission".to_owned(), "{\"ttl\":D}"),
        (format!("{one}/extend"), "{\"ttl\":D}"),
        (
            format!("{one}/exec"),
            "{\"command\":\"true\",\"timeout\":D}",
        ),
        (
            "/api/v1/quotas".to_owned(),
            "{\"owner_id\":\"OWNER\",\"max_ttl\":D}",
        ),
        (
            "/api/v1/quotas".to_owned(),
            "{\"owner_id\":\"OWNER\",\"max_exec_timeout\":D}",
        ),
    ];
    let mut owners = 0;
    for (path, body) in &fields {
        for (text, good) in [
            ("1h30m", true),
            ("1.5h", true),
            ("90000ms", true),
            ("90000000us", true),
            ("90000000µs", true),
            ("90000000000ns", true),
            ("1h0m0.5s", true),
            ("1d", false),
            ("10", false),
            ("", false),
            ("30 m", false),
            ("1h 30m", false),
            ("m", false),
            ("-1m", false),
            ("1w", false),
        ] {
            owners += 1;
            let body = body.replace('D', &json!(text).to_string());
            let body = body.replace("OWNER", &format!("o{owners}"));
            let answer = post(at, path, &body).await;
            if good {
                assert!(answer.status < 300, "{path} {body}: {}", answer.text());
            } else {
                assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
                answer.expect(400, "BAD_REQUEST");
            }
        }
    }
    server.stop().await;
}
