//! One request through the proxy: into the sandbox over HTTP/1.1, its answer out as it comes.
//!
//! Its rules: bodies are never collected; a request is sent a second time only when it is safe to
//! repeat, after a connection that had been used before turned out to be closed.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_TYPE, TE, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use stacyvm_orchestrator::{Error, PortConnection};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use crate::connections::{Lease, SandboxConnections};
use crate::failure::{Failure, FailureKind};
use crate::gate::Grant;
use crate::headers;
use crate::location::Origin;
use crate::origin;
use crate::request_body::RequestBody;
use crate::response_body::PreviewBody;
use crate::tunnel::Tunnel;
use crate::{ClientInfo, Form, PreviewSettings, Target, Tasks};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Delays between attempts to connect to a closed port: each is twice the one before.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(20);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(250);
/// The buffer of a connection, and so the longest head of an answer of a sandbox, in bytes.
const MAX_HEAD: usize = 128 * 1024;
/// How long a connection that is used again may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// A request that the gate admitted.
pub(crate) struct ProxiedRequest<'a> {
    pub(crate) settings: &'a PreviewSettings,
    pub(crate) tasks: &'a Tasks,
    pub(crate) target: &'a Target,
    pub(crate) connections: Arc<SandboxConnections>,
    pub(crate) grant: Grant,
    pub(crate) authority: String,
    pub(crate) client: ClientInfo,
}

