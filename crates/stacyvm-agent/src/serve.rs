//! Peers: accepting them, and dispatching their requests.
//!
//! Each peer has a connection of its own, each request a task of its own; no peer affects the
//! requests of another.

mod files;
mod logs;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stacyvm_proto::answer_hello;
use stacyvm_proto::message::{Answer, Code, HelloReply, Open, Request, Shutdown};
use stacyvm_proto::mux::{self, Accepted, MuxError, Sender, Side, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};

use crate::agent::Agent;
use crate::replies::{done, failure, reply};
use crate::shutdown::end_processes;
use crate::{exec, forward, usage};

/// How many peers may be connected at once; the server is one.
const MAX_PEERS: usize = 64;
/// How long a peer has for its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept (no descriptors left) before the next one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The capabilities of this agent, as it announces them.
const CAPABILITIES: [&str; 10] = [
    "exec",
    "execs",
    "pty",
    "files",
    "archive",
    "forward",
    "logs",
    "logs-follow",
    "usage",
    "shutdown",
];

/// Accepts peers for as long as it is polled.
pub(crate) async fn accept(agent: Arc<Agent>, listener: UnixListener) {
    let peers = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept().await {
            Ok((peer, _)) if agent.init && !is_outside(&peer) => drop(peer),
            Ok((peer, _)) => {
                let count = PeerCount::new(peers.clone());
                if peers.load(Ordering::Relaxed) <= MAX_PEERS {
                    let agent = agent.clone();
                    tokio::spawn(async move {
                        let (read, write) = peer.into_split();
                        serve_peer(agent, read, write).await;
                        drop(count);
                    });
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Whether the peer's process is outside of the sandbox, in which case it has no number here.
/// Otherwise a command inside could do through the agent what it may not do itself.
fn is_outside(peer: &UnixStream) -> bool {
    peer.peer_cred().is_ok_and(|peer| peer.pid() == Some(0))
}

/// PeerCounts one peer for as long as it lives.
struct PeerCount(Arc<AtomicUsize>);

impl PeerCount {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for PeerCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one peer until its connection ends.
pub(crate) async fn serve_peer<R, W>(agent: Arc<Agent>, mut read: R, mut write: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let answer = HelloReply {
        program: concat!("stacyvm-agent ", env!("CARGO_PKG_VERSION")).into(),
        capabilities: CAPABILITIES.map(String::from).into(),
        ..HelloReply::default()
    };
    let hello = answer_hello(&mut read, &mut write, answer);
    // A peer that does not speak the protocol is disconnected without an answer.
    let Ok(Ok(hello)) = tokio::time::timeout(HELLO_TIMEOUT, hello).await else {
        return;
    };
    if let Some(configure) = hello.configure {
        *agent.defaults.lock() = configure;
    }
    let (mux, mut incoming, driver) = mux::start(read, write, Side::Accepting);
    drop(mux);
    let requests = async {
        while let Some(Accepted { request, stream }) = incoming.accept().await {
            let request = prost::Message::decode(request).ok();
            let request = request.and_then(|open: Open| open.request);
            tokio::spawn(serve_request(agent.clone(), request, stream));
        }
    };
    tokio::join!(requests, driver.run());
}

async fn serve_request(agent: Arc<Agent>, request: Option<Request>, stream: Stream) {
    // If the peer is gone, no answer is needed.
    let _ = match request {
        Some(Request::Exec(request)) => {
            exec::serve(agent, request, stream).await;
            Ok(())
        }
        Some(Request::Forward(request)) => {
            forward::serve(agent, request, stream).await;
            Ok(())
        }
        Some(Request::Logs(request)) if request.follow => {
            logs::follow(agent, request.lines as usize, stream).await;
            Ok(())
        }
        Some(Request::Logs(request)) => {
            logs::send_newest(&agent, request.lines as usize, &stream.sender).await
        }
        Some(Request::Usage(_)) => {
            let counts = usage::count(agent.init);
            stream
                .sender
                .last_message(&reply(Answer::Counts(counts)))
                .await
        }
        Some(Request::Execs(request)) => exec::attach::list(&agent, request, &stream.sender).await,
        Some(Request::Attach(request)) => exec::attach::serve(&agent, request, stream).await,
        Some(Request::Tell(request)) => exec::attach::control(&agent, request, stream).await,
        Some(Request::Shutdown(request)) => shutdown(&agent, request, &stream.sender).await,
        Some(request) => files::serve(&agent, request, stream).await,
        None => {
            let unknown = failure(
                Code::Unsupported,
                "this sandbox's agent is older than the request",
            );
            stream
                .sender
                .last_message(&reply(Answer::Failure(unknown)))
                .await
        }
    };
}

async fn shutdown(agent: &Agent, request: Shutdown, sender: &Sender) -> Result<(), MuxError> {
    end_processes(agent, Duration::from_millis(request.grace_ms)).await;
    let answered = sender.last_message(&done()).await;
    // The kernel has the answer unless the peer is slow to read; such a peer sees the end of the
    // connection instead.
    agent.ended.notify_one();
    answered
}
