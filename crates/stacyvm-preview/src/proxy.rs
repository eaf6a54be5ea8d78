//! One request on its way through: in over HTTP/1.1, its answer out as it comes.
//!
//! Its rules: bodies are never collected; a request is sent a second time only where that cannot
//! do anything twice, on a connection that had been used before and turned out to be closed.

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

use crate::body::{Outgoing, PreviewBody};
use crate::failure::{Failure, Kind};
use crate::gate::Pass;
use crate::headers;
use crate::origin;
use crate::preview::Shared;
use crate::room::{Lease, Room};
use crate::tunnel::Tunnel;
use crate::{Form, Origin, Target};

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Pauses between attempts while a port is waited for: they double up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// A connection's buffer, and so the longest head of an answer from inside.
const BUFFER: usize = 128 * 1024;
/// How long a connection that is used again may take to be ready.
const READY: Duration = Duration::from_secs(1);

/// A request that was let in.
pub(crate) struct Passage<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) target: &'a Target,
    pub(crate) room: Arc<Room>,
    pub(crate) pass: Pass,
    pub(crate) authority: String,
    pub(crate) came: Origin,
}

impl Passage<'_> {
    /// Carries the request in and its answer out.
    pub(crate) async fn carry(
        self,
        permit: OwnedSemaphorePermit,
        mut head: Parts,
        body: Incoming,
    ) -> Result<Response<PreviewBody>, Failure> {
        let client = head.extensions.remove::<OnUpgrade>();
        let extensions = std::mem::take(&mut head.extensions);
        let nobody = origin::is_nobody(&head.headers);
        let upgrade = self.prepare(&mut head, client.is_some())?;
        let idle = self.shared.settings.idle_timeout;
        let (outgoing, sent) = Outgoing::new(body, idle);
        let (sender, answer) = self.send(head, outgoing).await?;
        let (mut answer, incoming) = answer.into_parts();
        let inside = answer.extensions.remove::<OnUpgrade>();
        let changed = headers::strip_connection(&mut answer.headers);
        answer.version = Version::HTTP_11;
        if origin::is_shared(self.target.form) {
            origin::confine(&mut answer.headers, self.target, &self.authority, nobody);
        } else {
            headers::bind_cookies(&mut answer.headers, self.pass.own_cookies);
        }
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            let (Some(client), Some(inside), Some(_), Some(protocol)) =
                (client, inside, upgrade, changed)
            else {
                return Err(Failure::broken(
                    "the answer changes to a protocol that nobody asked for",
                ));
            };
            answer.headers.insert(CONNECTION, UPGRADE_WORD);
            answer.headers.insert(UPGRADE, protocol);
            let tunnel = Tunnel {
                client,
                inside,
                idle,
                ports: self.room.ports.clone(),
                shutdown: self.shared.tasks.shutdown.clone(),
                permit,
                extensions,
            };
            self.shared.tasks.tracker.spawn(tunnel.run());
            return Ok(Response::from_parts(answer, PreviewBody::empty()));
        }
        let lease = Lease {
            room: self.room,
            port: self.target.port.get(),
            sender,
            sent,
            _permit: permit,
        };
        // A feed of events never ends by itself; its reader comes back.
        let endless = answer
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(is_event_stream);
        let closing = endless.then(|| self.shared.tasks.shutdown.clone().cancelled_owned());
        let body = PreviewBody::inside(incoming, lease, idle, closing);
        Ok(Response::from_parts(answer, body))
    }

    /// Makes a head the one that goes inside; gives back the protocol that the client wants to
    /// change to.
    fn prepare(&self, head: &mut Parts, upgradable: bool) -> Result<Option<HeaderValue>, Failure> {
        let trailers = headers::takes_trailers(&head.headers);
        let upgrade = headers::strip_connection(&mut head.headers).filter(|_| upgradable);
        let prefix = (self.target.form == Form::Path).then(|| self.target.prefix());
        headers::prepare(
            &mut head.headers,
            self.came,
            &self.authority,
            prefix.as_deref(),
        );
        if origin::is_shared(self.target.form) {
            origin::hide(&mut head.headers);
        }
        for name in &self.pass.own_headers {
            head.headers.remove(name);
        }
        for cookie in self.pass.own_cookies {
            headers::take_cookie(&mut head.headers, cookie);
        }
        if let Some(uri) = &self.pass.uri {
            head.uri = uri.clone();
        }
        if let Some(protocol) = &upgrade {
            head.headers.insert(CONNECTION, UPGRADE_WORD);
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

    /// Sends the request over a connection that waits, or a new one, and awaits the answer's head.
    async fn send(
        &self,
        head: Parts,
        body: Outgoing,
    ) -> Result<(SendRequest<Outgoing>, Response<Incoming>), Failure> {
        let mut request = Request::from_parts(head, body);
        if let Some(mut sender) = self.waiting().await {
            let again = repeatable(&request).then(|| copy(&request));
            match self.exchange(&mut sender, request).await {
                Ok(answer) => return Ok((sender, answer)),
                Err(Unanswered::Unsent(unsent)) => request = *unsent,
                Err(Unanswered::Lost(failure)) => match again {
                    Some(again) => request = again,
                    None => return Err(failure),
                },
                Err(Unanswered::Failed(failure)) => return Err(failure),
            }
        }
        let mut sender = self.open().await?;
        match self.exchange(&mut sender, request).await {
            Ok(answer) => Ok((sender, answer)),
            Err(Unanswered::Unsent(_)) => Err(Failure::broken(
                "the connection was closed before the request was sent",
            )),
            Err(Unanswered::Lost(failure) | Unanswered::Failed(failure)) => Err(failure),
        }
    }

    /// A connection that was used before and is ready.
    async fn waiting(&self) -> Option<SendRequest<Outgoing>> {
        let port = self.target.port.get();
        while let Some(mut sender) = self.room.idle(port) {
            if let Ok(Ok(())) = timeout(READY, sender.ready()).await {
                return Some(sender);
            }
        }
        None
    }

    async fn exchange(
        &self,
        sender: &mut SendRequest<Outgoing>,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let idle = self.shared.settings.idle_timeout;
        let answered = timeout(idle, sender.try_send_request(request)).await;
        let Ok(answered) = answered else {
            let message = format!("no answer within {idle:?}");
            return Err(Unanswered::Failed(Failure::broken(message)));
        };
        answered.map_err(|mut error| {
            if let Some(request) = error.take_message() {
                return Unanswered::Unsent(Box::new(request));
            }
            let error = error.into_error();
            tracing::debug!(%error, port = self.target.port, "preview is not answered");
            if self.room.ports.is_ended() {
                let message = format!("sandbox {:?} not found", self.target.sandbox.as_str());
                Unanswered::Failed(Failure::new(Kind::Gone, message))
            } else if error.is_parse() {
                Unanswered::Failed(Failure::broken("the answer is no HTTP"))
            } else if error.is_user() {
                Unanswered::Failed(Failure::malformed(
                    "the request's body ended before its end",
                ))
            } else {
                Unanswered::Lost(Failure::broken(
                    "the connection was closed without an answer",
                ))
            }
        })
    }

    /// A new connection, waited for as long as a visitor may be kept waiting.
    async fn open(&self) -> Result<SendRequest<Outgoing>, Failure> {
        let port = self.target.port.get();
        let deadline = Instant::now() + self.shared.settings.wait;
        let (mut turn, mut pause) = (None, FIRST_PAUSE);
        loop {
            match timeout(CONNECT, self.room.ports.connect(port)).await {
                Ok(Ok(connection)) => {
                    self.room.saw(port);
                    return self.handshake(connection).await;
                }
                Ok(Err(Error::NothingListens(_))) => {}
                Ok(Err(_)) if self.room.ports.is_ended() => return Err(self.gone()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => return Err(Failure::broken("the port does not take connections")),
            }
            if turn.is_none() {
                let asking = self.room.turn(port).acquire_owned();
                turn = self.until(deadline, asking).await?.and_then(Result::ok);
                if turn.is_none() {
                    return Err(self.not_open());
                }
                continue;
            }
            let next = (Instant::now() + pause).min(deadline);
            if next >= deadline {
                return Err(self.not_open());
            }
            self.until(next, std::future::pending::<()>()).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits for something until a moment; gives up when the sandbox or the server ends.
    async fn until<T>(
        &self,
        moment: Instant,
        what: impl Future<Output = T>,
    ) -> Result<Option<T>, Failure> {
        tokio::select! {
            found = what => Ok(Some(found)),
            () = tokio::time::sleep_until(moment) => Ok(None),
            () = self.room.ports.ended() => Err(self.gone()),
            () = self.shared.tasks.shutdown.cancelled() => Err(Failure::stopping()),
        }
    }

    fn gone(&self) -> Failure {
        let id = self.target.sandbox.as_str();
        Failure::new(Kind::Gone, format!("sandbox {id:?} not found"))
    }

    fn not_open(&self) -> Failure {
        let port = self.target.port;
        let id = &self.target.sandbox;
        if self.room.has_seen(port.get()) {
            let message = format!("nothing listens on port {port} of sandbox {id} any more");
            Failure::new(Kind::Closed, message)
        } else {
            let message = format!("nothing listens on port {port} of sandbox {id} yet");
            Failure::new(Kind::NotStarted, message)
        }
    }

    async fn handshake(
        &self,
        connection: PortConnection,
    ) -> Result<SendRequest<Outgoing>, Failure> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(BUFFER);
        let shaken = builder.handshake(TokioIo::new(connection)).await;
        let (sender, driver) = shaken.map_err(|_| Failure::broken("the connection failed"))?;
        let ended = self.room.ports.ended();
        let cut = self.shared.tasks.cut.clone();
        self.shared.tasks.tracker.spawn(async move {
            tokio::select! {
                // Whoever waits for an answer is told how it ended.
                _ = driver.with_upgrades() => {}
                () = ended => {}
                () = cut.cancelled() => {}
            }
        });
        Ok(sender)
    }
}

const UPGRADE_WORD: HeaderValue = HeaderValue::from_static("upgrade");

/// A request without an answer.
enum Unanswered {
    /// Nothing of it was sent.
    Unsent(Box<Request<Outgoing>>),
    /// The connection ended without a word.
    Lost(Failure),
    /// Something that another attempt would not mend.
    Failed(Failure),
}

/// Whether sending it twice does nothing twice (RFC 9110 section 9.2.1).
fn repeatable(request: &Request<Outgoing>) -> bool {
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    safe && request.body().is_end_stream()
}

fn copy(request: &Request<Outgoing>) -> Request<Outgoing> {
    let mut copy = Request::new(Outgoing::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// The path and query as they go inside.
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
