//! Ports that are not open: waited for, and then said to be closed.

use super::*;

#[tokio::test]
async fn a_port_that_opens_in_time_is_all_that_the_visitor_sees() {
    let front = Front::with(|options| options.server.preview.wait = TEST_TIMEOUT).await;
    let seen = front.fake.seen(&front.id);
    let opening = async {
        // The server has tried to connect in vain.
        while seen.dialled.load(std::sync::atomic::Ordering::Relaxed) < 3 {
            tokio::task::yield_now().await;
        }
        let inside = front.listen(PORT).await;
        let first = inside.serve_once(OK).await;
        let second = inside.serve_once(OK).await;
        (first, second)
    };
    // Several wait, and all are let in. Neither says more until both were answered.
    let (one, other, _visits) = tokio::join!(front.get("/"), front.get("/"), opening);
    assert_eq!((one.text(), other.text()), ("ok", "ok"));
    front.server.stop().await;
}

#[tokio::test]
async fn a_closed_port_says_whether_it_was_ever_open() {
    let front = Front::start().await;
    let answer = front.get("/").await;
    answer.expect(503, "UNAVAILABLE");
    assert_eq!(
        answer.header("x-stacyvm-preview-error"),
        Some("not-started")
    );
    assert_eq!(answer.header("retry-after"), Some("2"));
    let inside = front.listen(PORT).await;
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let (answer, _visit) = tokio::join!(front.get("/"), inside.serve_once(closing));
    assert_eq!(answer.text(), "ok");
    front.fake.seen(&front.id).ports.lock().unwrap().clear();
    let answer = front.get("/").await;
    answer.expect(503, "UNAVAILABLE");
    assert_eq!(answer.header("x-stacyvm-preview-error"), Some("closed"));
    front.server.stop().await;
}

#[tokio::test]
async fn who_waits_is_told_when_the_sandbox_or_the_server_ends() {
    for server_ends in [false, true] {
        let front = Front::with(|options| options.server.preview.wait = TEST_TIMEOUT * 2).await;
        let seen = front.fake.seen(&front.id);
        let ending = async {
            while seen.dialled.load(std::sync::atomic::Ordering::Relaxed) < 2 {
                tokio::task::yield_now().await;
            }
            if server_ends {
                front.server.shutdown.cancel();
            } else {
                front.destroy().await;
            }
        };
        let (answer, ()) = tokio::join!(front.get("/"), ending);
        if server_ends {
            answer.expect(503, "UNAVAILABLE");
            assert_eq!(answer.header("x-stacyvm-preview-error"), Some("stopping"));
        } else {
            answer.expect(404, "NOT_FOUND");
        }
        front.server.stop().await;
    }
}

#[tokio::test]
async fn people_get_a_page_and_programs_get_json() {
    let front = Front::start().await;
    let browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    let answer = front.send("GET", "/", browser).await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.text().contains("http-equiv=\"refresh\""));
    let policy = answer.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let gone = format!("Host: {PORT}-sb-00000000.localhost\r\n{browser}");
    let answer = front.send("GET", "/", &gone).await;
    assert_eq!(answer.status, 404);
    assert!(!answer.text().contains("refresh"));
    front.server.stop().await;
}
