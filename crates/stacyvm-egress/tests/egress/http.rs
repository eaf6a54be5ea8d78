//! HTTP through the proxy.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use stacyvm_egress::{Limits, Reason};

use crate::servers::{self, NameServer, read_head};
use crate::world::{
    ASTRAY, HOST_OUTSIDE, OTHER_SITE, PRIVATE, SITE, World, ends, generous_limits, is_late,
};

fn internet(world: &World) -> NameServer {
    for port in [80, 8080] {
        servers::web(&world.internet, SITE, port, "site");
        servers::web(&world.internet, OTHER_SITE, port, "other");
    }
    servers::web(&world.internet, PRIVATE, 80, "private");
    servers::web(&world.host, HOST_OUTSIDE, 80, "host");
    NameServer::start(
        &world.host,
        "127.0.0.53",
        &[
            ("site.example", &[SITE]),
            ("a.site.example", &[SITE]),
            ("other.example", &[OTHER_SITE]),
            ("private.example", &[PRIVATE]),
            ("host.example", &[HOST_OUTSIDE]),
            ("closed.example", &["20.0.0.12"]),
        ],
    )
}

/// One answer: its status and its body.
fn answer(stream: &mut TcpStream) -> (u16, String) {
    let head = read_head(stream).expect("an answer comes");
    let status = head[9..12].parse().unwrap();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

fn exchange(stream: &mut TcpStream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

fn get(host: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn ok(text: &str) -> (u16, String) {
    (200, text.to_owned())
}

#[test]
fn each_request_goes_to_the_host_that_it_names() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example", "*.site.example", "other.example"]);
    // The address that the client connects to does not matter.
    let mut stream = world.connect(ASTRAY, 80);
    let site = ok("site|GET /x HTTP/1.1|site.example|0\n");
    let other = ok("other|GET /x HTTP/1.1|other.example|0\n");
    for _ in 0..2 {
        assert_eq!(exchange(&mut stream, &get("site.example")), site);
        assert_eq!(exchange(&mut stream, &get("site.example")), site);
        assert_eq!(exchange(&mut stream, &get("other.example")), other);
    }
    let below = exchange(&mut stream, &get("A.Site.Example.:80"));
    assert_eq!(below, ok("site|GET /x HTTP/1.1|A.Site.Example.:80|0\n"));
    // The absolute form of a request becomes the one for servers.
    let absolute = "GET http://site.example/y?z HTTP/1.1\r\nHost: site.example\r\n\r\n";
    let there = ok("site|GET /y?z HTTP/1.1|site.example|0\n");
    assert_eq!(exchange(&mut stream, absolute), there);
    // Two requests that are sent at once are answered in order.
    let both = get("site.example") + &get("other.example");
    assert_eq!(exchange(&mut stream, &both), site);
    assert_eq!(answer(&mut stream), other);
    // The port that the client connects to is kept.
    let mut stream = world.connect(ASTRAY, 8080);
    let there = ok("site|GET /x HTTP/1.1|site.example:8080|0\n");
    assert_eq!(exchange(&mut stream, &get("site.example:8080")), there);
}

#[test]
fn bodies_arrive_whole() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let mut stream = world.connect(SITE, 80);
    let body = "b".repeat(300_000);
    let head = "POST /x HTTP/1.1\r\nHost: site.example\r\nContent-Length: 300000\r\n\r\n";
    let sent = ok("site|POST /x HTTP/1.1|site.example|300000\n");
    assert_eq!(exchange(&mut stream, &format!("{head}{body}")), sent);
    let chunked = "POST /x HTTP/1.1\r\nHost: site.example\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\n\r\n";
    let (status, text) = exchange(&mut stream, chunked);
    assert!(status == 200 && text.starts_with("site|POST"), "{text}");
    let old = exchange(&mut stream, "GET /x HTTP/1.0\r\nHost: site.example\r\n\r\n");
    assert_eq!(old, ok("site|GET /x HTTP/1.1|site.example|0\n"));
}

#[test]
fn other_hosts_are_refused_with_the_way_to_allow_them() {
    let Some(world) = World::new() else {
        return;
    };
    let names = internet(&world);
    world.allow(&[
        "site.example",
        "host.example",
        "private.example",
        "closed.example",
    ]);
    for host in [
        "other.example",
        "a.site.example",
        "notsite.example",
        "site.example.evil.example",
        SITE,
        "[::1]",
    ] {
        // As the second of a connection whose first was allowed.
        let mut stream = world.connect(SITE, 80);
        assert_eq!(exchange(&mut stream, &get("site.example")).0, 200);
        let (status, text) = exchange(&mut stream, &get(host));
        assert_eq!(status, 403, "{host}");
        let bare = host.trim_matches(['[', ']']);
        assert!(
            text.contains(&format!("add \"{bare}\" to its list")),
            "{text}"
        );
        assert_eq!(
            world.notice(),
            (bare.to_owned(), Some(80), Reason::NotAllowed)
        );
        assert!(ends(&mut stream));
    }
    assert!(names.asked().iter().all(|(name, _)| name == "site.example"));
    // Hosts that are allowed by name, at addresses that are not on the public internet.
    for host in ["host.example", "private.example"] {
        let mut stream = world.connect(SITE, 80);
        let (status, text) = exchange(&mut stream, &get(host));
        assert!(
            status == 502 && text.contains("not on the public internet"),
            "{text}"
        );
        assert_eq!(world.notice(), (host.to_owned(), Some(80), Reason::Address));
    }
    let mut stream = world.connect(SITE, 80);
    let (status, text) = exchange(&mut stream, &get("closed.example"));
    assert!(status == 502 && text.contains("closed.example"), "{text}");
}

#[test]
fn an_address_is_reached_only_when_it_is_listed() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&[OTHER_SITE, PRIVATE]);
    let mut stream = world.connect(SITE, 80);
    let there = ok("other|GET /x HTTP/1.1|20.0.0.11|0\n");
    assert_eq!(exchange(&mut stream, &get(OTHER_SITE)), there);
    assert_eq!(
        exchange(&mut stream, &get(PRIVATE)).0,
        502,
        "a list opens nothing"
    );
    assert_eq!(world.notice().2, Reason::Address);
    let mut stream = world.connect(SITE, 80);
    assert_eq!(exchange(&mut stream, &get(SITE)).0, 403);
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let post = "POST / HTTP/1.1\r\nHost: site.example\r\n";
    for request in [
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: site.example\r\nHost: other.example\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: site.example\r\nHost: site.example\r\n\r\n".to_owned(),
        "GET http://other.example/ HTTP/1.1\r\nHost: site.example\r\n\r\n".to_owned(),
        "GET http://site.example@other.example/ HTTP/1.1\r\nHost: site.example\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: site.example\r\n X: folded\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost : site.example\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: site.example other.example\r\n\r\n".to_owned(),
        format!("{post}Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde"),
        format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{post}Transfer-Encoding: identity\r\n\r\n"),
        format!("{post}Content-Length: +4\r\n\r\nabcd"),
    ] {
        let mut stream = world.connect(SITE, 80);
        let (status, _) = exchange(&mut stream, &request);
        assert_eq!(status, 400, "{request}");
        assert!(ends(&mut stream), "{request}");
    }
    let mut stream = world.connect(SITE, 80);
    let connect = "CONNECT site.example:443 HTTP/1.1\r\nHost: site.example:443\r\n\r\n";
    let (status, text) = exchange(&mut stream, connect);
    assert!(status == 405 && text.contains("no proxy"), "{text}");
    // The length is given in two ways and sent on in one, so the server cannot choose the other.
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut stream = world.connect(SITE, 80);
    let chunked = ok("site|POST / HTTP/1.1|site.example|5\n");
    assert_eq!(exchange(&mut stream, &format!("{post}{both}")), chunked);
    // A body that looks like a request is sent on as a body.
    let hidden = get("other.example");
    let request = format!("{post}Content-Length: {}\r\n\r\n{hidden}", hidden.len());
    let mut stream = world.connect(SITE, 80);
    let (status, text) = exchange(&mut stream, &request);
    assert!(status == 200 && text.starts_with("site|POST / "), "{text}");
    let there = ok("site|GET /x HTTP/1.1|site.example|0\n");
    assert_eq!(exchange(&mut stream, &get("site.example")), there);
}

