//! Connections: accepted, bounded, served, drained.
//!
//! A shutdown has two steps. First nothing new is accepted, idle connections close and answers in
//! flight go on; when the drain time is over, what is left is cut. Every connection is a tracked
//! task, and what it becomes by an upgrade holds a token, so when `serve` returns none is left.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use stacyvm_orchestrator::Orchestrator;
use stacyvm_preview::tls::{Connection, Tls};
use stacyvm_preview::{ClientInfo, Found, Preview, Tasks};
use stacyvm_stream::WriteTimeoutStream;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use crate::connections::{AddressPlace, ConnectionPermit, ConnectionSettings, Seats, Use};
use crate::error::Failure;
use crate::limiter::Peer;
use crate::listeners::{Listener, Listeners};
use crate::previews::Previews;
use crate::request_id::{self, RequestId};
use crate::router::router;
use crate::settings::ServerSettings;
use crate::trusted_proxies::TrustedProxies;

/// Pause after a failed accept: it is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client may take nothing of what it is sent: a browser that has paused a download
/// comes back with a request for the rest.
const STALL_TIMEOUT: Duration = Duration::from_secs(600);
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 250;

/// Runs the tasks that HTTP/2 needs, tracked.
#[derive(Clone, Debug)]
struct TrackedExecutor(TaskTracker);

impl<F> hyper::rt::Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn(async move {
            let _ = future.await;
        });
    }
}

/// Serves until `shutdown` is cancelled and everything in flight has ended or been cut.
///
/// # Errors
/// When a listener has no address; a failing connection is no error.
pub async fn serve(
    listeners: impl Into<Listeners>,
    orchestrator: Orchestrator,
    settings: ServerSettings,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listeners = listeners.into();
    if let Some(address) = listeners.api_address()? {
        warn_about_exposure(&settings, address);
    }
    let drain_timeout = settings.drain_timeout;
    let cut = CancellationToken::new();
    let tasks = TaskTracker::new();
    let preview_tasks = Tasks {
        tracker: tasks.clone(),
        shutdown: shutdown.clone(),
        cut: cut.clone(),
    };
    let preview = Preview::new(
        orchestrator.clone(),
        settings.preview.clone(),
        preview_tasks,
    );
    let connections = settings.connections;
    let tls = settings.tls.clone();
    if let Some(tls) = &tls {
        let (tls, shutdown) = (Arc::clone(tls), shutdown.clone());
        tasks.spawn(async move { tls.renew(shutdown).await });
    }
    let server = Arc::new(Server {
        tls,
        previews: Previews::new(preview, &settings),
        proxies: TrustedProxies::new(&settings.trusted_proxies),
        seats: Seats::new(&connections),
        arrivals: Arrivals::new(&connections),
        head_timeout: connections.head_timeout,
        router: router(orchestrator, settings, cut.clone(), tasks.clone()),
        builder: builder(&tasks, connections.head_timeout),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
        cut: cut.clone(),
    });
    for listener in listeners.all {
        tasks.spawn(Arc::clone(&server).accept_all(listener));
    }
    drop(server);
    shutdown.cancelled().await;
    tasks.close();
    if tokio::time::timeout(drain_timeout, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            connections = tasks.len(),
            "drain time is over, connections are cut"
        );
    }
    cut.cancel();
    tasks.wait().await;
    Ok(())
}

