//! Bodies on their way through: as they come, both ways.

use super::*;
use crate::http::{read_answer, unchunk};

#[tokio::test]
async fn pieces_pass_as_they_come_in_both_directions() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let mut client = front.connect().await;
    let head = front.request("POST", "/", "Transfer-Encoding: chunked\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(b"3\r\none\r\n").await.unwrap();
    let mut visit = inside.accept().await;
    let head = visit.head().await;
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    assert_eq!(visit.exactly(8).await, b"3\r\none\r\n");
    // The answer begins before the request has ended, and its pieces come one by one.
    visit
        .say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        .await;
    let seen = until(&mut client, b"2\r\nab\r\n").await;
    assert!(seen.starts_with(b"HTTP/1.1 200 OK\r\n"));
    client.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    assert_eq!(visit.exactly(13).await, b"3\r\ntwo\r\n0\r\n\r\n");
    visit.say("2\r\ncd\r\n0\r\n\r\n").await;
    until(&mut client, b"2\r\ncd\r\n0\r\n\r\n").await;
    front.server.stop().await;
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let mut client = front.connect().await;
    let headers = "TE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n";
    let request = format!(
        "{}1\r\na\r\n0\r\nX-Sum: in\r\n\r\n",
        front.request("POST", "/", headers)
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut visit = inside.accept().await;
    let head = visit.head().await;
    assert_eq!(header(&head, "trailer"), Some("X-Sum"));
    let body = "1\r\na\r\n0\r\nx-sum: in\r\n\r\n";
    let taken = visit.exactly(body.len()).await;
    assert_eq!(String::from_utf8(taken).unwrap().to_ascii_lowercase(), body);
    visit
        .say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nb\r\n0\r\nX-Sum: out\r\n\r\n")
        .await;
    let seen = String::from_utf8(rest(&mut client).await).unwrap();
    assert!(
        seen.to_ascii_lowercase()
            .ends_with("1\r\nb\r\n0\r\nx-sum: out\r\n\r\n"),
        "{seen}"
    );
    front.server.stop().await;
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let mut client = front.connect().await;
    let mut visit = None;
    for (method, answer, length) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
            Some("7"),
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            None,
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            None,
        ),
    ] {
        let request = front.request(method, "/", "");
        client.write_all(request.as_bytes()).await.unwrap();
        // One connection outside and one inside for all of them: nothing is left over on either.
        let visit = match &mut visit {
            Some(visit) => visit,
            none => none.insert(inside.accept().await),
        };
        let head = visit.head().await;
        assert!(head.starts_with(method), "{head}");
        visit.say(answer).await;
        let answer = read_answer(&mut client, true).await;
        assert_eq!(answer.header("content-length"), length, "{answer:?}");
    }
    front.server.stop().await;
}

#[tokio::test]
async fn a_client_that_waits_for_leave_gets_it_when_its_body_is_wanted() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let mut client = front.connect().await;
    let headers = "Expect: 100-continue\r\nContent-Length: 4\r\n";
    let request = front.request("PUT", "/", headers);
    client.write_all(request.as_bytes()).await.unwrap();
    let mut visit = inside.accept().await;
    let head = visit.head().await;
    assert_eq!(header(&head, "expect"), None);
    until(&mut client, b"HTTP/1.1 100 Continue\r\n\r\n").await;
    client.write_all(b"body").await.unwrap();
    assert_eq!(visit.exactly(4).await, b"body");
    visit.say(OK).await;
    assert_eq!(read_answer(&mut client, false).await.text(), "ok");
    front.server.stop().await;
}

#[tokio::test]
async fn leave_is_not_given_where_nothing_listens() {
    let front = Front::start().await;
    let mut client = front.connect().await;
    let headers = "Expect: 100-continue\r\nContent-Length: 4\r\n";
    let request = front.request("PUT", "/", headers);
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = read_answer(&mut client, false).await;
    answer.expect(503, "UNAVAILABLE");
    front.server.stop().await;
}

#[tokio::test]
async fn early_hints_from_inside_do_not_disturb_the_answer() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let answer = format!("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n{OK}");
    let (answer, _visit) = tokio::join!(front.get("/"), inside.serve_once(&answer));
    assert_eq!((answer.status, answer.text()), (200, "ok"));
    front.server.stop().await;
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_whole() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let serving = async {
        let (visit, _) = inside.serve_once("HTTP/1.0 200 OK\r\n\r\nall of it").await;
        drop(visit);
    };
    let (answer, ()) = tokio::join!(front.get("/"), serving);
    assert_eq!(answer.text(), "all of it");
    front.server.stop().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_inside_breaks_off_outside() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let mut client = front.connect().await;
    let request = front.request("GET", "/", "");
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let (visit, _) = inside.serve_once(answer).await;
    until(&mut client, b"4\r\nhalf\r\n").await;
    drop(visit);
    // No last chunk: the client sees that something is missing.
    assert_eq!(rest(&mut client).await, b"");
    front.server.stop().await;
}

#[tokio::test]
async fn a_body_that_stands_still_ends() {
    let front = Front::with(|options| {
        options.server.preview.idle_timeout = IDLE_TIMEOUT;
    })
    .await;
    let inside = front.listen(PORT).await;
    // The answer's.
    let mut client = front.connect().await;
    let request = front.request("GET", "/", "");
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let (mut visit, _) = inside.serve_once(answer).await;
    until(&mut client, b"4\r\nhalf\r\n").await;
    assert_eq!(rest(&mut client).await, b"");
    visit.ended().await;
    // The request's.
    let mut client = front.connect().await;
    let request = front.request("POST", "/", "Content-Length: 9\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut visit = inside.accept().await;
    visit.ended().await;
    let answer = String::from_utf8(rest(&mut client).await).unwrap();
    assert!(
        answer.is_empty() || !answer.starts_with("HTTP/1.1 200"),
        "{answer}"
    );
    front.server.stop().await;
}

#[tokio::test]
async fn a_feed_of_events_flows_and_ends_with_the_server() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let mut client = front.connect().await;
    let request = front.request("GET", "/", "Accept: text/event-stream\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\
                  Transfer-Encoding: chunked\r\n\r\n";
    let (mut visit, _) = inside.serve_once(answer).await;
    until(&mut client, b"\r\n\r\n").await;
    for _ in 0..3 {
        visit.say("9\r\ndata: 1\n\n\r\n").await;
        until(&mut client, b"9\r\ndata: 1\n\n\r\n").await;
    }
    // Its end is a clean one, so that its reader comes back and does not report an error.
    front.server.shutdown.cancel();
    assert_eq!(unchunk(&rest(&mut client).await), b"");
    visit.ended().await;
    front.server.stop().await;
}
