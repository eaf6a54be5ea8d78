//! Requests that two servers could read in two ways. What goes inside is always written anew, so
//! nothing of them may arrive there but one well-formed request, or none.

use super::*;

/// What a smuggler hides behind a body.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";

/// Sends these bytes and reads to the connection's end, which must come.
async fn ask(front: &Front, bytes: &str) -> String {
    let mut client = front.connect().await;
    client.write_all(bytes.as_bytes()).await.unwrap();
    String::from_utf8(rest(&mut client).await).unwrap()
}

fn answers(text: &str) -> usize {
    text.matches("HTTP/1.1 ").count()
}

#[tokio::test]
async fn malformed_requests_are_refused_and_end_their_connection() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let host = front.host();
    for bad in [
        "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "Content-Length: 3, 4\r\n\r\nabcd",
        "Content-Length: +3\r\n\r\nabc",
        "Content-Length: -1\r\n\r\n",
        "Content-Length: 0x3\r\n\r\nabc",
        "Content-Length: 3 3\r\n\r\nabc",
        "Content-Length: 99999999999999999999\r\n\r\n",
        "Transfer-Encoding: identity\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Content-Length : 3\r\n\r\nabc",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "X: a\r\n folded\r\n\r\n",
        " X: a\r\n\r\n",
        "X: a\rb\r\n\r\n",
        "X: a\0b\r\n\r\n",
        "X\n: a\r\n\r\n",
        ": empty\r\n\r\n",
        "no colon\r\n\r\n",
    ] {
        let seen = ask(
            &front,
            &format!("POST / HTTP/1.1\r\nHost: {host}\r\n{bad}{HIDDEN}"),
        )
        .await;
        assert!(seen.starts_with("HTTP/1.1 400 "), "{bad:?}: {seen}");
        assert_eq!(answers(&seen), 1, "{bad:?}: {seen}");
    }
    for line in [
        "GET / HTTP/1.1 x",
        "GET  / HTTP/1.1",
        "GET / HTTP/3.0",
        "G ET / HTTP/1.1",
    ] {
        let seen = ask(&front, &format!("{line}\r\nHost: {host}\r\n\r\n")).await;
        assert!(seen.starts_with("HTTP/1.1 400 "), "{line}: {seen}");
    }
    inside.expect_no_connection().await;
    front.server.stop().await;
}

#[tokio::test]
async fn a_length_beside_chunks_hides_nothing() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let host = front.host();
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
    ] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n0\r\n\r\n{HIDDEN}");
        let serving = async {
            let mut visit = inside.accept().await;
            let head = visit.head().await;
            assert_eq!(header(&head, "content-length"), None, "{head}");
            assert_eq!(
                header(&head, "transfer-encoding"),
                Some("chunked"),
                "{head}"
            );
            assert_eq!(visit.exactly(5).await, b"0\r\n\r\n");
            visit
                .say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
                .await;
            visit.ended().await;
        };
        let (seen, ()) = tokio::join!(ask(&front, &request), serving);
        assert_eq!(answers(&seen), 1, "{framing}: {seen}");
        let lower = seen.to_ascii_lowercase();
        assert!(lower.contains("connection: close"), "{seen}");
        inside.expect_no_connection().await;
    }
    front.server.stop().await;
}

#[tokio::test]
async fn broken_chunks_end_the_request_inside_too() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let host = front.host();
    for chunks in [
        "zz\r\n",
        "-1\r\n",
        "1 1\r\na\r\n",
        "fffffffffffffffff\r\n",
        "1\r\nab\r\n0\r\n\r\n",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{HIDDEN}"
        );
        let serving = async {
            let mut visit = inside.accept().await;
            visit.ended().await;
        };
        let (seen, ()) = tokio::join!(ask(&front, &request), serving);
        assert!(answers(&seen) <= 1, "{chunks:?}: {seen}");
        assert!(!seen.starts_with("HTTP/1.1 200"), "{chunks:?}: {seen}");
    }
    inside.expect_no_connection().await;
    front.server.stop().await;
}

#[tokio::test]
async fn heads_have_a_limit() {
    let front = Front::start().await;
    let inside = front.listen(PORT).await;
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let seen = ask(&front, &front.request("GET", "/", &many)).await;
    assert!(seen.starts_with("HTTP/1.1 431 "), "{seen}");
    inside.expect_no_connection().await;
    front.server.stop().await;
}
