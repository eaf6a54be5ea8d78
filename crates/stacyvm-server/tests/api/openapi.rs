//! The description of the API: served as it should be, true about the routes, and checked in.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use crate::http::{get, send};
use crate::support::{Options, Server};

/// Set, the checked-in description is written anew instead of compared.
const UPDATE: &str = "STACYVM_UPDATE_OPENAPI";
const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/stacyvm.json");

async fn served() -> Value {
    let server = Server::plain().await;
    let document = get(server.address, "/api/v1/openapi.json").await.json();
    server.stop().await;
    document
}

#[tokio::test]
async fn the_checked_in_description_is_that_of_the_code() {
    let document = served().await;
    if std::env::var_os(UPDATE).is_some() {
        let mut text = serde_json::to_string_pretty(&document).unwrap();
        text.push('\n');
        std::fs::write(CHECKED_IN, text).unwrap();
        return;
    }
    let text = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    let checked_in = serde_json::from_str(&text).unwrap_or(Value::Null);
    let mut differences = String::new();
    compare("", &checked_in, &document, &mut differences);
    assert!(
        differences.is_empty(),
        "openapi/stacyvm.json is not what the code says; `cargo xtask openapi` writes it anew:\n\
         {differences}"
    );
}

/// Says at which places two documents differ, `-` being the file and `+` the code.
fn compare(place: &str, file: &Value, code: &Value, out: &mut String) {
    if let (Value::Object(old), Value::Object(new)) = (file, code) {
        let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for key in keys {
            let place = format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
            match (old.get(key), new.get(key)) {
                (Some(old), Some(new)) => compare(&place, old, new, out),
                (Some(old), None) => line(out, '-', &place, old),
                (None, Some(new)) => line(out, '+', &place, new),
                (None, None) => {}
            }
        }
    } else if file != code {
        line(out, '-', place, file);
        line(out, '+', place, code);
    }
}

fn line(out: &mut String, sign: char, place: &str, value: &Value) {
    let text = value.to_string();
    let start: String = text.chars().take(160).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    writeln!(out, "{sign} {place}: {start}{more}").unwrap();
}

#[test]
fn differences_are_told_place_by_place() {
    let file = serde_json::json!({"a": {"x/y": 1, "same": [1]}, "old": true});
    let code = serde_json::json!({"a": {"x/y": 2, "same": [1]}, "new": null});
    let mut told = String::new();
    compare("", &file, &code, &mut told);
    assert_eq!(
        told,
        "- /a/x~1y: 1\n+ /a/x~1y: 2\n+ /new: null\n- /old: true\n"
    );
}

/// The methods of every path, asked of the server itself, are those that are described.
#[tokio::test]
async fn every_described_method_is_there_and_no_other() {
    let document = served().await;
    let server = Server::plain().await;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let mut described: BTreeSet<String> =
            operations.as_object().unwrap().keys().cloned().collect();
        if path == "/api/v1/templates" {
            // Refused by name, and not described, until there are templates.
            described.insert("post".to_owned());
        }
        let real = path.replace("{id}", "sb-00000000").replace("{name}", "x");
        let answer = send(server.address, "OPTIONS", &real, "", b"").await;
        let allowed = answer.header("allow").unwrap_or_default();
        let allowed: BTreeSet<String> = allowed
            .split(',')
            .map(|method| method.trim().to_lowercase())
            .filter(|method| method != "head")
            .collect();
        assert_eq!(allowed, described, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn the_description_and_its_page_are_open_at_the_root_only() {
    let mut options = Options::default();
    options.server.api_key = Some("right-key".into());
    let server = Server::start(options).await;
    let at = server.address;
    for path in ["/api/v1/openapi.json", "/api/v1/docs"] {
        get(at, path).await.expect(401, "UNAUTHORIZED");
    }
    let root = get(at, "/openapi.json").await;
    assert_eq!(root.header("content-type"), Some("application/json"));
    assert_eq!(root.json()["openapi"], "3.1.0");
    let key = "X-API-Key: right-key\r\n";
    let guarded = send(at, "GET", "/api/v1/openapi.json", key, b"").await;
    assert_eq!(guarded.text(), root.text());
    let moved = send(at, "GET", "/api/v1/docs", key, b"").await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (308, Some("../../docs"))
    );
    server.stop().await;
}

/// The page loads its own files and nothing else.
#[tokio::test]
async fn the_page_is_self_contained() {
    let server = Server::plain().await;
    let at = server.address;
    for (path, kind) in [
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/docs.css", "text/css; charset=utf-8"),
        ("/docs/docs.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = get(at, path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some(kind))
        );
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = answer.text();
        assert!(
            !text.contains("https://") && !text.contains("@import"),
            "{path}"
        );
        assert!(
            !text.contains("innerHTML") && !text.contains("style=\""),
            "{path}"
        );
    }
    let page = get(at, "/docs").await;
    for wanted in ["href=\"docs/docs.css\"", "src=\"docs/docs.js\""] {
        assert!(page.text().contains(wanted), "{wanted}");
    }
    server.stop().await;
}
