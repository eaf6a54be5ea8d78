//! What is not shown cannot be told from what is not there, and nobody finds a preview by trying.

use stacyvm_preview::access::{Access, AccessSettings, LinkKey};
use stacyvm_types::{PreviewAccess, Timestamp};

use super::*;

const UNKNOWN: &str = "sb-ffffffff";

/// A server whose previews are private unless a spawn says otherwise.
async fn private(change: impl FnOnce(&mut Options)) -> (Front, Arc<Access>) {
    let settings = AccessSettings {
        default: PreviewAccess::Private,
        ..AccessSettings::default()
    };
    let access = Arc::new(Access::new(LinkKey::fleeting().unwrap(), settings));
    let gate = access.clone();
    let front = Front::with(|options| {
        options.server.preview.gate = gate;
        change(options);
    })
    .await;
    (front, access)
}

/// The header that opens a private preview.
fn token(access: &Access, id: &str) -> String {
    let id = id.parse().unwrap();
    let link = access.link(&id, PORT, None, Duration::from_secs(60), Timestamp::now());
    let token = link.url.split_once("stacyvm_token=").unwrap().1;
    format!("X-StacyVM-Preview-Token: {token}\r\n")
}

/// All that a client sees of an answer about a sandbox.
async fn seen(front: &Front, id: &str, request: &str) -> (u16, Vec<(String, String)>, String) {
    let request = request.replace("{id}", id);
    let answer = exchange(front.server.address, request.as_bytes()).await;
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    (answer.status, headers, answer.text().to_owned())
}

#[tokio::test]
async fn what_is_private_looks_like_what_is_not_there() {
    let (front, access) = private(|_| {}).await;
    let inside = front.listen(PORT).await;
    let other = token(&access, "sb-eeeeeeee");
    let host = format!("Host: {PORT}-{{id}}.localhost\r\n");
    let requests = [
        format!("GET / HTTP/1.1\r\n{host}\r\n"),
        format!("GET / HTTP/1.1\r\n{host}Accept: text/html\r\n\r\n"),
        format!("HEAD / HTTP/1.1\r\n{host}\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 2\r\n\r\nhi"),
        format!("OPTIONS / HTTP/1.1\r\n{host}\r\n"),
        format!("GET / HTTP/1.1\r\n{host}Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}{other}\r\n"),
        format!("GET /?stacyvm_token=v1.00000000.1.x HTTP/1.1\r\n{host}\r\n"),
        format!("GET / HTTP/1.1\r\n{host}Cookie: stacyvm-preview=x\r\n\r\n"),
        format!("GET /preview/{{id}}/{PORT}/ HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-StacyVM-Preview: {PORT}-{{id}}\r\n\r\n"),
    ];
    for request in &requests {
        let there = seen(&front, &front.id, request).await;
        let not_there = seen(&front, UNKNOWN, request).await;
        assert_eq!(there, not_there, "{request}");
        assert!((400..500).contains(&there.0), "{there:?}");
    }
    let (status, _, text) = seen(&front, UNKNOWN, &requests[0]).await;
    assert_eq!(status, 404);
    assert!(text.contains("stacyvm preview url"), "{text}");
    inside.expect_no_connection().await;

    // Whoever has a link is told what is so.
    let right = token(&access, &front.id);
    let (answer, _visit) = tokio::join!(front.send("GET", "/", &right), inside.serve_once(OK));
    assert_eq!(answer.text(), "ok");
    let right = format!(
        "Host: {PORT}-{UNKNOWN}.localhost\r\n{}",
        token(&access, UNKNOWN)
    );
    let answer = front.send("GET", "/", &right).await;
    assert_eq!(answer.header("x-stacyvm-preview-error"), Some("gone"));
    // Its end changes nothing for the others.
    let alive = seen(&front, &front.id, &requests[0]).await;
    front.destroy().await;
    assert_eq!(seen(&front, &front.id, &requests[0]).await, alive);
    front.server.stop().await;
}

#[tokio::test]
async fn who_guesses_is_refused_whatever_the_guess() {
    let (front, access) = private(|options| options.server.preview.misses_per_minute = 3).await;
    let private_inside = front.listen(PORT).await;
    let (caller, mut public) = (Caller::default(), Vec::new());
    for _ in 0..2 {
        let request = SpawnRequest {
            preview: Some("public".to_owned()),
            ..SpawnRequest::default()
        };
        let spawned = front.server.orchestrator.spawn(&caller, request, None);
        public.push(spawned.await.unwrap().id.to_string());
    }
    let host = |id: &str| format!("Host: {PORT}-{id}.localhost\r\n");
    // Nothing listens inside, which is an answer all the same.
    let opened = front.send("GET", "/", &host(&public[0])).await;
    assert_eq!(opened.status, 503);
    for number in 0..3 {
        let guess = host(&format!("sb-0000000{number}"));
        front
            .send("GET", "/", &guess)
            .await
            .expect(404, "NOT_FOUND");
    }
    for id in [UNKNOWN, &front.id, &public[1]] {
        let answer = front.send("GET", "/", &host(id)).await;
        assert!(answer.header("retry-after").is_some(), "{id}");
        answer.expect(429, "RESOURCE_LIMIT");
    }
    // What was open stays open, and a link opens.
    let opened = front.send("GET", "/", &host(&public[0])).await;
    assert_eq!(opened.status, 503);
    let right = token(&access, &front.id);
    let (answer, _visit) = tokio::join!(
        front.send("GET", "/", &right),
        private_inside.serve_once(OK)
    );
    assert_eq!(answer.text(), "ok");
    front.server.stop().await;
}
