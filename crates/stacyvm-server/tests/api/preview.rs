//! Previews through the real front door. What runs inside is played by the test itself, byte by
//! byte, so that it can be as slow, as broken and as hostile as it likes.

mod bodies;
mod connections;
mod hidden;
mod names;
mod path;
mod smuggling;
mod tunnels;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use stacyvm_orchestrator::Caller;
use stacyvm_types::SpawnRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fake::Fake;
use crate::http::{Answer, TEST_TIMEOUT, exchange};
use crate::support::{Options, Server};

/// An idle timeout that is short enough for a test, and yet much longer than a busy machine delays a
/// connection that is not idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The port that things listen on inside.
const PORT: u16 = 3000;

/// A server with one sandbox.
struct Front {
    server: Server,
    fake: Arc<Fake>,
    id: String,
}

impl Front {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// Where a request waits for nothing, unless `change` says otherwise.
    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let fake = Arc::new(Fake::default());
        let mut options = Options {
            providers: vec![fake.clone()],
            ..Options::default()
        };
        options.server.preview.wait = Duration::ZERO;
        change(&mut options);
        let server = Server::start(options).await;
        let (caller, request) = (Caller::default(), SpawnRequest::default());
        let spawned = server.orchestrator.spawn(&caller, request, None).await;
        let id = spawned.unwrap().id.to_string();
        Self { server, fake, id }
    }

    /// Begins to listen inside.
    async fn listen(&self, port: u16) -> Inside {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = self.fake.seen(&self.id);
        seen.ports.lock().unwrap().insert(port, address);
        Inside(listener)
    }

    fn host(&self) -> String {
        format!("{PORT}-{}.localhost", self.id)
    }

    fn path(&self) -> String {
        format!("/preview/{}/{PORT}", self.id)
    }

    /// A connection to the front door.
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.address).await.unwrap()
    }

    /// A request on a new connection, by the host form unless `headers` has a `Host`.
    async fn send(&self, method: &str, path: &str, headers: &str) -> Answer {
        exchange(
            self.server.address,
            self.request(method, path, headers).as_bytes(),
        )
        .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    fn request(&self, method: &str, path: &str, headers: &str) -> String {
        let host = if headers.to_ascii_lowercase().contains("host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.host())
        };
        format!("{method} {path} HTTP/1.1\r\n{host}{headers}\r\n")
    }

    async fn destroy(&self) {
        let orchestrator = &self.server.orchestrator;
        orchestrator
            .destroy(&Caller::default(), &self.id.parse().unwrap())
            .await
            .unwrap();
    }
}

/// What listens inside.
struct Inside(TcpListener);

impl Inside {
    /// The next connection.
    async fn accept(&self) -> Visit {
        let accepted = tokio::time::timeout(TEST_TIMEOUT, self.0.accept()).await;
        Visit(accepted.unwrap().unwrap().0)
    }

    /// Takes one request and answers it; says what was asked.
    async fn serve_once(&self, answer: &str) -> (Visit, String) {
        let mut visit = self.accept().await;
        let head = visit.head().await;
        visit.say(answer).await;
        (visit, head)
    }

    /// Fails when a connection was made.
    async fn expect_no_connection(&self) {
        let accepted = tokio::time::timeout(Duration::ZERO, self.0.accept()).await;
        assert!(accepted.is_err(), "something went inside");
    }
}

/// A connection as seen from inside.
struct Visit(TcpStream);

impl Visit {
    /// The head of a request, as text; what follows it must be read after.
    async fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let reading = tokio::time::timeout(TEST_TIMEOUT, self.0.read_u8());
            head.push(reading.await.unwrap().unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let reading = tokio::time::timeout(TEST_TIMEOUT, self.0.read_exact(&mut bytes));
        reading.await.unwrap().unwrap();
        bytes
    }

    async fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Waits for the other side's end, whether it says goodbye or not.
    async fn ended(&mut self) {
        let mut rest = Vec::new();
        let reading = tokio::time::timeout(TEST_TIMEOUT, self.0.read_to_end(&mut rest));
        // A reset is an end too.
        let _ = reading.await.unwrap();
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// One header of a head as text; none when it is not there, and once only.
fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut found = head.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    let first = found.next();
    assert_eq!(found.next(), None, "{name} is there twice: {head}");
    first
}

/// Reads until the connection's end.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    let reading = tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut rest));
    // A reset is an end too.
    let _ = reading.await.unwrap();
    rest
}

/// Reads until what was read ends with these bytes.
async fn until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        let reading = tokio::time::timeout(TEST_TIMEOUT, stream.read_u8());
        seen.push(reading.await.unwrap().unwrap());
    }
    seen
}
