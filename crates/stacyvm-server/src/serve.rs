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
use http::header::UPGRADE;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use stacyvm_orchestrator::Orchestrator;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::Service;

use crate::limiter::Peer;
use crate::{ServerSettings, router};

/// Connections at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 10_000;
/// How long a request's head may take to arrive, and so how long a connection may idle.
const HEAD_TIME: Duration = Duration::from_secs(75);
/// Pause after a failed accept: it is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
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
/// When the listener has no address; a failing connection is no error.
pub async fn serve(
    listener: TcpListener,
    orchestrator: Orchestrator,
    settings: ServerSettings,
    shutdown: CancellationToken,
) -> io::Result<()> {
    warn_of_open_doors(&settings, listener.local_addr()?);
    let drain_timeout = settings.drain_timeout;
    let cut = CancellationToken::new();
    let tasks = TaskTracker::new();
    let server = Arc::new(Server {
        router: router(orchestrator, settings, cut.clone()),
        builder: builder(&tasks),
        shutdown: shutdown.clone(),
        cut: cut.clone(),
    });
    let seats = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &seats) => accepted,
        };
        match accepted {
            Ok((stream, peer, seat)) => {
                let server = server.clone();
                let seat = Arc::new(Seat {
                    _permit: seat,
                    _token: tasks.token(),
                });
                tasks.spawn(async move { server.connection(stream, peer, &seat).await });
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
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

async fn accept(
    listener: &TcpListener,
    seats: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Peer, OwnedSemaphorePermit)> {
    let seat = seats.clone().acquire_owned().await;
    let seat = seat.expect("the semaphore is never closed");
    let (stream, address) = listener.accept().await?;
    // Without it small answers wait for the client's acknowledgement.
    stream.set_nodelay(true)?;
    Ok((stream, Peer::new(address.ip()), seat))
}

fn builder(tasks: &TaskTracker) -> Builder<TrackedExecutor> {
    let mut builder = Builder::new(TrackedExecutor(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .max_concurrent_streams(MAX_STREAMS);
    builder
}

/// What a connection holds for as long as it lives, also after it was upgraded: a place among the
/// connections, and the right to be waited for.
#[derive(Debug)]
pub(crate) struct Seat {
    _permit: OwnedSemaphorePermit,
    _token: TaskTrackerToken,
}

struct Server {
    router: Router,
    builder: Builder<TrackedExecutor>,
    shutdown: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    async fn connection(&self, stream: TcpStream, peer: Peer, seat: &Arc<Seat>) {
        let spoken = AtomicBool::new(false);
        let service = service_fn(|mut request: hyper::Request<Incoming>| {
            spoken.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(peer);
            if request.headers().contains_key(UPGRADE) {
                request.extensions_mut().insert(Arc::clone(seat));
            }
            // A router is always ready.
            self.router.clone().call(request.map(Body::new))
        });
        let stream = TokioIo::new(stream);
        let connection = self.builder.serve_connection_with_upgrades(stream, service);
        let mut connection = pin!(connection);
        let mut silence = pin!(tokio::time::sleep(HEAD_TIME));
        let (mut draining, mut watching) = (false, true);
        loop {
            tokio::select! {
                // How it ended is the client's affair: mostly it has gone.
                _ = connection.as_mut() => return,
                () = self.cut.cancelled() => return,
                () = self.shutdown.cancelled(), if !draining => {
                    if !spoken.load(Ordering::Relaxed) {
                        return;
                    }
                    draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                // Telling HTTP/1 from HTTP/2 has no deadline of its own.
                () = silence.as_mut(), if watching => {
                    if !spoken.load(Ordering::Relaxed) {
                        return;
                    }
                    watching = false;
                }
            }
        }
    }
}

/// Says loudly what an operator should know about how open the server is.
fn warn_of_open_doors(settings: &ServerSettings, address: SocketAddr) {
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
