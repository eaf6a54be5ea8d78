//! Running commands over a WebSocket.
//!
//! What is wrong with the request itself, its key or its sandbox is an ordinary answer; what goes
//! wrong after the upgrade is said in a frame.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::Response;
use bytes::Bytes;
use stacyvm_orchestrator::{AttachedExec, Caller, Interactive};
use stacyvm_types::SandboxId;
use tracing::Instrument;

use super::execs::Wanted;
use crate::attach::Encoding;
use crate::connection_permit::ConnectionPermit as Seat;
use crate::error::{Failure, Reply};
use crate::front::Shared;
use crate::openapi::NoSuch;
use crate::owner::Asker;
use crate::target::Target;
use crate::ws::{Dialect, Opening, Talk, Voice, converse, dismiss, farewell, first_frame};

/// Runs a command over a WebSocket.
///
/// The first text frame says which: a bare exec request, or one with `"type":"start"` for a typed
/// conversation with input, sizes and signals. What is wrong with the request itself is an ordinary
/// answer; what goes wrong later is said in a frame.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/exec/ws", tag = "exec",
    operation_id = "exec_socket",
    responses((status = 101, description = "The conversation begins."), NoSuch),
)]
pub(super) async fn open(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    seat: Option<Extension<Arc<Seat>>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply {
    front.orchestrator.get(&caller, &id).await?;
    let upgrade = upgrade.map_err(|_| no_socket())?;
    let limit = front.json_limit;
    Ok(upgraded(upgrade, limit, seat, async move |socket| {
        serve(socket, &front, &caller, &id).await;
    }))
}

/// What a request hears that should have asked for a WebSocket.
pub(super) fn no_socket() -> Failure {
    Failure::bad_request("this route speaks WebSocket (RFC 6455, version 13) and nothing else")
}

/// From the first frame to the last.
async fn serve(mut socket: WebSocket, front: &Shared, caller: &Caller, id: &SandboxId) {
    let first = tokio::select! {
        first = first_frame(&mut socket) => first,
        () = front.cut() => return,
    };
    let opening = match first {
        Ok(Some(text)) => Opening::parse(text),
        Ok(None) => return,
        Err(words) => Err(words),
    };
    let opening = match opening {
        Ok(opening) => opening,
        Err(words) => return dismiss(socket, words).await,
    };
    let started = tokio::select! {
        started = start(front, caller, id, opening) => started,
        () = front.cut() => return,
    };
    match started {
        Ok(talk) => converse(socket, talk, front.cut()).await,
        Err(failure) => farewell(socket, failure).await,
    }
}

/// Starts what the first frame asks for.
async fn start(
    front: &Shared,
    caller: &Caller,
    id: &SandboxId,
    opening: Opening,
) -> Result<Talk, Failure> {
    if opening.detach {
        return start_detached(front, caller, id, opening).await;
    }
    let mut request = opening.request;
    let typed = opening.dialect != Dialect::Plain;
    let interactive = Interactive {
        tty: opening.tty,
        stdin: typed,
    };
    // In the typed dialect it goes before what the client sends later, on the same way.
    let stdin = match request.stdin.take_if(|_| typed) {
        Some(text) => Bytes::from(text),
        None => Bytes::new(),
    };
    let exec = front
        .orchestrator
        .exec_interactive(caller, id, request, interactive)
        .await?;
    Ok(Talk {
        exec: exec.into(),
        voice: Voice::new(opening.dialect),
        stdin,
        acknowledge: opening.acknowledge,
    })
}

/// Starts a command that outlives this connection, and follows it from its first byte.
async fn start_detached(
    front: &Shared,
    caller: &Caller,
    id: &SandboxId,
    opening: Opening,
) -> Result<Talk, Failure> {
    let orchestrator = &front.orchestrator;
    let info = orchestrator
        .exec_detached(caller, id, opening.request, opening.tty)
        .await?;
    let exec = orchestrator
        .attach_exec(caller, id, info.exec_id, 0, true)
        .await?;
    Ok(Talk {
        exec: exec.into(),
        voice: Voice::following(opening.dialect, 0),
        stdin: Bytes::new(),
        acknowledge: opening.acknowledge,
    })
}

/// Follows a detached command over a WebSocket, in the typed dialect.
pub(super) fn follow(
    front: Shared,
    exec: AttachedExec,
    wanted: Wanted,
    acknowledge: bool,
    seat: Option<Extension<Arc<Seat>>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let dialect = Dialect::Typed {
        base64: wanted.encoding == Encoding::Base64,
    };
    let talk = Talk {
        exec: exec.into(),
        voice: Voice::following(dialect, wanted.offset),
        stdin: Bytes::new(),
        acknowledge,
    };
    upgraded(upgrade, front.json_limit, seat, async move |socket| {
        converse(socket, talk, front.cut()).await;
    })
}

/// Answers with the upgrade; what comes after it belongs to the request's span, and the connection
/// counts until its last word.
fn upgraded<F>(
    upgrade: WebSocketUpgrade,
    limit: usize,
    seat: Option<Extension<Arc<Seat>>>,
    talk: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send,
{
    let span = tracing::Span::current();
    upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_upgrade(move |socket| {
            async move {
                talk(socket).await;
                drop(seat);
            }
            .instrument(span)
        })
}