impl ProxiedRequest<'_> {
    /// Sends the request to the sandbox and returns its answer.
    pub(crate) async fn forward(
        self,
        permit: OwnedSemaphorePermit,
        mut head: Parts,
        body: Incoming,
    ) -> Result<Response<PreviewBody>, Failure> {
        let client = head.extensions.remove::<OnUpgrade>();
        let extensions = std::mem::take(&mut head.extensions);
        let opaque = origin::is_opaque(&head.headers);
        let upgrade = self.prepare(&mut head, client.is_some())?;
        let path = head.uri.path().to_owned();
        let idle_timeout = self.settings.idle_timeout;
        let (body, sent) = RequestBody::new(body, idle_timeout);
        let (sender, answer) = self.send(head, body).await?;
        let (mut answer, incoming) = answer.into_parts();
        let upstream = answer.extensions.remove::<OnUpgrade>();
        let changed = headers::strip_connection(&mut answer.headers);
        answer.version = Version::HTTP_11;
        if origin::is_shared(self.target.form) {
            origin::confine(&mut answer.headers, self.target, opaque);
            if self.target.form == Form::Path {
                let prefix = self.target.prefix();
                let from = Origin {
                    prefix: &prefix,
                    authority: &self.authority,
                    path: &path,
                };
                let stays = origin::keep_below_prefix(&mut answer.headers, from);
                if !stays && answer.status.is_redirection() {
                    return Err(Failure::broken(
                        "it sends its visitors to another host, where a preview by path does not lead; \
                         open it by its host name",
                    ));
                }
            }
        } else {
            headers::bind_cookies(&mut answer.headers, self.grant.own_cookies);
        }
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(client), Some(upstream), Some(_), Some(protocol)) =
                (client, upstream, upgrade, changed)
            else {
                return Err(Failure::broken(
                    "the answer changes to a protocol that nobody asked for",
                ));
            };
            let tunnel = Tunnel {
                client,
                upstream,
                idle_timeout,
                ports: self.connections.ports.clone(),
                shutdown: self.tasks.shutdown.clone(),
                permit,
                extensions,
            };
            self.tasks.tracker.spawn(tunnel.run());
            answer.headers.insert(CONNECTION, UPGRADE_VALUE);
            answer.headers.insert(UPGRADE, protocol);
            return Ok(Response::from_parts(answer, PreviewBody::empty()));
        }
        let lease = Lease {
            connections: self.connections,
            port: self.target.port.get(),
            sender,
            sent,
            _permit: permit,
        };
        // A stream of events never ends by itself, and its client connects again.
        let endless = answer
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(is_event_stream);
        let shutdown = endless.then(|| self.tasks.shutdown.clone().cancelled_owned());
        let body = PreviewBody::upstream(incoming, lease, idle_timeout, shutdown);
        Ok(Response::from_parts(answer, body))
    }

    /// Makes a head the one that is sent to the sandbox. Returns the protocol that the client wants
    /// to change to.
    fn prepare(&self, head: &mut Parts, upgradable: bool) -> Result<Option<HeaderValue>, Failure> {
        let trailers = headers::accepts_trailers(&head.headers);
        let upgrade = headers::strip_connection(&mut head.headers).filter(|_| upgradable);
        let prefix = (self.target.form == Form::Path).then(|| self.target.prefix());
        if prefix.is_some() {
            headers::keep_allowed(&mut head.headers);
        }
        headers::prepare(
            &mut head.headers,
            self.client,
            &self.authority,
            prefix.as_deref(),
        );
        if origin::is_shared(self.target.form) {
            origin::remove_cookies(&mut head.headers);
        }
        for name in &self.grant.own_headers {
            head.headers.remove(name);
        }
        for cookie in self.grant.own_cookies {
            headers::remove_cookie(&mut head.headers, cookie);
        }
        if let Some(uri) = &self.grant.uri {
            head.uri = uri.clone();
        }
        if let Some(protocol) = &upgrade {
            head.headers.insert(CONNECTION, UPGRADE_VALUE);
            head.headers.insert(UPGRADE, protocol.clone());
        } else if trailers {
            head.headers
                .insert(TE, HeaderValue::from_static("trailers"));
            head.headers
                .insert(CONNECTION, HeaderValue::from_static("te"));
        }
        head.uri = inner_uri(&head.uri, prefix.as_deref())
            .ok_or_else(|| Failure::malformed("the request's target is no path"))?;
        head.version = Version::HTTP_11;
        Ok(upgrade)
    }

    /// Sends the request over an idle connection, or a new one, and awaits the answer's head.
    async fn send(
        &self,
        head: Parts,
        body: RequestBody,
    ) -> Result<(SendRequest<RequestBody>, Response<Incoming>), Failure> {
        let mut request = Request::from_parts(head, body);
        if let Some(mut sender) = self.idle_connection().await {
            let again = is_repeatable(&request).then(|| copy(&request));
            match self.exchange(&mut sender, request).await {
                Ok(answer) => return Ok((sender, answer)),
                Err(SendError::Unsent(unsent)) => request = *unsent,
                Err(SendError::Lost(failure)) => match again {
                    Some(again) => request = again,
                    None => return Err(failure),
                },
                Err(SendError::Failed(failure)) => return Err(failure),
            }
        }
        let mut sender = self.open().await?;
        match self.exchange(&mut sender, request).await {
            Ok(answer) => Ok((sender, answer)),
            Err(SendError::Unsent(_)) => Err(Failure::broken(
                "the connection was closed before the request was sent",
            )),
            Err(SendError::Lost(failure) | SendError::Failed(failure)) => Err(failure),
        }
    }

    /// An idle connection that is ready.
    async fn idle_connection(&self) -> Option<SendRequest<RequestBody>> {
        let port = self.target.port.get();
        while let Some(mut sender) = self.connections.take_idle(port) {
            if let Ok(Ok(())) = timeout(READY_TIMEOUT, sender.ready()).await {
                return Some(sender);
            }
        }
        None
    }

    async fn exchange(
        &self,
        sender: &mut SendRequest<RequestBody>,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let idle_timeout = self.settings.idle_timeout;
        let answered = timeout(idle_timeout, sender.try_send_request(request)).await;
        let Ok(answered) = answered else {
            let message = format!("no answer within {idle_timeout:?}");
            return Err(SendError::Failed(Failure::broken(message)));
        };
        answered.map_err(|mut error| {
            if let Some(request) = error.take_message() {
                return SendError::Unsent(Box::new(request));
            }
            let error = error.into_error();
            tracing::debug!(%error, port = self.target.port, "preview is not answered");
            if self.connections.ports.is_ended() {
                let message = format!("sandbox {:?} not found", self.target.sandbox.as_str());
                SendError::Failed(Failure::new(FailureKind::Gone, message))
            } else if error.is_parse() {
                SendError::Failed(Failure::broken("the answer is no HTTP"))
            } else if error.is_user() {
                SendError::Failed(Failure::malformed(
                    "the request's body ended before its end",
                ))
            } else {
                SendError::Lost(Failure::broken(
                    "the connection was closed without an answer",
                ))
            }
        })
    }

    /// A new connection. While the port is closed, it is tried again until the client has waited as
    /// long as the settings permit.
    async fn open(&self) -> Result<SendRequest<RequestBody>, Failure> {
        let port = self.target.port.get();
        let deadline = Instant::now() + self.settings.wait;
        let (mut lock, mut delay) = (None, MIN_RETRY_DELAY);
        loop {
            match timeout(CONNECT_TIMEOUT, self.connections.ports.connect(port)).await {
                Ok(Ok(connection)) => {
                    self.connections.mark_reached(port);
                    return self.handshake(connection).await;
                }
                Ok(Err(Error::NothingListens(_))) => {}
                Ok(Err(_)) if self.connections.ports.is_ended() => return Err(self.gone()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(Failure::broken("the port does not take connections")),
            }
            if lock.is_none() {
                let locking = self.connections.connect_lock(port).acquire_owned();
                lock = self.until(deadline, locking).await?.and_then(Result::ok);
                if lock.is_none() {
                    return Err(self.not_open());
                }
                continue;
            }
            let next = (Instant::now() + delay).min(deadline);
            if next >= deadline {
                return Err(self.not_open());
            }
            self.until(next, std::future::pending::<()>()).await?;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
    }

    /// Waits for a future until a deadline; fails when the sandbox or the server ends.
    async fn until<T>(
        &self,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Result<Option<T>, Failure> {
        tokio::select! {
            output = future => Ok(Some(output)),
            () = tokio::time::sleep_until(deadline) => Ok(None),
            () = self.connections.ports.ended() => Err(self.gone()),
            () = self.tasks.shutdown.cancelled() => Err(Failure::stopping()),
        }
    }

    fn gone(&self) -> Failure {
        let id = self.target.sandbox.as_str();
        Failure::new(FailureKind::Gone, format!("sandbox {id:?} not found"))
    }

    fn not_open(&self) -> Failure {
        let port = self.target.port;
        let id = &self.target.sandbox;
        if self.connections.was_reached(port.get()) {
            let message = format!("nothing listens on port {port} of sandbox {id} any more");
            Failure::new(FailureKind::Closed, message)
        } else {
            let message = format!("nothing listens on port {port} of sandbox {id} yet");
            Failure::new(FailureKind::NotStarted, message)
        }
    }

    async fn handshake(
        &self,
        connection: PortConnection,
    ) -> Result<SendRequest<RequestBody>, Failure> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD);
        let shaken = builder.handshake(TokioIo::new(connection)).await;
        let (sender, driver) = shaken.map_err(|_| Failure::broken("the connection failed"))?;
        let ended = self.connections.ports.ended();
        let cut = self.tasks.cut.clone();
        self.tasks.tracker.spawn(async move {
            tokio::select! {
                // A request that waits for an answer gets the error.
                _ = driver.with_upgrades() => {}
                () = ended => {}
                () = cut.cancelled() => {}
            }
        });
        Ok(sender)
    }
}

