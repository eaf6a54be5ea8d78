//! What holds for every request: contract section 1.

use std::io::ErrorKind;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::http::{exchange, get, post, read_answer, send};
use crate::support::{Options, Server};

#[tokio::test]
async fn unknown_routes_and_wrong_methods_are_json_errors() {
    let server = Server::plain().await;
    let at = server.address;
    for path in [
        "/",
        "/nothing",
        "/api/v1",
        "/api/v1/",
        "/api/v1/nothing",
        "/api/v2/sandboxes",
        "/api/v1/sandboxes/sb-00000000/nothing",
        "/api/v1/healthx",
    ] {
        get(at, path).await.expect(404, "NOT_FOUND");
    }
    for (method, path) in [
        ("PUT", "/api/v1/sandboxes"),
        ("PATCH", "/api/v1/sandboxes/"),
        ("POST", "/api/v1/sandboxes/sb-00000000"),
        ("GET", "/api/v1/sandboxes/sb-00000000/exec"),
        ("DELETE", "/api/v1/health"),
        ("GET", "/api/v1/providers/test/x"),
        ("PUT", "/api/v1/sandboxes/sb-00000000/files"),
    ] {
        let answer = send(at, method, path, "", b"").await;
        if path.ends_with("/x") {
            answer.expect(404, "NOT_FOUND");
        } else {
            answer.expect(405, "METHOD_NOT_ALLOWED");
            assert!(answer.header("allow").is_some(), "{method} {path}");
        }
    }
    let options = send(at, "OPTIONS", "/api/v1/health", "", b"").await;
    assert_eq!(options.status, 204);
    assert!(options.header("allow").unwrap().contains("GET"));
    let head = exchange(
        at,
        b"HEAD /api/v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    )
    .await;
    assert_eq!(head.status, 200);
    assert!(head.header("content-length").is_some());
    server.stop().await;
}

#[tokio::test]
async fn the_request_id_is_echoed_or_made() {
    let server = Server::plain().await;
    let at = server.address;
    for path in ["/api/v1/health", "/nothing", "/api/v1/sandboxes/xyz"] {
        let answer = send(at, "GET", path, "X-Request-ID: trace 7/x\r\n", b"").await;
        assert_eq!(answer.header("x-request-id"), Some("trace 7/x"), "{path}");
        let (one, other) = (get(at, path).await, get(at, path).await);
        let one = one.header("x-request-id").unwrap();
        assert_eq!((one.len(), one.matches('-').count()), (36, 4), "{one}");
        assert_ne!(Some(one), other.header("x-request-id"));
    }
    let long = format!("X-Request-ID: {}\r\n", "x".repeat(201));
    let answer = send(at, "GET", "/api/v1/health", &long, b"").await;
    assert_eq!(answer.header("x-request-id").unwrap().len(), 36);
    server.stop().await;
}

#[tokio::test]
async fn bodies_that_are_no_json_object_are_bad_requests() {
    let server = Server::plain().await;
    let at = server.address;
    let id = "sb-00000000";
    let routes = [
        "/api/v1/sandboxes".to_owned(),
        "/api/v1/sandboxes/".to_owned(),
        "/api/v1/sandboxes/admission".to_owned(),
        format!("/api/v1/sandboxes/{id}/extend"),
        format!("/api/v1/sandboxes/{id}/exec"),
        format!("/api/v1/sandboxes/{id}/files"),
        format!("/api/v1/sandboxes/{id}/files/move"),
        format!("/api/v1/sandboxes/{id}/files/chmod"),
        format!("/api/v1/sandboxes/{id}/files/mkdir"),
    ];
    for route in &routes {
        for body in [
            "", "  \n", "not json", "{", "[]", "[1]", "null", "\"x\"", "3", "{} x",
        ] {
            let answer = post(at, route, body).await;
            assert_eq!(answer.status, 400, "{route} {body:?}: {}", answer.text());
            answer.expect(400, "BAD_REQUEST");
        }
        let broken = send(at, "POST", route, "", b"{\"a\":\"\xff\"}").await;
        broken.expect(400, "BAD_REQUEST");
    }
    let nest = |field: &str| format!("{{\"{field}\":{}{}}}", "[".repeat(9999), "]".repeat(9999));
    post(at, "/api/v1/sandboxes", &nest("metadata"))
        .await
        .expect(400, "BAD_REQUEST");
    // What is ignored is ignored at any depth.
    assert_eq!(
        post(at, "/api/v1/sandboxes", &nest("unknown")).await.status,
        201
    );
    server.stop().await;
}

#[tokio::test]
async fn missing_and_mistyped_fields_are_named_but_values_are_not_repeated() {
    let server = Server::plain().await;
    let at = server.address;
    let base = "/api/v1/sandboxes/sb-00000000";
    for (path, body, words) in [
        ("/extend", "{}", "ttl"),
        ("/extend", "{\"ttl\":17}", "expected a string"),
        ("/files", "{\"path\":\"/x\"}", "content"),
        ("/files", "{\"content\":\"hunter2\"}", "path"),
        (
            "/files",
            "{\"path\":\"/x\",\"content\":[\"hunter2\"]}",
            "expected a string",
        ),
        ("/files/move", "{\"old_path\":\"/x\"}", "new_path"),
        ("/files/chmod", "{\"path\":\"/x\"}", "mode"),
        (
            "/exec",
            "{\"command\":\"x\",\"env\":\"hunter2\"}",
            "expected a map",
        ),
        (
            "/exec",
            "{\"command\":\"x\",\"args\":\"hunter2\"}",
            "expected a sequence",
        ),
    ] {
        let answer = post(at, &format!("{base}{path}"), body).await;
        answer.expect(400, "BAD_REQUEST");
        assert!(
            answer.text().contains(words),
            "{path} {body}: {}",
            answer.text()
        );
        assert!(!answer.text().contains("hunter2"), "{}", answer.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn bodies_over_the_cap_are_refused_whole() {
    let mut options = Options::default();
    options.server.json_limit = 200_000;
    let server = Server::start(options).await;
    let at = server.address;
    let fits = format!("{{\"ttl\":\"{}\"}}", "x".repeat(100_000));
    let answer = post(at, "/api/v1/sandboxes/sb-00000000/extend", &fits).await;
    assert_ne!(answer.status, 413, "{}", answer.text());
    let large = format!("{{\"ttl\":\"{}\"}}", "x".repeat(2_000_000));
    let answer = post(at, "/api/v1/sandboxes/sb-00000000/extend", &large).await;
    answer.expect(413, "PAYLOAD_TOO_LARGE");
    // The same without a length that announces it.
    let mut request = b"POST /api/v1/sandboxes HTTP/1.1\r\nHost: localhost\r\n\
                        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..30 {
        request.extend_from_slice(b"2710\r\n");
        request.extend_from_slice(&[b' '; 10_000]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    exchange(at, &request)
        .await
        .expect(413, "PAYLOAD_TOO_LARGE");
    server.stop().await;
}

#[tokio::test]
async fn a_connection_serves_many_requests_also_after_refusals() {
    let server = Server::plain().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for number in 0..20 {
        let body = "x".repeat(number * 500);
        let request = format!(
            "POST /api/v1/sandboxes/{}/extend HTTP/1.1\r\nHost: localhost\r\n\
             Content-Length: {}\r\n\r\n",
            if number % 2 == 0 {
                "malformed"
            } else {
                "sb-00000000"
            },
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        if !body.is_empty() {
            // Time for the server to act on the head alone. It must not: a refusal that overtakes
            // the body would end the connection under it.
            for _ in 0..5 {
                get(server.address, "/api/v1/health").await;
            }
            let early = stream.try_read(&mut [0; 1]);
            assert!(early.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        }
        stream.write_all(body.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream, false).await;
        assert_eq!(answer.status, if number % 2 == 0 { 404 } else { 400 });
    }
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn http_2_is_spoken_to_who_begins_with_it() {
    let server = Server::plain().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The preface and an empty SETTINGS frame (RFC 9113, section 3.4).
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    stream.write_all(hello).await.unwrap();
    let mut frame = [0; 9];
    let reading = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut frame);
    tokio::time::timeout(crate::http::TEST_TIMEOUT, reading)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(frame[3], 4, "the first frame is SETTINGS: {frame:?}");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn malformed_ids_are_unknown_and_malformed_queries_bad() {
    let server = Server::plain().await;
    let at = server.address;
    for id in [
        "x",
        "sb-",
        "sb-0000000",
        "sb-0000000G",
        "sb-ABCDEF01",
        "sb-..%2F..%2Fx",
        "%ff",
        "%00",
    ] {
        let answer = get(at, &format!("/api/v1/sandboxes/{id}")).await;
        answer.expect(404, "NOT_FOUND");
        let answer = get(at, &format!("/api/v1/sandboxes/{id}/files?path=/x")).await;
        answer.expect(404, "NOT_FOUND");
        let answer = send(at, "DELETE", &format!("/api/v1/sandboxes/{id}"), "", b"").await;
        if id == "%ff" {
            answer.expect(404, "NOT_FOUND");
        } else {
            assert_eq!(
                (answer.status, answer.text()),
                (200, "{\"status\":\"destroyed\"}")
            );
        }
    }
    let files = "/api/v1/sandboxes/sb-00000000/files";
    for query in [
        "/api/v1/sandboxes?state=dancing".to_owned(),
        "/api/v1/sandboxes?owner=a%20b".to_owned(),
        "/api/v1/sandboxes?state=%zz".to_owned(),
        "/api/v1/sandboxes?state=%ff".to_owned(),
        "/api/v1/sandboxes/sb-00000000/logs?lines=0".to_owned(),
        "/api/v1/sandboxes/sb-00000000/logs?lines=-1".to_owned(),
        "/api/v1/sandboxes/sb-00000000/logs?lines=many".to_owned(),
        files.to_owned(),
        format!("{files}?path="),
        format!("{files}?path=/a&path=/b"),
        format!("{files}?path=/a%00b"),
        format!("{files}?path=/{}", "a".repeat(4096)),
        format!("{files}/stat"),
        format!("{files}/glob"),
        format!("{files}/list?depth=0"),
        format!("{files}/archive"),
        format!("{files}/archive?path=/x&format=zip"),
    ] {
        let answer = get(at, &query).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        answer.expect(400, "BAD_REQUEST");
    }
    let answer = send(
        at,
        "DELETE",
        &format!("{files}?path=/x&recursive=maybe"),
        "",
        b"",
    )
    .await;
    answer.expect(400, "BAD_REQUEST");
    for (path, body) in [
        ("", "{\"path\":\"/x\",\"content\":\"\",\"mode\":\"rwx\"}"),
        ("", "{\"path\":\"/x\",\"content\":\"\",\"mode\":\"0888\"}"),
        ("", "{\"path\":\"\",\"content\":\"\"}"),
        (
            "",
            "{\"path\":\"/x\",\"content\":\"=\",\"encoding\":\"base64\"}",
        ),
        (
            "",
            "{\"path\":\"/x\",\"content\":\"\",\"encoding\":\"latin1\"}",
        ),
        ("/chmod", "{\"path\":\"/x\",\"mode\":\"u+x\"}"),
        ("/chmod", "{\"path\":\"/x\",\"mode\":\"\"}"),
        ("/mkdir", "{\"path\":\"/x\",\"mode\":\"9\"}"),
        ("/move", "{\"old_path\":\"/x\",\"new_path\":\"\"}"),
    ] {
        let answer = post(at, &format!("{files}{path}"), body).await;
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.text());
        answer.expect(400, "BAD_REQUEST");
    }
    for owner in ["a b", "a/b", "a\\b", "\u{7}", &"x".repeat(129)] {
        let header = format!("X-User-ID: {owner}\r\n");
        if owner == "\u{7}" {
            continue;
        }
        let answer = send(at, "GET", "/api/v1/sandboxes", &header, b"").await;
        answer.expect(400, "BAD_REQUEST");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_this_version_lacks_says_so() {
    let server = Server::plain().await;
    let at = server.address;
    let templates = get(at, "/api/v1/templates").await;
    assert_eq!((templates.status, templates.text()), (200, "[]"));
    get(at, "/api/v1/templates/x")
        .await
        .expect(404, "NOT_FOUND");
    post(at, "/api/v1/templates", "{}")
        .await
        .expect(404, "NOT_FOUND");
    post(at, "/api/v1/templates/x/spawn", "")
        .await
        .expect(404, "NOT_FOUND");
    server.stop().await;
}
