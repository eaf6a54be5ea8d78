//! HTTP/1: every request is judged by the host that it names, and goes to that host.
//!
//! A connection of a sandbox is served like any other, and each of its requests is sent on over a
//! connection that the proxy opens. So what leaves was written by the proxy from what it
//! understood, and a later request that names another host goes to that one, if it may.

use std::convert::Infallible;
use std::sync::Arc;
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
use parking_lot::Mutex;
use stacyvm_stream::{Activity, ActivityStream, PrefixedStream};
use stacyvm_types::HostName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection::SandboxConnection;
use super::copy::copy_both_ways;
use super::request::{self, Problem};
use crate::dial::DialError;

/// The longest head of a request or an answer, in bytes.
const MAX_HEAD: usize = 32 * 1024;
/// The most headers of either.
const MAX_HEADERS: usize = 128;
/// The body of a refusal, or of an answer that is handed on.
type Body = Either<Full<Bytes>, Incoming>;

/// A connection of a sandbox over which it speaks HTTP.
struct HttpConnection {
    connection: SandboxConnection,
    activity: Activity,
    /// The host of the request that is being served.
    current: Mutex<Option<HostName>>,
    upstream: tokio::sync::Mutex<Option<Upstream>>,
    /// Both sides of what has become a WebSocket.
    tunnel: Mutex<Option<(OnUpgrade, OnUpgrade)>>,
}

/// A connection of the proxy to a host. Its task ends when this is dropped.
struct Upstream {
    host: HostName,
    sender: SendRequest<Incoming>,
    _task: JoinSet<()>,
}

/// Serves a connection that begins with a request.
pub(super) async fn serve(connection: SandboxConnection, stream: TcpStream, begin: Vec<u8>) {
    let limits = connection.context.limits;
    let activity = Activity::new();
    let http = Arc::new(HttpConnection {
        connection,
        activity: activity.clone(),
        current: Mutex::new(None),
        upstream: tokio::sync::Mutex::new(None),
        tunnel: Mutex::new(None),
    });
    let service = {
        let http = http.clone();
        service_fn(move |request| {
            let http = http.clone();
            async move { Ok::<_, Infallible>(http.answer(request).await) }
        })
    };
    let serving = async {
        let client = PrefixedStream::new(begin, ActivityStream::new(stream, &activity));
        // A client that breaks the protocol was answered by the library, and one that is gone
        // needs no answer.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(limits.head_ms))
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .preserve_header_case(true)
            .serve_connection(TokioIo::new(client), service)
            .with_upgrades()
            .await;
        let tunnel = http.tunnel.lock().take();
        if let Some((client, server)) = tunnel {
            tunnel_through(client, server).await;
        }
    };
    let source = http.connection.source.ip();
    let current = || http.current.lock().clone();
    tokio::select! {
        () = serving => {}
        () = activity.idle(Duration::from_millis(limits.idle_ms)) => {}
        () = http.connection.sandbox.until_refused(source, current) => {}
    }
}

async fn tunnel_through(client: OnUpgrade, server: OnUpgrade) {
    let (Ok(client), Ok(server)) = tokio::join!(client, server) else {
        return;
    };
    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
    copy_both_ways(&mut client, &mut server).await;
}

impl HttpConnection {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match self.forward(request).await {
            Ok(response) => response,
            Err(problem) => {
                // A host that could not be reached was not refused.
                if problem.status != StatusCode::BAD_GATEWAY {
                    self.connection.refused(&problem.target, problem.reason);
                }
                refusal(&problem)
            }
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        let (mut parts, body) = request.into_parts();
        let host = request::host(&parts)?;
        // Before the policy is asked, so that a change of policy from here on ends this request.
        *self.current.lock() = Some(host.clone());
        if !self.connection.allows(&host) {
            return Err(Problem::not_allowed(&host));
        }
        let websocket = request::asks_for_websocket(&parts.headers);
        let client = parts.extensions.remove::<OnUpgrade>();
        request::strip_hop(&mut parts.headers, websocket);
        parts.version = Version::HTTP_11;
        // Servers get a path, also when the client sent the absolute form that proxies get.
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
        *self.tunnel.lock() = Some((client, server));
        request::strip_hop(response.headers_mut(), true);
        Ok(response.map(|_| Either::Left(Full::default())))
    }

    /// Sends a request over the open connection, if it leads to the same host and still works, or
    /// over a new one.
    async fn send(
        &self,
        host: &HostName,
        mut request: Request<Incoming>,
    ) -> Result<Response<Incoming>, Problem> {
        let mut slot = self.upstream.lock().await;
        let mut open = slot.take().filter(|upstream| upstream.host == *host);
        loop {
            let is_new = open.is_none();
            let mut upstream = match open.take() {
                Some(upstream) => upstream,
                None => self.connect(host).await?,
            };
            let is_ready = upstream.sender.ready().await.is_ok();
            if !is_ready && !is_new {
                continue;
            }
            match upstream.sender.try_send_request(request).await {
                Ok(response) => {
                    *slot = Some(upstream);
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
        let stream = self
            .connection
            .dial(host)
            .await
            .map_err(|error| match error {
                // The dialler has reported it already.
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
        let connect_timeout = Duration::from_millis(self.connection.context.limits.connect_ms);
        let shaken = timeout(connect_timeout, builder.handshake(TokioIo::new(server))).await;
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

/// Answers with the problem as text, and ends the connection, because the rest of it was not read.
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
