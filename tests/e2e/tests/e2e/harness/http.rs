//! A blocking HTTP/1.1 client of the smallest kind: one connection a request, so that a test can
//! hold one open, stop reading it, or drop it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long an answer may be silent: longer than the longest silence that a test asks for.
const READ_TIMEOUT: Duration = Duration::from_secs(240);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }

    /// The body as text, for messages.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body, when the status is this one.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub(crate) struct Streaming {
    pub(crate) status: u16,
    body: BufReader<Body>,
}

impl Streaming {
    /// The next line; none at the end.
    pub(crate) fn line(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        if self.body.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line)
            .with_context(|| format!("not a line of JSON: {line:?}"))
            .map(Some)
    }

    /// Reads on and counts.
    pub(crate) fn drain(&mut self) -> Result<u64> {
        Ok(std::io::copy(&mut self.body, &mut std::io::sink())?)
    }
}

/// Sends a request and reads the whole answer.
pub(crate) fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let mut streaming = open(address, method, path, headers, body)?;
    let mut body = Vec::new();
    streaming.body.read_to_end(&mut body)?;
    Ok(Response {
        status: streaming.status,
        body,
    })
}

/// Sends a request and reads the head of the answer.
pub(crate) fn open(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Streaming> {
    let mut stream = TcpStream::connect_timeout(&address, READ_TIMEOUT)?;
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;

    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("no status line: {line:?}"))?;
    let mut left = Left::UntilClose;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the connection closed inside the head");
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(length) = header.strip_prefix("content-length:") {
            left = Left::Bytes(length.trim().parse()?);
        } else if header == "transfer-encoding: chunked" {
            left = Left::Chunk(0);
        }
    }
    Ok(Streaming {
        status,
        body: BufReader::new(Body { reader, left }),
    })
}

/// How much of a body is still to come.
#[derive(Debug)]
enum Left {
    UntilClose,
    Bytes(u64),
    /// This much of the current chunk.
    Chunk(u64),
    Nothing,
}

#[derive(Debug)]
struct Body {
    reader: BufReader<TcpStream>,
    left: Left,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Left::Chunk(0) = self.left {
            self.left = match self.chunk_length()? {
                0 => Left::Nothing,
                length => Left::Chunk(length),
            };
        }
        let read = match self.left {
            Left::Nothing => 0,
            Left::UntilClose => self.reader.read(buffer)?,
            Left::Bytes(left) | Left::Chunk(left) => {
                let read = self.reader.by_ref().take(left).read(buffer)?;
                if read == 0 && left > 0 && !buffer.is_empty() {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                read
            }
        };
        let taken = u64::try_from(read).expect("a length fits");
        if let Left::Bytes(left) | Left::Chunk(left) = &mut self.left {
            *left -= taken;
        }
        if let Left::Chunk(0) = self.left {
            // The end of line behind the chunk's content.
            self.reader.read_line(&mut String::new())?;
        }
        Ok(read)
    }
}

impl Body {
    fn chunk_length(&mut self) -> std::io::Result<u64> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        u64::from_str_radix(line.trim_end(), 16)
            .map_err(|_| std::io::ErrorKind::UnexpectedEof.into())
    }
}
