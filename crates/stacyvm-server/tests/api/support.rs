//! A server of one's own for each test.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stacyvm_client::Client;
use stacyvm_orchestrator::{Orchestrator, Settings};
use stacyvm_provider::Provider;
use stacyvm_server::ServerSettings;
use stacyvm_store::Store;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fake::Fake;

/// How a server differs from the default one.
pub(crate) struct Options {
    pub(crate) server: ServerSettings,
    pub(crate) orchestrator: Settings,
    pub(crate) providers: Vec<Arc<dyn Provider>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            server: ServerSettings {
                drain_timeout: Duration::from_secs(5),
                ..ServerSettings::default()
            },
            orchestrator: Settings {
                default_provider: "fake".to_owned(),
                // Nothing happens by itself while a test counts.
                health_interval: Duration::from_secs(3600),
                reconcile_interval: Duration::from_secs(3600),
                ..Settings::default()
            },
            providers: vec![Arc::new(Fake::default())],
        }
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) client: Client,
    pub(crate) orchestrator: Orchestrator,
    pub(crate) shutdown: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start(options: Options) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, options).await
    }

    /// At an address of its own of the loopback network: when it has ended, nobody else listens
    /// there, as a parallel test may on a port of the common one.
    pub(crate) async fn alone(options: Options) -> Self {
        let [.., high, low] = std::process::id().to_be_bytes();
        Self::start_at(Ipv4Addr::new(127, 77, high, low), options).await
    }

    async fn start_at(ip: Ipv4Addr, options: Options) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Store::in_memory().unwrap();
        let orchestrator = Orchestrator::start(options.orchestrator, store, options.providers);
        let orchestrator = orchestrator.await.unwrap();
        let shutdown = CancellationToken::new();
        let serving = stacyvm_server::serve(
            listener,
            orchestrator.clone(),
            options.server,
            shutdown.clone(),
        );
        Self {
            address,
            client: Client::new(&format!("http://{address}"), None, None).unwrap(),
            orchestrator,
            shutdown,
            serving: tokio::spawn(serving),
        }
    }

    pub(crate) async fn plain() -> Self {
        Self::start(Options::default()).await
    }

    /// A server whose fake provider the test can look into.
    pub(crate) async fn with_fake() -> (Self, Arc<Fake>) {
        let fake = Arc::new(Fake::default());
        let options = Options {
            providers: vec![fake.clone()],
            ..Options::default()
        };
        (Self::start(options).await, fake)
    }

    /// Ends it; an error when it does not end cleanly.
    pub(crate) async fn stop(self) {
        self.stop_within(Duration::from_secs(5)).await;
    }

    /// Ends it, giving commands in flight so long.
    pub(crate) async fn stop_within(self, deadline: Duration) {
        self.shutdown.cancel();
        self.orchestrator.shutdown(deadline).await;
        self.serving.await.unwrap().unwrap();
    }
}