#[test]
fn a_websocket_passes_and_ends_with_the_policy() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let mut stream = world.connect(SITE, 80);
    let shake = "GET /x HTTP/1.1\r\nHost: site.example\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\n\r\n";
    let (status, _) = exchange(&mut stream, shake);
    assert_eq!(status, 101);
    let mut echo = [0; 5];
    for _ in 0..3 {
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut echo).unwrap();
        assert_eq!(&echo, b"hello");
    }
    world.allow(&["other.example"]);
    assert!(ends(&mut stream));
    // Another protocol is not switched to: the proxy would not see its requests.
    world.allow(&["site.example"]);
    let mut stream = world.connect(SITE, 80);
    let shake = "GET /x HTTP/1.1\r\nHost: site.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
                 Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let there = ok("site|GET /x HTTP/1.1|site.example|0\n");
    assert_eq!(exchange(&mut stream, shake), there);
}

#[test]
fn a_narrower_policy_ends_what_is_kept_open() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example", "other.example"]);
    let mut stream = world.connect(SITE, 80);
    assert_eq!(exchange(&mut stream, &get("site.example")).0, 200);
    world.allow(&["other.example"]);
    assert!(ends(&mut stream));
}

#[test]
fn heads_have_a_limit() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let mut stream = world.connect(SITE, 80);
    let long = "a".repeat(100_000);
    let request = format!("GET / HTTP/1.1\r\nHost: site.example\r\nX: {long}\r\n\r\n");
    // The connection may end before all is written.
    let _ = stream.write_all(request.as_bytes());
    let head = read_head(&mut stream);
    assert!(head.is_none_or(|head| head.starts_with("HTTP/1.1 431")));
    let mut stream = world.connect(SITE, 80);
    let many = "X: 1\r\n".repeat(200);
    let request = format!("GET / HTTP/1.1\r\nHost: site.example\r\n{many}\r\n");
    let (status, _) = exchange(&mut stream, &request);
    assert_eq!(status, 431);
}

#[test]
fn who_is_slow_is_let_go() {
    let limits = Limits {
        head_ms: 300,
        ..generous_limits()
    };
    let Some(world) = World::with(limits) else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    // Nothing at all, half a method, half a head.
    for begin in ["", "GE", "GET / HTTP/1.1\r\nHost: site.example\r\nX: "] {
        let mut stream = world.connect(SITE, 80);
        let _ = stream.write_all(begin.as_bytes());
        // Far more than the limit, and less than a server without one would take.
        let limit = std::time::Duration::from_secs(20);
        stream.set_read_timeout(Some(limit)).unwrap();
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        assert!(!read.is_err_and(|error| is_late(&error)), "{begin}");
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{begin}");
    }
    assert_eq!(world.notice().2, Reason::NoName);
}

#[test]
fn what_is_idle_is_let_go() {
    let limits = Limits {
        idle_ms: 8000,
        ..generous_limits()
    };
    let Some(world) = World::with(limits) else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let mut idle = world.connect(SITE, 80);
    let shake = "GET /x HTTP/1.1\r\nHost: site.example\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\n\r\n";
    assert_eq!(exchange(&mut idle, shake).0, 101);
    assert!(ends(&mut idle));
}
