//! Servers whose sandboxes are directories with a real agent in each.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use stacyvm_client::Client;
use stacyvm_types::{ExecRequest, ExecResponse, SpawnRequest, StreamLine};

use crate::boxes::Boxes;
use crate::http::PATIENCE;
use crate::support::{Options, Server};

/// A server over the mock provider.
pub(crate) struct Mocked {
    pub(crate) address: SocketAddr,
    server: Server,
    boxes: Arc<Boxes>,
}

impl Deref for Mocked {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Mocked {
    pub(crate) fn options() -> Options {
        let mut options = Options::default();
        options.orchestrator.default_provider = "mock".to_owned();
        options
    }

    pub(crate) async fn start() -> Self {
        Self::with(Self::options()).await
    }

    pub(crate) async fn with(mut options: Options) -> Self {
        let boxes = Arc::new(Boxes::new());
        options.providers = vec![boxes.clone()];
        let server = Server::start(options).await;
        Self {
            address: server.address,
            server,
            boxes,
        }
    }

    /// A default sandbox's id.
    pub(crate) async fn spawn(&self) -> String {
        let made = self.client.spawn(&SpawnRequest::default()).await.unwrap();
        made.id.to_string()
    }

    /// Runs shell text to its end.
    pub(crate) async fn shell(&self, id: &str, command: &str) -> ExecResponse {
        let request = ExecRequest {
            command: command.to_owned(),
            ..ExecRequest::default()
        };
        self.client.exec(id, &request).await.unwrap()
    }

    /// Every line of a streamed exec.
    pub(crate) async fn lines(&self, id: &str, request: &ExecRequest) -> Vec<StreamLine> {
        let lines = self.client.exec_stream(id, request).await.unwrap();
        lines.try_collect().await.unwrap()
    }

    /// Destroys every sandbox and ends the server.
    pub(crate) async fn stop(self) {
        let client: &Client = &self.server.client;
        for sandbox in client.list().await.unwrap() {
            client.destroy(sandbox.id.as_str()).await.unwrap();
        }
        self.server.stop_within(Duration::from_secs(5)).await;
        self.boxes.end().await;
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
