//! Peers: accepting them, and handing their requests to those who serve them.
//!
//! Each peer has a connection of its own, each request a task of its own; nothing that one peer
//! does reaches another's.

mod files;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stacyvm_proto::answer_hello;
use stacyvm_proto::message::{
    Answer, Code, Done, HelloReply, Open, Paths, Reply, Request, Shutdown,
};
use stacyvm_proto::mux::{self, Accepted, MuxError, Sender, Side, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};

use crate::agent::{Agent, lock};
use crate::failure::{failure, reply};
use crate::{exec, forward, init, logs, usage};

/// Peers at once; the server is one.
const MAX_PEERS: usize = 64;
/// How long a peer has for its hello.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// After a failed accept (no descriptors left) the next one waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What this agent can do.
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
/// Bytes of names that go into one message.
pub(crate) const NAMES_PER_MESSAGE: usize = 32 * 1024;

/// Accepts peers for as long as it is polled.
pub(crate) async fn accept(agent: Arc<Agent>, listener: UnixListener) {
    let peers = Arc::new(AtomicUsize::new(0));
    loop {
        match listener.accept().await {
            Ok((peer, _)) if agent.init && !is_outside(&peer) => drop(peer),
            Ok((peer, _)) => {
                let count = Count::new(peers.clone());
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

/// Whether the peer's process is outside of the sandbox, where it has no number: a command inside
/// could else do through the agent what it may not do itself.
fn is_outside(peer: &UnixStream) -> bool {
    peer.peer_cred().is_ok_and(|peer| peer.pid() == Some(0))
}

/// Counts one peer for as long as it lives.
struct Count(Arc<AtomicUsize>);

impl Count {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Count {
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
    // Whoever does not speak the protocol is let go without a word more.
    let Ok(Ok(hello)) = tokio::time::timeout(HELLO_WITHIN, hello).await else {
        return;
    };
    if let Some(configure) = hello.configure {
        *lock(&agent.configure) = configure;
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
    // A peer that is gone needs no answer.
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
            logs::serve(agent, request.lines as usize, stream).await;
            Ok(())
        }
        Some(Request::Logs(request)) => {
            let lines = lock(&agent.logs).lines(request.lines as usize);
            names(&stream.sender, lines).await
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
        Some(Request::Tell(request)) => exec::attach::tell(&agent, request, stream).await,
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
    init::end(agent, Duration::from_millis(request.grace_ms)).await;
    let answered = sender.last_message(&done()).await;
    // The answer has been handed to the kernel unless the peer is slow to read, and then it can
    // see the end of the connection instead.
    agent.ended.notify_one();
    answered
}

fn done() -> Reply {
    reply(Answer::Done(Done {}))
}

/// Sends names in messages of a bounded size, and the end.
async fn names(sender: &Sender, names: Vec<String>) -> Result<(), MuxError> {
    name_parts(sender, names).await?;
    sender.last_message(&done()).await
}

/// Sends names in messages of a bounded size.
pub(crate) async fn name_parts(sender: &Sender, names: Vec<String>) -> Result<(), MuxError> {
    let mut part = Paths::default();
    let mut bytes = 0;
    for name in names {
        bytes += name.len() + 8;
        part.paths.push(name);
        if bytes > NAMES_PER_MESSAGE {
            sender
                .message(&reply(Answer::Paths(std::mem::take(&mut part))))
                .await?;
            bytes = 0;
        }
    }
    if !part.paths.is_empty() {
        sender.message(&reply(Answer::Paths(part))).await?;
    }
    Ok(())
}
