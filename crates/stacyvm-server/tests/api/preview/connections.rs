//! Connections inside: kept, used again, counted, and gone with their sandbox.

use super::*;
use crate::http::read_answer;

#[tokio::test]
async fn a_connection_is_used_again_by_whoever_comes_next() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let (answer, (mut visit, _)) = tokio::join!(front.get("/1"), inside.serve_once(OK));
    assert_eq!(answer.text(), "ok");
    for path in ["/2", "/3"] {
        let serving = async {
            let head = visit.head().await;
            assert!(head.starts_with(&format!("GET {path} ")), "{head}");
            visit.say(OK).await;
        };
        let (answer, ()) = tokio::join!(front.get(path), serving);
        assert_eq!(answer.text(), "ok");
    }
    inside.expect_no_connection().await;
    front.server.stop().await;
}

#[tokio::test]
async fn a_question_lost_on_an_old_connection_is_asked_again() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let (_, (mut visit, _)) = tokio::join!(front.get("/"), inside.serve_once(OK));
    // Closed in the very moment in which it is used again.
    let closing = async {
        visit.head().await;
        drop(visit);
        inside.serve_once(OK).await
    };
    let (answer, (_visit, head)) = tokio::join!(front.get("/again"), closing);
    assert_eq!(answer.text(), "ok");
    assert!(head.starts_with("GET /again "), "{head}");
    front.server.stop().await;
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let (_, (mut visit, _)) = tokio::join!(front.get("/"), inside.serve_once(OK));
    let closing = async {
        visit.head().await;
        drop(visit);
    };
    let (answer, ()) = tokio::join!(front.send("POST", "/", ""), closing);
    answer.expect(502, "PROVIDER_ERROR");
    inside.expect_no_connection().await;
    front.server.stop().await;
}

#[tokio::test]
async fn a_connection_with_a_broken_answer_is_not_used_again() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let mut client = front.connect().await;
    let request = front.request("GET", "/", "");
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf";
    let (mut visit, _) = inside.serve_once(answer).await;
    until(&mut client, b"half").await;
    // The visitor leaves in the middle.
    drop(client);
    visit.ended().await;
    let (answer, _visit) = tokio::join!(front.get("/"), inside.serve_once(OK));
    assert_eq!(answer.text(), "ok");
    front.server.stop().await;
}

#[tokio::test]
async fn what_is_no_http_is_said_to_be_none() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    for broken in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        let (answer, _visit) = tokio::join!(front.get("/"), inside.serve_once(broken));
        answer.expect(502, "PROVIDER_ERROR");
    }
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let (answer, visit) = tokio::join!(front.get("/"), async {
        let mut visit = inside.accept().await;
        visit.head().await;
        // It may be refused before all of it was sent.
        let _ = visit.0.write_all(long.as_bytes()).await;
        visit
    });
    answer.expect(502, "PROVIDER_ERROR");
    drop(visit);
    front.server.stop().await;
}

#[tokio::test]
async fn one_sandbox_has_so_many_connections_and_another_its_own() {
    let front = Front::with(|options| options.server.preview.max_connections = 2).await;
    let inside = front.listen(PORT).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = front.connect().await;
        let request = front.request("GET", "/", "");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut visit = inside.accept().await;
        visit.head().await;
        busy.push((client, visit));
    }
    let answer = front.get("/").await;
    answer.expect(503, "UNAVAILABLE");
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(answer.header("x-stacyvm-preview-error"), Some("busy"));
    // Another sandbox is not touched by that.
    let caller = Caller::default();
    let other = front
        .server
        .orchestrator
        .spawn(&caller, SpawnRequest::default(), None);
    let other = other.await.unwrap().id.to_string();
    let headers = format!("Host: {PORT}-{other}.localhost\r\n");
    let answer = front.send("GET", "/", &headers).await;
    assert_eq!(
        answer.header("x-stacyvm-preview-error"),
        Some("not-started")
    );
    // One that has ended makes room.
    let (mut client, mut visit) = busy.pop().unwrap();
    visit.say(OK).await;
    assert_eq!(read_answer(&mut client, false).await.text(), "ok");
    let again = async {
        let head = visit.head().await;
        visit.say(OK).await;
        head
    };
    let (answer, _) = tokio::join!(front.get("/"), again);
    assert_eq!(answer.text(), "ok");
    drop(busy);
    front.server.stop().await;
}

#[tokio::test]
async fn a_destroyed_sandbox_is_gone_at_once() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let (_, (mut idle, _)) = tokio::join!(front.get("/"), inside.serve_once(OK));
    let asking = async {
        idle.head().await;
        front.destroy().await;
    };
    let (answer, ()) = tokio::join!(front.get("/"), asking);
    answer.expect(404, "NOT_FOUND");
    idle.ended().await;
    let answer = front.get("/").await;
    answer.expect(404, "NOT_FOUND");
    assert_eq!(answer.header("x-stacyvm-preview-error"), Some("gone"));
    front.server.stop().await;
}

#[tokio::test]
async fn nothing_of_a_preview_outlives_the_server() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let (_, (mut idle, _)) = tokio::join!(front.get("/"), inside.serve_once(OK));
    front.server.stop().await;
    idle.ended().await;
}
