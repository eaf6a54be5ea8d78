//! What a request's names lead to, and that the API and previews never meet.

use http::{Request, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

#[tokio::test]
async fn every_form_leads_to_the_port() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let host = front.host();
    let absolute = format!("http://{host}:1/x");
    let capitals = format!("Host: {}.:7423\r\n", host.to_ascii_uppercase());
    let path = format!("{}/x", front.path());
    let header = format!(
        "Host: localhost\r\nX-StacyVM-Preview: {PORT}-{}\r\n",
        front.id
    );
    for (target, headers) in [
        ("/x", ""),
        (&absolute, &format!("Host: {host}:1\r\n")),
        ("/x", &capitals),
        (&path, "Host: localhost\r\n"),
        (&path, "Host: 127.0.0.1:7423\r\n"),
        (&path, "Host: [::1]:7423\r\n"),
        ("/x", &header),
    ] {
        let (answer, (_visit, head)) =
            tokio::join!(front.send("GET", target, headers), inside.serve_once(OK));
        assert_eq!(answer.text(), "ok", "{target} {headers}");
        assert!(head.starts_with("GET /x HTTP/1.1\r\n"), "{head}");
        assert_eq!(super::header(&head, "x-stacyvm-preview"), None);
    }
    front.server.stop().await;
}

#[tokio::test]
async fn http_2_is_spoken_outside_and_http_1_inside() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let stream = TokioIo::new(front.connect().await);
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    let driving = tokio::spawn(driver);
    let uri: Uri = format!("http://{}/x?y", front.host()).parse().unwrap();
    let request = Request::get(uri)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let (answer, (_visit, head)) =
        tokio::join!(sender.send_request(request), inside.serve_once(OK));
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "ok");
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), Some(front.host().as_str()));
    assert_eq!(header(&head, "cookie"), Some("a=1; b=2"));
    // An authority and a host that differ.
    let uri: Uri = format!("http://{}/", front.host()).parse().unwrap();
    let request = Request::get(uri).header("host", "localhost");
    let request = request.body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 400);
    inside.expect_no_connection().await;
    drop(sender);
    driving.await.unwrap().unwrap();
    front.server.stop().await;
}

#[tokio::test]
async fn the_api_is_not_behind_a_preview_and_a_preview_not_behind_the_api() {
    for key in [None, Some("right-key")] {
        let front = Front::with(|options| options.server.api_key = key.map(Into::into)).await;
        let inside = front.listen(PORT).await;
        let sent = key.map_or(String::new(), |key| format!("X-API-Key: {key}\r\n"));
        let (answer, (_visit, head)) = tokio::join!(
            front.send("DELETE", "/api/v1/sandboxes", &sent),
            inside.serve_once(OK)
        );
        assert_eq!(answer.text(), "ok");
        assert!(
            head.starts_with("DELETE /api/v1/sandboxes HTTP/1.1"),
            "{head}"
        );
        // Names that are no preview's, but look like it, are nobody's.
        for host in [
            format!("{PORT}-{}.evil.example", front.id),
            format!("{PORT}-{}", front.id),
            format!("x.{}", front.host()),
            format!("0-{}.localhost", front.id),
            format!("65536-{}.localhost", front.id),
            format!("user@{}", front.host()),
        ] {
            let headers = format!("Host: {host}\r\n{sent}");
            let answer = front.send("GET", "/api/v1/sandboxes", &headers).await;
            answer.expect(404, "NOT_FOUND");
        }
        inside.expect_no_connection().await;
        front.server.stop().await;
    }
}

#[tokio::test]
async fn names_that_contradict_each_other_are_refused() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let host = front.host();
    let absolute = format!("http://{host}/");
    let other = format!("Host: 3001-{}.localhost\r\n", front.id);
    for (target, headers) in [
        ("/", format!("Host: {host}\r\nHost: {host}\r\n")),
        ("/", format!("Host: {host}\r\nHost: localhost\r\n")),
        ("/", format!("Host: localhost\r\nHost: {host}\r\n")),
        (&absolute, "Host: localhost\r\n".to_owned()),
        (&absolute, other),
        ("http://localhost/api/v1/live", format!("Host: {host}\r\n")),
        (
            "/",
            format!("Host: {host}\r\nX-StacyVM-Preview: 1-{}\r\n", front.id),
        ),
        ("/", format!("Host: {host}:80:80\r\n")),
        ("/", format!("Host: {host}:80\";x=\"\r\n")),
    ] {
        let answer = front.send("GET", target, &headers).await;
        answer.expect(400, "BAD_REQUEST");
    }
    inside.expect_no_connection().await;
    front.server.stop().await;
}

