//! Rows about previews: what the way through the proxy costs above a connection to the same
//! program on this machine.
//!
//! The program is started twice, in a sandbox and beside it; both are asked in turns, over one kept
//! connection each.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stacyvm_types::ExecRequest;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::measurement::{Bench, WARM_UP};
use super::samples::{Samples, Unit};
use super::target::Target;

/// The large answer, bytes.
const LARGE_ANSWER: usize = 64 << 20;
/// Large answers, beside the warm-up.
const DOWNLOADS: usize = 20;
/// How long the program may take to listen.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers every request with as many bytes as its path says, and says its port first.
const PROGRAM: &str = r#"
import os, socket, sys, threading
listener = socket.create_server(('127.0.0.1', 0), backlog=1024)
print(listener.getsockname()[1], file=open(sys.argv[1], 'w') if len(sys.argv) > 1 else sys.stdout, flush=True)
def serve(peer):
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file = peer.makefile('rb', 65536)
    while True:
        line = file.readline()
        if not line: return
        while file.readline() not in (b'\r\n', b''): pass
        count = int(line.split()[1][1:])
        if count not in bodies: bodies[count] = bytes(count)
        peer.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % count)
        peer.sendall(bodies[count])
bodies = {}
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"#;

/// A kept connection to a server.
struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
    buffer: Vec<u8>,
}

impl Connection {
    async fn new(address: &str, host: String) -> Result<Self> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("cannot reach {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(256 << 10, stream),
            host,
            buffer: vec![0; 256 << 10],
        })
    }

    /// Asks for so many bytes and takes them all.
    async fn take(&mut self, count: usize) -> Result<Duration> {
        let begin = Instant::now();
        let request = format!("GET /{count} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        ensure!(line.starts_with("HTTP/1.1 200"), "the answer is {line:?}");
        while line != "\r\n" {
            line.clear();
            ensure!(
                self.stream.read_line(&mut line).await? > 0,
                "the connection broke"
            );
        }
        let mut left = count;
        while left > 0 {
            let limit = left.min(self.buffer.len());
            let read = self.stream.read(&mut self.buffer[..limit]).await?;
            ensure!(read > 0, "the connection broke");
            left -= read;
        }
        Ok(begin.elapsed())
    }
}

/// A connection through a preview and one beside it, asked in turns.
struct Comparison {
    preview: Connection,
    direct: Connection,
}

impl Comparison {
    /// Takes one row: `figure` says what a duration is worth.
    async fn row(
        &mut self,
        bench: &Bench,
        row: Samples,
        count: usize,
        samples: usize,
        figure: impl Fn(Duration) -> f64,
    ) -> Result<Samples> {
        let mut row = row;
        let mut warm_up = WARM_UP;
        let mut pace = bench.pace(samples + WARM_UP);
        while pace.another() {
            let through = self.preview.take(count).await?;
            let beside = self.direct.take(count).await?;
            if warm_up > 0 {
                warm_up -= 1;
                continue;
            }
            row.values.push(figure(through));
            row.floor.push(figure(beside));
        }
        Ok(row)
    }
}

/// Latency and throughput through a preview, and beside it.
pub(crate) async fn preview(bench: &Bench, target: &Target) -> Result<Vec<Samples>> {
    let sandbox = bench.spawn().await?;
    let id = sandbox.id.as_str();
    let start = ExecRequest {
        command: format!(
            "setsid python3 -c \"$PROGRAM\" /tmp/port >/dev/null 2>&1 </dev/null & \
             n=0; until [ -s /tmp/port ]; do n=$((n+1)); [ $n -lt {} ] || exit 1; sleep 0.1; done; cat /tmp/port",
            START_TIMEOUT.as_secs() * 10
        ),
        env: Some([("PROGRAM".to_owned(), PROGRAM.to_owned())].into()),
        ..ExecRequest::default()
    };
    let started = bench.client.exec(id, &start).await?;
    let port: u16 = match started.stdout.trim().parse() {
        Ok(port) => port,
        Err(_) => bail!(
            "python3 does not serve in the sandbox: {}",
            started.stderr.trim()
        ),
    };
    let (mut program, beside) = start_beside().await?;
    let address = target
        .url
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let host = format!("{port}-{id}.{}", sandbox.preview_domain);
    let beside = format!("127.0.0.1:{beside}");
    let mut comparison = Comparison {
        preview: Connection::new(address, host).await?,
        direct: Connection::new(&beside, beside.clone()).await?,
    };
    let small =
        Samples::new("preview, small answer", Unit::Milliseconds).goal("p50 <= floor + 0.3");
    let large =
        Samples::new("preview, 64 MiB", Unit::MegabytesPerSecond).goal("p50 >= 70 % of floor");
    let per_second = |taken: Duration| LARGE_ANSWER as f64 / 1e6 / taken.as_secs_f64();
    let rows = vec![
        comparison
            .row(
                bench,
                small,
                100,
                bench.iterations * 10,
                super::samples::milliseconds,
            )
            .await?,
        comparison
            .row(bench, large, LARGE_ANSWER, DOWNLOADS, per_second)
            .await?,
    ];
    // It ends when it is dropped, too; here it is waited for.
    let _ = program.kill().await;
    bench.client.destroy(id).await?;
    Ok(rows)
}

/// The same program on this machine, and its port.
async fn start_beside() -> Result<(Child, u16)> {
    let mut program = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start python3")?;
    let stdout = program.stdout.take().context("it has no output")?;
    let mut line = String::new();
    let reading = BufReader::new(stdout).read_line(&mut line).await;
    reading.context("python3 does not say its port")?;
    let port = line
        .trim()
        .parse()
        .context("python3 does not say its port")?;
    Ok((program, port))
}
