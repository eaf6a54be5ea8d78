//! HTTP byte by byte, for what a well-behaved client would not send or not show.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Longer than anything here takes; reached only when something hangs.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of an error, after checking that the answer has an error's exact form.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"));
        let value = self.json();
        let object = value.as_object().unwrap();
        assert_eq!(object.len(), 2, "{value}");
        let message = object["message"].as_str().unwrap();
        assert!(!message.is_empty());
        let code = object["code"].as_str().unwrap();
        assert_eq!(
            self.text(),
            format!("{{\"code\":\"{code}\",\"message\":{}}}", object["message"])
        );
        code.to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.code().as_str()),
            (status, code),
            "{}",
            self.text()
        );
    }
}

/// Connects with room for little that was not read, whatever this machine's kernel would give, so
/// that a test that does not read is soon felt at the other end.
pub(crate) async fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(address).await.unwrap()
}

/// Sends these bytes on a new connection and reads one answer.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    read_answer(&mut stream, request.starts_with(b"HEAD")).await
}

/// A request with these header lines (each ending in CRLF) and body.
pub(crate) async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    if !headers.to_ascii_lowercase().contains("host:") {
        request.extend_from_slice(b"Host: localhost\r\n");
    }
    request.extend_from_slice(headers.as_bytes());
    if !body.is_empty() {
        request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    exchange(address, &request).await
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, "GET", path, "", b"").await
}

pub(crate) async fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    send(address, "POST", path, "", body.as_bytes()).await
}

/// Reads the head of an answer; what follows it in the buffer is returned too.
pub(crate) async fn read_head(stream: &mut TcpStream) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut buffer = Vec::new();
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        let reading = stream.read_buf(&mut buffer);
        let count = tokio::time::timeout(TEST_TIMEOUT, reading)
            .await
            .unwrap()
            .unwrap();
        assert!(count > 0, "the connection ended within a head: {buffer:?}");
    };
    let rest = buffer.split_off(end + 4);
    let head = String::from_utf8(buffer).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    });
    (status.parse().unwrap(), headers.collect(), rest)
}

/// Reads one whole answer.
pub(crate) async fn read_answer(stream: &mut TcpStream, bodiless: bool) -> Answer {
    let (status, headers, mut body) = read_head(stream).await;
    let mut answer = Answer {
        status,
        headers,
        body: Vec::new(),
    };
    if bodiless || status == 204 {
        return answer;
    }
    if answer.header("transfer-encoding").is_some() {
        while !body.ends_with(b"0\r\n\r\n") {
            more(stream, &mut body).await;
        }
        answer.body = unchunk(&body);
    } else {
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        while body.len() < length {
            more(stream, &mut body).await;
        }
        answer.body = body;
    }
    answer
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    let reading = stream.read_buf(buffer);
    let count = tokio::time::timeout(TEST_TIMEOUT, reading)
        .await
        .unwrap()
        .unwrap();
    assert!(count > 0, "the connection ended within a body");
}

/// Undoes chunked transfer coding.
pub(crate) fn unchunk(mut coded: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = coded
            .windows(2)
            .position(|window| window == b"\r\n")
            .unwrap();
        let size = std::str::from_utf8(&coded[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&coded[end + 2..end + 2 + size]);
        coded = &coded[end + 2 + size + 2..];
    }
}