#[tokio::test]
async fn without_a_key_foreign_names_reach_no_preview_of_the_shared_origin() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let path = format!("{}/", front.path());
    let answer = front.send("GET", &path, "Host: evil.example\r\n").await;
    answer.expect(403, "FORBIDDEN");
    let headers = format!(
        "Host: evil.example\r\nX-StacyVM-Preview: {PORT}-{}\r\n",
        front.id
    );
    let answer = front.send("GET", "/", &headers).await;
    answer.expect(403, "FORBIDDEN");
    inside.expect_no_connection().await;
    front.server.stop().await;
}

#[tokio::test]
async fn what_is_said_of_the_visitor_is_true() {
    let front = Front::with(|options| options.server.api_key = Some("right-key".into())).await;
    let inside = front.listen(PORT).await;
    let host = front.host();
    let lies = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
                Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Prefix: /evil\r\n\
                Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=9\r\n\
                Proxy-Authorization: Basic eA==\r\nTE: trailers, gzip\r\n\
                X-API-Key: right-key\r\nAuthorization: Bearer right-key\r\nX-Kept: 1\r\n";
    let lies = format!("Host: {host}\r\n{lies}");
    let (answer, (mut visit, head)) =
        tokio::join!(front.send("GET", "/", &lies), inside.serve_once(OK));
    assert_eq!(answer.status, 200);
    let forwarded = format!("for=127.0.0.1;host=\"{host}\";proto=http");
    for (name, value) in [
        ("host", Some(host.as_str())),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some(host.as_str())),
        ("forwarded", Some(forwarded.as_str())),
        ("x-real-ip", None),
        ("x-forwarded-prefix", None),
        ("x-mine", None),
        ("keep-alive", None),
        ("proxy-authorization", None),
        ("te", Some("trailers")),
        ("connection", Some("te")),
        ("x-api-key", None),
        ("authorization", None),
        ("x-kept", Some("1")),
        ("via", None),
    ] {
        assert_eq!(header(&head, name), value, "{name}: {head}");
    }
    // A key that is not ours is the sandbox's affair.
    let again = async {
        let head = visit.head().await;
        visit.say(OK).await;
        head
    };
    let theirs = "X-API-Key: theirs\r\nAuthorization: Bearer theirs\r\n";
    let (_, head) = tokio::join!(front.send("GET", "/", theirs), again);
    assert_eq!(header(&head, "x-api-key"), Some("theirs"));
    assert_eq!(header(&head, "authorization"), Some("Bearer theirs"));
    front.server.stop().await;
}

#[tokio::test]
async fn a_trusted_proxy_says_who_the_visitor_is() {
    let trust = |options: &mut Options| {
        options.server.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    };
    let front = Front::with(trust).await;
    let inside = front.listen(PORT).await;
    let said = "X-Forwarded-For: 6.6.6.6, 198.51.100.7\r\n";
    let (_, (_, head)) = tokio::join!(front.send("GET", "/", said), inside.serve_once(OK));
    assert_eq!(header(&head, "x-forwarded-for"), Some("198.51.100.7"));
    let forwarded = header(&head, "forwarded").unwrap();
    assert!(forwarded.starts_with("for=198.51.100.7;"), "{forwarded}");
    front.server.stop().await;
}

#[tokio::test]
async fn cookies_stay_with_their_host() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\
                  Set-Cookie: a=1; Domain=localhost; Path=/; HttpOnly\r\nSet-Cookie: b=2\r\n\r\n";
    let (answer, (_visit, head)) = tokio::join!(
        front.send("GET", "/", "Cookie: c=3; d=4\r\n"),
        inside.serve_once(answer)
    );
    assert_eq!(header(&head, "cookie"), Some("c=3; d=4"));
    let set: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "set-cookie")
        .collect();
    let values: Vec<_> = set.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["a=1; Path=/; HttpOnly", "b=2"]);
    assert_eq!(answer.header("x-mine"), None);
    front.server.stop().await;
}

#[tokio::test]
async fn a_preview_is_no_proxy() {
    let front = Front::start().await;
    let target = format!("{}:80", front.host());
    let headers = format!("Host: {target}\r\n");
    let answer = front.send("CONNECT", &target, &headers).await;
    assert_eq!(answer.status, 405);
    front.server.stop().await;
}
