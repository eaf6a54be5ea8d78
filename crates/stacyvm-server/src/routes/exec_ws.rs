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

use stacyvm_types::OutputEncoding;

use crate::attach::AttachOptions;
use crate::connections::ConnectionPermit;
use crate::error::{Failure, Reply};
use crate::openapi::failures::NotFoundErrors;
use crate::owner::RequestCaller;
use crate::state::SharedState;
use crate::target::Target;
use crate::ws::{
    Dialect, FrameEncoder, Session, StartFrame, close_as_invalid, close_with_failure, first_frame,
    run_session,
};

/// Runs a command over a WebSocket.
///
/// The first text frame says which: a bare exec request, or one with `"type":"start"` for a typed
/// session with input, sizes and signals. What is wrong with the request itself is an ordinary
/// answer; what goes wrong later is said in a frame.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/exec/ws", tag = "exec",
    operation_id = "exec_socket",
    responses((status = 101, description = "The session begins."), NotFoundErrors),
)]
pub(super) async fn open(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply {
    state.orchestrator.get(&caller, &id).await?;
    let upgrade = upgrade.map_err(|_| no_socket())?;
    let limit = state.json_limit;
    Ok(upgraded(upgrade, limit, permit, async move |socket| {
        serve(socket, &state, &caller, &id).await;
    }))
}

/// What a request hears that should have asked for a WebSocket.
pub(super) fn no_socket() -> Failure {
    Failure::bad_request("this route speaks WebSocket (RFC 6455, version 13) and nothing else")
}

/// From the first frame to the last.
async fn serve(mut socket: WebSocket, state: &SharedState, caller: &Caller, id: &SandboxId) {
    let first = tokio::select! {
        first = first_frame(&mut socket) => first,
        () = state.cut() => return,
    };
    let start_frame = match first {
        Ok(Some(text)) => StartFrame::parse(text),
        Ok(None) => return,
        Err(words) => Err(words),
    };
    let start_frame = match start_frame {
        Ok(start_frame) => start_frame,
        Err(words) => return close_as_invalid(socket, words).await,
    };
    let started = tokio::select! {
        started = start(state, caller, id, start_frame) => started,
        () = state.cut() => return,
    };
    match started {
        Ok(session) => run_session(socket, session, state.cut()).await,
        Err(failure) => close_with_failure(socket, failure).await,
    }
}

/// Starts what the first frame asks for.
async fn start(
    state: &SharedState,
    caller: &Caller,
    id: &SandboxId,
    start_frame: StartFrame,
) -> Result<Session, Failure> {
    if start_frame.detach {
        return start_detached(state, caller, id, start_frame).await;
    }
    let mut request = start_frame.request;
    let typed = start_frame.dialect != Dialect::Plain;
    let interactive = Interactive {
        tty: start_frame.tty,
        stdin: typed,
    };
    // In the typed dialect it goes before what the client sends later, on the same way.
    let stdin = match request.stdin.take_if(|_| typed) {
        Some(text) => Bytes::from(text),
        None => Bytes::new(),
    };
    let exec = state
        .orchestrator
        .exec_interactive(caller, id, request, interactive)
        .await?;
    Ok(Session {
        exec: exec.into(),
        encoder: FrameEncoder::new(start_frame.dialect),
        stdin,
        acknowledge: start_frame.acknowledge,
    })
}

/// Starts a command that outlives this connection, and follows it from its first byte.
async fn start_detached(
    state: &SharedState,
    caller: &Caller,
    id: &SandboxId,
    start_frame: StartFrame,
) -> Result<Session, Failure> {
    let orchestrator = &state.orchestrator;
    let info = orchestrator
        .exec_detached(caller, id, start_frame.request, start_frame.tty)
        .await?;
    let exec = orchestrator
        .attach_exec(caller, id, info.exec_id, 0, true)
        .await?;
    Ok(Session {
        exec: exec.into(),
        encoder: FrameEncoder::following(start_frame.dialect, 0),
        stdin: Bytes::new(),
        acknowledge: start_frame.acknowledge,
    })
}

/// Follows a detached command over a WebSocket, in the typed dialect.
pub(super) fn follow(
    state: SharedState,
    exec: AttachedExec,
    options: AttachOptions,
    acknowledge: bool,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    let dialect = Dialect::Typed {
        base64: options.encoding == OutputEncoding::Base64,
    };
    let session = Session {
        exec: exec.into(),
        encoder: FrameEncoder::following(dialect, options.offset),
        stdin: Bytes::new(),
        acknowledge,
    };
    upgraded(upgrade, state.json_limit, permit, async move |socket| {
        run_session(socket, session, state.cut()).await;
    })
}

/// Answers with the upgrade; what comes after it belongs to the request's span, and the connection
/// counts until its last word.
fn upgraded<F>(
    upgrade: WebSocketUpgrade,
    limit: usize,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
    session: impl FnOnce(WebSocket) -> F + Send + 'static,
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
                session(socket).await;
                drop(permit);
            }
            .instrument(span)
        })
}
