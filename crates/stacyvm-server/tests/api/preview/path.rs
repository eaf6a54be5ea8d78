//! The path form, which shares its origin with the API.

use super::*;

const LOCAL: &str = "Host: localhost:7423\r\n";

#[tokio::test]
async fn the_slash_behind_the_port_is_added() {
    let front = Front::start().await;
    for (path, location) in [
        (front.path(), format!("{}/", front.path())),
        (
            format!("{}?a=b", front.path()),
            format!("{}/?a=b", front.path()),
        ),
    ] {
        let answer = front.send("GET", &path, LOCAL).await;
        assert_eq!(answer.status, 308);
        assert_eq!(answer.header("location"), Some(location.as_str()));
    }
    front.server.stop().await;
}

#[tokio::test]
async fn answers_are_put_into_an_origin_of_nobody() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let path = format!("{}/a", front.path());
    let answer = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /login?x\r\n\
                  Set-Cookie: session=1\r\nAlt-Svc: h3=\":443\"\r\nClear-Site-Data: \"*\"\r\n\
                  Strict-Transport-Security: max-age=1\r\nService-Worker-Allowed: /\r\n\
                  Content-Security-Policy: img-src *\r\n\r\n";
    let headers = format!("{LOCAL}Cookie: api=1\r\n");
    let (answer, (_visit, head)) = tokio::join!(
        front.send("GET", &path, &headers),
        inside.serve_once(answer)
    );
    assert!(head.starts_with("GET /a HTTP/1.1"), "{head}");
    assert_eq!(
        header(&head, "x-forwarded-prefix"),
        Some(front.path().as_str())
    );
    assert_eq!(header(&head, "cookie"), None);
    let location = format!("{}/login?x", front.path());
    assert_eq!(answer.header("location"), Some(location.as_str()));
    for name in [
        "set-cookie",
        "alt-svc",
        "clear-site-data",
        "strict-transport-security",
        "service-worker-allowed",
        "access-control-allow-origin",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    let policies: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| name == "content-security-policy")
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(policies.len(), 2, "{policies:?}");
    assert!(policies[1].starts_with("sandbox ") && !policies[1].contains("same-origin"));
    front.server.stop().await;
}

#[tokio::test]
async fn only_what_is_on_the_list_goes_inside() {
    let front = Front::with(|options| options.server.api_key = Some("right-key".into())).await;
    let inside = front.listen(PORT).await;
    let path = format!("{}/a", front.path());
    let secrets = "Cookie: api=1\r\nAuthorization: Bearer right-key\r\nX-API-Key: another\r\n\
                   X-User-ID: alice\r\nReferer: http://localhost:7423/secret\r\nX-Csrf: 1\r\n\
                   X-StacyVM-Preview-Token: x\r\nX-Amz-Security-Token: x\r\n\
                   Proxy-Authorization: x\r\nX-Forwarded-User: root\r\n";
    let kept = "Accept: */*\r\nAccept-Language: de\r\nContent-Type: text/plain\r\n\
                Content-Length: 0\r\nIf-None-Match: \"x\"\r\nRange: bytes=0-1\r\nUser-Agent: me\r\n\
                Sec-Fetch-Mode: cors\r\nOrigin: http://localhost:7423\r\nLast-Event-ID: 7\r\n";
    let headers = format!("{LOCAL}{secrets}{kept}");
    let (answer, (_visit, head)) =
        tokio::join!(front.send("POST", &path, &headers), inside.serve_once(OK));
    assert_eq!(answer.status, 200);
    let mut names: Vec<_> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.to_ascii_lowercase())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "accept",
            "accept-language",
            "content-length",
            "content-type",
            "forwarded",
            "host",
            "if-none-match",
            "last-event-id",
            "origin",
            "range",
            "sec-fetch-mode",
            "user-agent",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-prefix",
            "x-forwarded-proto",
        ],
        "{head}"
    );
    front.server.stop().await;
}

#[tokio::test]
async fn no_redirect_leaves_the_prefix() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let (path, prefix) = (format!("{}/a/b", front.path()), front.path());
    for (place, expected) in [
        ("/login", Some("/login")),
        ("../../../../../api/v1/sandboxes", Some("/api/v1/sandboxes")),
        ("/../%2e%2e/../docs", Some("/docs")),
        (
            "http://localhost:7423/api/v1/sandboxes",
            Some("/api/v1/sandboxes"),
        ),
        ("https://evil.example/", None),
        ("//evil.example/", None),
        ("/\\evil.example/", None),
        ("javascript:alert(1)", None),
    ] {
        let said = format!(
            "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: {place}\r\n\
             Content-Location: {place}\r\nRefresh: 0; url=/api/v1/sandboxes\r\n\r\n"
        );
        let (answer, _visit) =
            tokio::join!(front.send("GET", &path, LOCAL), inside.serve_once(&said));
        match expected {
            Some(expected) => {
                let expected = format!("{prefix}{expected}");
                assert_eq!(answer.status, 302, "{place}");
                for name in ["location", "content-location"] {
                    assert_eq!(answer.header(name), Some(expected.as_str()), "{place}");
                }
            }
            None => {
                assert_eq!(answer.header("location"), None, "{place}");
                answer.expect(502, "PROVIDER_ERROR");
            }
        }
        assert_eq!(answer.header("refresh"), None, "{place}");
    }
    front.server.stop().await;
}

#[tokio::test]
async fn a_page_without_an_origin_reads_previews_and_not_the_api() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let path = format!("{}/data", front.path());
    let nobody = format!("{LOCAL}Origin: null\r\n");
    let (answer, _visit) = tokio::join!(front.send("POST", &path, &nobody), inside.serve_once(OK));
    assert_eq!(answer.header("access-control-allow-origin"), Some("null"));
    let asks = format!(
        "{nobody}Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: x-a\r\n"
    );
    let answer = front.send("OPTIONS", &path, &asks).await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("x-a"));
    inside.expect_no_connection().await;
    let answer = front.send("OPTIONS", "/api/v1/sandboxes", &asks).await;
    answer.expect(403, "FORBIDDEN");
    let answer = front.send("POST", "/api/v1/sandboxes", &nobody).await;
    answer.expect(403, "FORBIDDEN");
    let answer = front.send("GET", "/api/v1/sandboxes", &nobody).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    front.server.stop().await;
}
