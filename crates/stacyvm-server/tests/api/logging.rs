//! What the log holds of a request, and what it must not hold.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::http::send;
use crate::support::{Options, Server};

/// A log in memory.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_request_is_logged_under_its_id_and_without_its_secrets() {
    let log = Log::default();
    // For the whole program, so that no thread misses it; the other tests' lines do no harm.
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let mut options = Options::default();
    options.server.api_key = Some("key-hunter3".into());
    let server = Server::start(options).await;
    let at = server.address;
    let headers = "X-Request-ID: trace-42\r\nX-API-Key: key-hunter3\r\n";
    let body = br#"{"command":"body-hunter3","env":{"TOKEN":"env-hunter3"}}"#;
    send(
        at,
        "POST",
        "/api/v1/sandboxes/sb-00000000/exec",
        headers,
        body,
    )
    .await;
    let path = "/api/v1/sandboxes/sb-00000000/files?path=/path-hunter3";
    send(at, "POST", path, headers, b"content-hunter3").await;
    let issued = send(at, "POST", "/api/v1/tickets", headers, b"").await;
    let ticket = issued.json()["ticket"].as_str().unwrap().to_owned();
    for ticket in ["ticket-hunter3", &ticket] {
        let path = format!("/api/v1/events?type=x&ticket={ticket}");
        send(at, "GET", &path, "X-Request-ID: trace-43\r\n", b"").await;
    }
    server.stop().await;
    let log = log.text();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let answered: Vec<_> = lines
        .iter()
        .filter(|line| line["span"]["request_id"] == "trace-42")
        .filter(|line| line["fields"]["message"] == "request answered")
        .collect();
    assert_eq!(answered.len(), 3, "{log}");
    assert_eq!(answered[0]["span"]["method"], "POST");
    assert_eq!(answered[0]["span"]["route"], "/api/v1/sandboxes/{id}/exec");
    assert!(answered[0]["fields"]["status"].is_u64());
    assert!(answered[0]["fields"]["latency_ms"].is_f64());
    assert!(log.contains("trace-43"), "{log}");
    assert!(!log.contains("hunter") && !log.contains(&ticket), "{log}");
}
