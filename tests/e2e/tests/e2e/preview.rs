//! Servers that really run in sandboxes, seen through the real binary. What the proxy does in
//! detail is tested in the server's own crate; here stands the way inside.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;

use crate::harness::{Options, SOON, Server, eventually, need_root, skip};

/// Serves `hello`, `/big` of 8 MiB and `/echo`; says its port in a file. Its first argument is the
/// address to bind to.
const PROGRAM: &str = r#"
import http.server, os, socket, sys
BIG = bytes(range(256)) * 32768
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def answer(self, body):
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(BIG if self.path == '/big' else b'hello')
    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers['Content-Length'])))
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
    request_queue_size = 1024
server = Server((sys.argv[1], 0), Handler)
with open('port.new', 'w') as file: file.write(str(server.server_address[1]))
os.rename('port.new', 'port')
server.serve_forever()
"#;

/// Starts the program in a sandbox; its port.
fn serve(server: &Server, id: &str, address: &str) -> u16 {
    let written = server.request(
        "POST",
        &format!("/sandboxes/{id}/files"),
        Some(json!({"path": "server.py", "content": PROGRAM})),
    );
    assert!(written.status < 300, "{}", written.text());
    let start = format!("rm -f port; setsid python3 server.py {address} >log 2>&1 </dev/null &");
    server.exec(id, &start);
    let mut port = None;
    eventually("the server inside listens", SOON, || {
        let said = server.exec(id, "cat port 2>/dev/null");
        port = said["stdout"].as_str().unwrap().trim().parse().ok();
        port.is_some()
    });
    port.unwrap()
}

/// Sends a request on a connection and reads its answer: status and body.
fn ask(
    stream: &mut TcpStream,
    method: &str,
    host: &str,
    path: &str,
    body: &[u8],
) -> (u16, Vec<u8>) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut read = Vec::new();
    let end = loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the connection ended within a head");
        read.extend_from_slice(&piece[..count]);
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let mut body = read.split_off(end);
    let head = String::from_utf8(read).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let (begun, length) = (body.len(), length.unwrap().parse().unwrap());
    body.resize(length, 0);
    stream.read_exact(&mut body[begun..]).unwrap();
    (status, body)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn get(server: &Server, host: &str, path: &str) -> (u16, Vec<u8>) {
    ask(&mut connect(server.address()), "GET", host, path, b"")
}

/// Everything that a preview is, on a server of one provider.
fn is_one_url_away(options: Options) {
    let mut server = Server::with(options);
    let id = server.spawn(json!({}));
    let sandbox = server
        .request("GET", &format!("/sandboxes/{id}"), None)
        .expect(200);
    let domain = sandbox["preview_domain"].as_str().unwrap();
    assert_eq!(domain, format!("localhost:{}", server.address().port()));
    let port = serve(&server, &id, "127.0.0.1");
    let host = format!("{port}-{id}.{domain}");
    assert_eq!(get(&server, &host, "/"), (200, b"hello".to_vec()));
    let big: Vec<u8> = (0..8 << 20).map(|n| (n % 256) as u8).collect();
    let (status, body) = get(&server, &host, "/big");
    assert!(
        status == 200 && body == big,
        "{status}, {} bytes",
        body.len()
    );
    let mut stream = connect(server.address());
    let (status, body) = ask(&mut stream, "POST", &host, "/echo", &big);
    assert!(
        status == 200 && body == big,
        "{status}, {} bytes",
        body.len()
    );
    // By path, on the same connection.
    let by_path = ask(
        &mut stream,
        "GET",
        "localhost",
        &format!("/preview/{id}/{port}/"),
        b"",
    );
    assert_eq!(by_path, (200, b"hello".to_vec()));
    drop(stream);
    // A server that has ended without a word comes back, and the name still leads there.
    server.kill();
    server.resume();
    assert_eq!(get(&server, &host, "/"), (200, b"hello".to_vec()));
    let destroyed = server.request("DELETE", &format!("/sandboxes/{id}"), None);
    assert_eq!(destroyed.status, 200, "{}", destroyed.text());
    assert_eq!(get(&server, &host, "/").0, 404);
}

