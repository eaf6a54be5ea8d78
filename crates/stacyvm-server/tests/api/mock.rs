//! Servers over the mock provider: sandboxes are directories with a real agent in each
//! (`STACYVM_AGENT_BIN`, or built here by cargo).

use std::net::SocketAddr;
use std::ops::Deref;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use stacyvm_client::Client;
use stacyvm_mock::MockProvider;
use stacyvm_provider::Provider;
use stacyvm_provider::prelude::*;
use stacyvm_testing::agent;
use stacyvm_types::{ExecRequest, ExecResponse, SpawnRequest, StreamLine};

use crate::support::{Options, Server};

/// A server over the mock provider.
pub(crate) struct Mocked {
    pub(crate) address: SocketAddr,
    server: Server,
    provider: Arc<MockProvider>,
    /// Goes last.
    _home: Home,
}

/// Where the sandboxes are. A test that fails half way ends the agents that it leaves.
struct Home(tempfile::TempDir);

impl Drop for Home {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let home = self.0.path().to_str().unwrap_or("/nowhere").to_owned();
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(&home) {
                let _ = Command::new("kill")
                    .arg("-TERM")
                    .arg(process.file_name())
                    .status();
            }
        }
    }
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
        let home = Home(tempfile::tempdir().unwrap());
        let provider = MockProvider::new(home.0.path().join("mock"), agent()).unwrap();
        let provider = Arc::new(provider);
        options.providers = vec![provider.clone()];
        let server = Server::start(options).await;
        Self {
            address: server.address,
            server,
            provider,
            _home: home,
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

    /// Ends the server while sandboxes run, and then these.
    pub(crate) async fn stop_first(self) {
        self.server.stop_within(Duration::from_secs(5)).await;
        for left in self.provider.list().await.unwrap() {
            self.provider.destroy(&left.id).await.unwrap();
        }
        self.provider.close().await;
    }

    /// Destroys every sandbox and ends the server.
    pub(crate) async fn stop(self) {
        let client: &Client = &self.server.client;
        for sandbox in client.list().await.unwrap() {
            client.destroy(sandbox.id.as_str()).await.unwrap();
        }
        self.server.stop_within(Duration::from_secs(5)).await;
        self.provider.close().await;
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    stacyvm_testing::eventually(what, async || condition().await).await;
}
