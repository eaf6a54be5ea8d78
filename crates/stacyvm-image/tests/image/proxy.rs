//! A proxy between a pull and a registry: it records requests, and damages answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// A request that came through.
#[derive(Clone, Debug)]
pub(crate) struct ProxiedRequest {
    pub(crate) path: String,
    /// The header `Range`.
    pub(crate) range: Option<String>,
    /// The header `Authorization`.
    pub(crate) authorization: Option<String>,
    /// How many requests for this path came before.
    pub(crate) before: usize,
}

/// What is done with a request.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Pass,
    /// The connection ends after so many bytes of the body.
    Cut(u64),
    /// The answer stops after so many bytes of the body, and the connection stays.
    Stall(u64),
    /// One byte of the body is another.
    Flip(u64),
    /// An answer of the proxy's own: status, headers, body.
    Answer(u16, Vec<String>, String),
}

type Decide = dyn Fn(&ProxiedRequest) -> Action + Send + Sync;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<ProxyState>,
}

struct ProxyState {
    upstream: SocketAddr,
    decide: Box<Decide>,
    requests: Mutex<Vec<ProxiedRequest>>,
    ended: AtomicBool,
}

impl Proxy {
    pub(crate) fn start(
        upstream: SocketAddr,
        decide: impl Fn(&ProxiedRequest) -> Action + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(ProxyState {
            upstream,
            decide: Box::new(decide),
            requests: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
        });
        let inner = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if inner.ended.load(Ordering::Relaxed) {
                    return;
                }
                let inner = Arc::clone(&inner);
                if let Ok(stream) = stream {
                    // Connections that break are what the tests are about.
                    thread::spawn(move || drop(inner.serve(stream)));
                }
            }
        });
        Self { address, state }
    }

    /// A proxy that passes everything.
    pub(crate) fn counting(upstream: SocketAddr) -> Self {
        Self::start(upstream, |_| Action::Pass)
    }

    pub(crate) fn asked(&self) -> Vec<ProxiedRequest> {
        self.state.requests.lock().clone()
    }

    /// How many requests had this in their path.
    pub(crate) fn count(&self, part: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.path.contains(part))
            .count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        drop(TcpStream::connect(self.address));
    }
}

impl ProxyState {
    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let head = read_head(&mut reader)?;
        let Some(first) = head.first() else {
            return Ok(());
        };
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let value = |name: &str| {
            head.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let action = {
            let mut asked = self.requests.lock();
            let before = asked.iter().filter(|asked| asked.path == path).count();
            let request = ProxiedRequest {
                path,
                range: value("range"),
                authorization: value("authorization"),
                before,
            };
            asked.push(request.clone());
            (self.decide)(&request)
        };
        if let Action::Answer(status, headers, body) = action {
            let mut client = &client;
            write!(client, "HTTP/1.1 {status} X\r\nconnection: close\r\n")?;
            for header in headers {
                write!(client, "{header}\r\n")?;
            }
            return write!(client, "content-length: {}\r\n\r\n{body}", body.len());
        }
        self.pass(&head, &client, &action)
    }

    fn pass(&self, head: &[String], client: &TcpStream, action: &Action) -> std::io::Result<()> {
        let upstream = TcpStream::connect(self.upstream)?;
        upstream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut to = &upstream;
        for line in head {
            // The header `Host` stays: the registry names itself by it.
            if !line.to_ascii_lowercase().starts_with("connection:") {
                write!(to, "{line}\r\n")?;
            }
        }
        write!(to, "connection: close\r\n\r\n")?;
        let mut reader = BufReader::new(&upstream);
        let mut back = client;
        for line in read_head(&mut reader)? {
            write!(back, "{line}\r\n")?;
        }
        write!(back, "\r\n")?;
        let mut buffer = [0; 4096];
        let mut sent = 0_u64;
        loop {
            let got = reader.read(&mut buffer)?;
            if got == 0 {
                return Ok(());
            }
            let mut length = got;
            match action {
                Action::Cut(after) | Action::Stall(after) => {
                    length = length.min(usize::try_from(after - sent).unwrap());
                }
                Action::Flip(at) if (sent..sent + got as u64).contains(at) => {
                    buffer[usize::try_from(at - sent).unwrap()] ^= 0x40;
                }
                _ => {}
            }
            back.write_all(&buffer[..length])?;
            sent += length as u64;
            if length < got
                || matches!(action, Action::Cut(after) | Action::Stall(after) if *after == sent)
            {
                if matches!(action, Action::Stall(_)) {
                    // Until the client gives up.
                    while client.peek(&mut [0]).is_ok_and(|got| got > 0) {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
                return client.shutdown(Shutdown::Both);
            }
        }
    }
}

fn read_head(reader: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
}
