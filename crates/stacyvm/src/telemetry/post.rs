//! One HTTP POST at a time, blocking, for the exporter's own thread: no TLS, no runtime, no other
//! crate. Every step has a deadline and the answer a bound.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

/// How long connecting, writing and reading may take, each.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of an answer is read, bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// Sends what it is given.
#[derive(Debug)]
pub(super) struct Poster;

#[async_trait::async_trait]
impl HttpClient for Poster {
    /// Blocks: the exporter calls it on a thread that does nothing else.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        Ok(send(&request)?)
    }
}

fn send(request: &Request<Bytes>) -> io::Result<Response<Bytes>> {
    let wrong = |what: &'static str| io::Error::new(io::ErrorKind::InvalidInput, what);
    let uri = request.uri();
    let host = uri
        .host()
        .ok_or_else(|| wrong("the endpoint has no host"))?;
    let port = uri.port_u16().unwrap_or(80);
    let mut head = format!(
        "POST {} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\nContent-Length: {}\r\n",
        uri.path(),
        request.body().len()
    );
    for (name, value) in request.headers() {
        let value = value.to_str().map_err(|_| wrong("a header is no text"))?;
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = connect(host.trim_matches(['[', ']']), port)?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(request.body())?;
    answer(stream)
}

fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, STEP_TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(STEP_TIMEOUT))?;
                stream.set_write_timeout(Some(STEP_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The status is all that matters; what else the collector says is dropped.
fn answer(stream: TcpStream) -> io::Result<Response<Bytes>> {
    let mut text = Vec::new();
    let mut stream = stream.take(MAX_ANSWER_BYTES);
    let mut piece = [0; 4096];
    while !text.windows(2).any(|end| end == b"\r\n") {
        match stream.read(&mut piece)? {
            0 => break,
            length => text.extend_from_slice(&piece[..length]),
        }
    }
    let status = text
        .strip_prefix(b"HTTP/1.")
        .and_then(|rest| {
            std::str::from_utf8(rest.get(2..5)?)
                .ok()?
                .parse::<u16>()
                .ok()
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))?;
    Response::builder()
        .status(status)
        .body(Bytes::new())
        .map_err(io::Error::other)
}