const UPGRADE_VALUE: HeaderValue = HeaderValue::from_static("upgrade");

/// Why a request has no answer.
enum SendError {
    /// Nothing of it was sent.
    Unsent(Box<Request<RequestBody>>),
    /// The connection ended before an answer came.
    Lost(Failure),
    /// The request failed in a way that another attempt would not change.
    Failed(Failure),
}

/// Whether a request has the same effect when it is sent twice (RFC 9110 section 9.2.1).
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    safe && request.body().is_end_stream()
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// The path and query that are sent to the sandbox.
fn inner_uri(uri: &Uri, prefix: Option<&str>) -> Option<Uri> {
    let whole = uri.path_and_query().map_or("/", |whole| whole.as_str());
    let whole = match prefix {
        Some(prefix) => whole.strip_prefix(prefix)?,
        None => whole,
    };
    whole.parse().ok()
}

fn is_event_stream(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    let name = bytes.split(|byte| *byte == b';').next().unwrap_or(bytes);
    name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_go_inside_as_they_came() {
        let prefix = "/preview/sb-0123abcd/3000";
        for (uri, prefix, inside) in [
            ("/a%2Fb/../c?d=%20", None, "/a%2Fb/../c?d=%20"),
            ("http://h/x?y", None, "/x?y"),
            ("http://h", None, "/"),
            ("*", None, "*"),
            ("/preview/sb-0123abcd/3000/", Some(prefix), "/"),
            ("/preview/sb-0123abcd/3000/a//b?c", Some(prefix), "/a//b?c"),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(inner_uri(&uri, prefix).unwrap().to_string(), inside);
        }
    }
}