#[test]
fn a_server_in_a_native_sandbox_without_a_network_is_one_url_away() {
    need_root!();
    is_one_url_away(Options::default());
}

#[test]
fn a_server_behind_an_agent_is_one_url_away() {
    is_one_url_away(Options {
        provider: "mock",
        ..Options::default()
    });
}

#[test]
fn it_does_not_matter_what_the_server_inside_is_bound_to() {
    need_root!();
    let server = Server::start();
    let id = server.spawn(json!({}));
    for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
        if address.contains(':') && !std::path::Path::new("/proc/net/if_inet6").exists() {
            skip("this kernel has no IPv6");
            continue;
        }
        let port = serve(&server, &id, address);
        let host = format!("{port}-{id}.localhost");
        assert_eq!(
            get(&server, &host, "/"),
            (200, b"hello".to_vec()),
            "{address}"
        );
    }
}

#[test]
fn an_address_for_previews_serves_nothing_else() {
    let server = Server::with(Options {
        provider: "mock",
        more: "preview:\n  wait: 0s\n".to_owned(),
        preview_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
        ..Options::default()
    });
    let id = server.spawn(json!({}));
    let sandbox = server
        .request("GET", &format!("/sandboxes/{id}"), None)
        .expect(200);
    // It takes a free port, and the domain says which.
    let domain = sandbox["preview_domain"].as_str().unwrap();
    let address = domain.strip_prefix("localhost:").unwrap().parse().unwrap();
    assert_ne!(address, server.address().port());
    let address = SocketAddr::from(([127, 0, 0, 1], address));
    let port = serve(&server, &id, "127.0.0.1");
    let host = format!("{port}-{id}.{domain}");
    assert_eq!(
        ask(&mut connect(address), "GET", &host, "/", b""),
        (200, b"hello".to_vec())
    );
    for path in ["/api/v1/live", "/api/v1/sandboxes", "/docs", "/"] {
        let (status, body) = ask(&mut connect(address), "GET", "localhost", path, b"");
        let body = String::from_utf8(body).unwrap();
        assert!(
            status == 404 && body.contains("previews only"),
            "{path}: {status} {body}"
        );
    }
}

#[test]
fn a_thousand_kept_connections_are_served() {
    const CONNECTIONS: usize = 1000;
    const SLOW: usize = 150;
    need_root!();
    let limit = getrlimit(Resource::Nofile);
    if limit
        .maximum
        .is_some_and(|maximum| maximum < 4 * CONNECTIONS as u64)
    {
        skip("too few open files are allowed");
        return;
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .unwrap();
    let server = Server::start();
    let id = server.spawn(json!({}));
    let other = server.spawn(json!({}));
    let hosts =
        [&id, &other].map(|id| format!("{}-{id}.localhost", serve(&server, id, "127.0.0.1")));
    let mut streams: Vec<_> = (0..CONNECTIONS)
        .map(|_| connect(server.address()))
        .collect();
    for round in 0..2 {
        for (number, stream) in streams.iter_mut().enumerate() {
            let answer = ask(stream, "GET", &hosts[0], "/", b"");
            assert_eq!(answer, (200, b"hello".to_vec()), "{round}, {number}");
        }
        // What one sandbox's visitors do, another's do not feel.
        assert_eq!(get(&server, &hosts[1], "/"), (200, b"hello".to_vec()));
    }
    // Those who ask for much and take nothing; as many as the program inside has threads for.
    for stream in &mut streams[..SLOW] {
        let head = format!("GET /big HTTP/1.1\r\nHost: {}\r\n\r\n", hosts[1]);
        stream.write_all(head.as_bytes()).unwrap();
    }
    for stream in &mut streams[..SLOW] {
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
    }
    assert_eq!(get(&server, &hosts[0], "/"), (200, b"hello".to_vec()));
    assert_eq!(server.request("GET", "/health", None).status, 200);
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = resident
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    // Each holds two buffers of a fixed size, and never the 8 MiB that it asked for.
    assert!(kib < 1024 * 1024, "the server holds {kib} KiB");
    eprintln!(
        "{CONNECTIONS} slow readers: the server holds {} MiB",
        kib / 1024
    );
}
