//! HTTP/1: every request is judged by the host that it names, and goes to that host.
//!
//! A connection from inside is served like any other, and each request of it is sent on over a
//! connection of ours. So what goes out was written by us from what we understood, and a later
//! request of the same connection that names another host goes to that one, if it may.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use stacyvm_stream::{Activity, ActivityStream, PrefixedStream};
use stacyvm_types::HostName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Caller;
use super::request::{self, Problem};
use super::tls::PIECE;
use crate::dial::DialError;

/// The longest head of a request or an answer, in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// The most headers of either.
const MAX_HEADERS: usize = 128;
/// An answer of our own, or one that is handed on.
type Body = Either<Full<Bytes>, Incoming>;

/// One connection of a sandbox.
struct Connection {
    caller: Caller,
    activity: Activity,
    /// The host of the request in hand.
    current: Mutex<Option<HostName>>,
    upstream: tokio::sync::Mutex<Option<Upstream>>,
    /// Both sides of what has become a WebSocket.
    tunnel: Mutex<Option<(OnUpgrade, OnUpgrade)>>,
}

/// A connection of ours to a host. Its task ends with it.
struct Upstream {
    host: HostName,
    sender: SendRequest<Incoming>,
    _task: JoinSet<()>,
}

/// Serves a connection that begins with a request.
pub(super) async fn serve(caller: Caller, stream: TcpStream, begin: Vec<u8>) {
    let limits = caller.proxy.limits;
    let activity = Activity::new();
    let connection = Arc::new(Connection {
        caller,
        activity: activity.clone(),
        current: Mutex::new(None),
        upstream: tokio::sync::Mutex::new(None),
        tunnel: Mutex::new(None),
    });
    let service = {
        let connection = connection.clone();
        service_fn(move |request| {
            let connection = connection.clone();
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        })
    };
    let serving = async {
        let client = PrefixedStream::new(begin, ActivityStream::new(stream, &activity));
        // A client that breaks the rules has been told, and one that is gone needs nothing.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(limits.head_ms))
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(client), service)
            .with_upgrades()
            .await;
        let tunnel = locked(&connection.tunnel).take();
        if let Some((client, server)) = tunnel {
            tunnel_through(client, server).await;
        }
    };
    let source = connection.caller.source.ip();
    let current = || locked(&connection.current).clone();
    tokio::select! {
        () = serving => {}
        () = activity.idle(Duration::from_millis(limits.idle_ms)) => {}
        () = connection.caller.member.until_refused(source, current) => {}
    }
}

async fn tunnel_through(client: OnUpgrade, server: OnUpgrade) {
    let (Ok(client), Ok(server)) = tokio::join!(client, server) else {
        return;
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, PIECE, PIECE).await;
}

impl Connection {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.forward(request).await {
            Ok(response) => response,
            Err(problem) => {
                // What could not be reached was not refused.
                if problem.status != StatusCode::BAD_GATEWAY {
                    self.caller.refused(&problem.target, problem.reason);
                }
                refusal(&problem)
            }
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let (mut parts, body) = request.into_parts();
        let host = request::host(&parts)?;
        // First, so that a change of policy from here on sees it.
        *locked(&self.current) = Some(host.clone());
        if !self.caller.allows(&host) {
            return Err(Problem::not_allowed(&host));
        }
        let websocket = request::asks_for_websocket(&parts.headers);
        let client = parts.extensions.remove::<OnUpgrade>();
        request::strip_hop(&mut parts.headers, websocket);
        parts.version = Version::HTTP_11;
        // The form for a server, also where the client took us for a proxy.
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
        let mut response = self.send(&host, Request::from_parts(parts, body)).await?;
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let Some(client) = client.filter(|_| websocket && switched) else {
            if switched {
                return Err(unreachable_host(&host, "it answered what nobody asked for"));
            }
            request::strip_hop(response.headers_mut(), false);
            return Ok(response.map(Either::Right));
        };
        let server = hyper::upgrade::on(&mut response);
        *locked(&self.tunnel) = Some((client, server));
        request::strip_hop(response.headers_mut(), true);
        Ok(response.map(|_| Either::Left(Full::default())))
    }

    /// Sends a request over the connection that is there, if it leads to the same host and still
    /// works, or over a new one.
    async fn send(
        &self,
        host: &HostName,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, Problem> {
        let mut place = self.upstream.lock().await;
        let mut used = place.take().filter(|upstream| upstream.host == *host);
        loop {
            let is_new = used.is_none();
            let mut upstream = match used.take() {
                Some(upstream) => upstream,
                None => self.connect(host).await?,
            };
            let is_ready = upstream.sender.ready().await.is_ok();
            if !is_ready && !is_new {
                continue;
            }
            match upstream.sender.try_send_request(request).await {
                Ok(response) => {
                    *place = Some(upstream);
                    return Ok(response);
                }
                // It was closed while it was idle, and the request has not left.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !is_new => request = unsent,
                    _ => return Err(unreachable_host(host, "it closed the connection")),
                },
            }
        }
    }

    async fn connect(&self, host: &HostName) -> Result<Upstream, Problem> {
        let stream = self.caller.dial(host).await.map_err(|error| match error {
            // Told already, with the reason.
            DialError::Refused(..) => Problem {
                status: StatusCode::BAD_GATEWAY,
                text: format!("{error}, and the operator has not opened that range"),
                ..Problem::not_allowed(host)
            },
            DialError::Unresolved(_) | DialError::Unreachable(..) => Problem {
                status: StatusCode::BAD_GATEWAY,
                text: error.to_string(),
                ..Problem::not_allowed(host)
            },
        })?;
        let server = ActivityStream::new(stream, &self.activity);
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .preserve_header_case(true);
        let patience = Duration::from_millis(self.caller.proxy.limits.connect_ms);
        let shaken = timeout(patience, builder.handshake(TokioIo::new(server))).await;
        let Ok(Ok((sender, connection))) = shaken else {
            return Err(unreachable_host(host, "it closed the connection"));
        };
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(Upstream {
            host: host.clone(),
            sender,
            _task: task,
        })
    }
}

fn unreachable_host(host: &HostName, why: &str) -> Problem {
    Problem {
        status: StatusCode::BAD_GATEWAY,
        text: format!("cannot talk to {host}: {why}"),
        ..Problem::not_allowed(host)
    }
}

/// Says why, in words; the connection ends with it, because the rest of it was not read.
fn refusal(problem: &Problem) -> Response<Body> {
    let text = format!("stacyvm: {}\n", problem.text);
    let mut response = Response::new(Either::Left(Full::from(text)));
    *response.status_mut() = problem.status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}