fn builder(tasks: &TaskTracker, head_timeout: Duration) -> Builder<TrackedExecutor> {
    let mut builder = Builder::new(TrackedExecutor(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(MAX_STREAMS);
    builder
}

/// How many connections the listeners take in; more wait in the listeners' queues. Those of one
/// kind never use up what the other needs to come in.
#[derive(Debug)]
struct Arrivals {
    all: Arc<Semaphore>,
    previews_only: Arc<Semaphore>,
}

impl Arrivals {
    fn new(settings: &ConnectionSettings) -> Self {
        let previews = settings.previews + settings.arriving;
        Self {
            all: Arc::new(Semaphore::new(settings.api + previews)),
            previews_only: Arc::new(Semaphore::new(previews)),
        }
    }

    fn of(&self, listener: &Listener) -> Arc<Semaphore> {
        Arc::clone(match listener.previews_only {
            true => &self.previews_only,
            false => &self.all,
        })
    }
}

/// What the tasks of all connections share.
struct Server {
    tls: Option<Arc<Tls>>,
    previews: Previews,
    proxies: TrustedProxies,
    seats: Seats,
    arrivals: Arrivals,
    head_timeout: Duration,
    router: Router,
    builder: Builder<TrackedExecutor>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    /// Takes connections until the shutdown.
    async fn accept_all(self: Arc<Self>, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = self.accept(&listener) => accepted,
            };
            match accepted {
                Ok((stream, address, permit)) => {
                    let Some(place) = self.place(address) else {
                        // The client sees its connection end.
                        continue;
                    };
                    let server = Arc::clone(&self);
                    let permit = ConnectionPermit::new(permit, place, self.tasks.token());
                    let permit = Arc::new(permit);
                    let only = listener.previews_only;
                    self.tasks.spawn(async move {
                        server.connection(stream, address, only, &permit).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept(
        &self,
        listener: &Listener,
    ) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = self.arrivals.of(listener).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let (stream, address) = listener.socket.accept().await?;
        // Without it small answers wait for the client's acknowledgement.
        stream.set_nodelay(true)?;
        Ok((stream, address, permit))
    }

    /// A place for a connection. A trusted proxy brings those of many clients, and bounds them itself.
    fn place(&self, address: SocketAddr) -> Option<AddressPlace> {
        if self.proxies.contains(address.ip()) {
            return Some(AddressPlace::unlimited());
        }
        self.seats.place(address.ip())
    }

    /// Answers one request, be it for a preview or for the API.
    async fn answer(
        &self,
        mut request: hyper::Request<Incoming>,
        mut client: ClientInfo,
        only_previews: bool,
        permit: &Arc<ConnectionPermit>,
    ) -> Response {
        let found = self.previews.find(&request);
        let for_preview = only_previews || found != Found::None;
        let what_for = if for_preview { Use::Preview } else { Use::Api };
        if !permit.sit(what_for, &self.seats) {
            return no_seat(&request, what_for);
        }
        client.address = self.proxies.client(client.address, request.headers());
        if request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(Arc::clone(permit));
        }
        // A length that stood beside it has been dropped unseen. Whatever stood before us may have
        // believed the length, and would take the rest for another request: there is none.
        let ends = request.headers().contains_key(TRANSFER_ENCODING);
        let mut response = if for_preview {
            self.previews.answer(found, request, client).await
        } else {
            request.extensions_mut().insert(Peer::new(client.address));
            // A router is always ready, and never fails.
            match self.router.clone().call(request.map(Body::new)).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        if ends && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    /// The stream below HTTP: over TLS, if the client speaks it and we do.
    async fn negotiate_tls(&self, stream: TcpStream) -> io::Result<Connection> {
        match &self.tls {
            Some(tls) => tls.accept(stream).await,
            None => Ok(Connection::Left(stream)),
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        only_previews: bool,
        permit: &Arc<ConnectionPermit>,
    ) {
        let negotiated = tokio::select! {
            negotiated = self.negotiate_tls(stream) => negotiated,
            () = self.shutdown.cancelled() => return,
        };
        // A failed handshake is reported to the client by TLS itself.
        let Ok(stream) = negotiated else { return };
        let requested = AtomicBool::new(false);
        let client = ClientInfo {
            address: address.ip(),
            secure: matches!(stream, Connection::Right(_)),
        };
        let service = service_fn(|request: hyper::Request<Incoming>| {
            requested.store(true, Ordering::Relaxed);
            let (server, permit) = (Arc::clone(&self), Arc::clone(permit));
            async move {
                let answer = server.answer(request, client, only_previews, &permit);
                Ok::<_, std::convert::Infallible>(answer.await)
            }
        });
        let stream = TokioIo::new(WriteTimeoutStream::new(stream, STALL_TIMEOUT));
        let connection = self.builder.serve_connection_with_upgrades(stream, service);
        let mut connection = pin!(connection);
        let mut first_request = pin!(tokio::time::sleep(self.head_timeout));
        let (mut draining, mut watching) = (false, true);
        loop {
            tokio::select! {
                // Mostly the client has gone; nothing is to be done about it.
                _ = connection.as_mut() => return,
                () = self.cut.cancelled() => return,
                () = self.shutdown.cancelled(), if !draining => {
                    if !requested.load(Ordering::Relaxed) {
                        return;
                    }
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                // Telling HTTP/1 from HTTP/2 has no deadline of its own.
                () = first_request.as_mut(), if watching => {
                    if !requested.load(Ordering::Relaxed) {
                        return;
                    }
                    watching = false;
                }
            }
        }
    }
}

/// Answers a request whose connection is one too many of its kind.
fn no_seat(request: &hyper::Request<Incoming>, what_for: Use) -> Response {
    let message = match what_for {
        Use::Api => "too many connections use the API: try again, and close what is not needed",
        Use::Preview => "too many connections visit previews: try again",
    };
    let mut response = Failure::busy(message).into_response();
    let headers = response.headers_mut();
    let id = RequestId::of(request.headers());
    headers.insert(request_id::HEADER, id.into_header());
    if request.version() < Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Warns an operator whose server is open to clients that were probably not meant.
fn warn_about_exposure(settings: &ServerSettings, address: SocketAddr) {
    if settings.api_key.is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "anybody who can reach this address can run commands here: set auth.api_key, or bind \
             server.host to 127.0.0.1"
        );
    }
    if settings
        .cors_allowed_origins
        .iter()
        .any(|origin| origin == "*")
    {
        tracing::warn!(
            "every web page may call this server: name the origins in server.cors_allowed_origins instead of *"
        );
    }
}
