//! Commands after their start: list, attach, input, signals, waiting.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, UPGRADE};
use http::request::Parts;
use stacyvm_orchestrator::{Caller, ExecControl, Signal, TtySize};
use stacyvm_types::{
    AttachQuery, AttachSocketQuery, ExecId, ExecInfo, GoDuration, ResizeRequest, SandboxId,
    SignalName, SignalRequest, StatusResponse, StdinQuery, StdinRequest, WaitQuery,
};

use super::exec_ws;
use crate::attach::{AttachOptions, Follower, attach_body};
use crate::body::{Json, read_raw};
use crate::connections::ConnectionPermit;
use crate::error::{Failure, Reply};
use crate::openapi::failures::{JsonBodyErrors, SandboxErrors};
use crate::openapi::shapes::{FileContent, NdjsonLines};
use crate::owner::RequestCaller;
use crate::query::{Query, QueryPairs};
use crate::response::{done, exec_stream, ok};
use crate::signals;
use crate::state::{ServerState, SharedState};
use crate::target::{Target, sandbox_id};

/// The `{id}` and `{exec_id}` of a path, well formed.
pub(crate) struct ExecTarget {
    pub(crate) id: SandboxId,
    pub(crate) exec_id: ExecId,
}

impl<S: Send + Sync> FromRequestParts<S> for ExecTarget {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((id, exec_id)) =
            path.map_err(|_| Failure::not_found("the path has a part that is not UTF-8"))?;
        let id = sandbox_id(id)?;
        let exec_id = exec_id
            .parse()
            .map_err(|error| Failure::not_found(format!("exec not found: {error}")))?;
        Ok(Self { id, exec_id })
    }
}

/// Lists the commands of a sandbox, oldest first.
///
/// Those that run, detached or not, and the detached ones that ended last.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/execs", tag = "exec",
    operation_id = "list_execs",
    responses((status = 200, description = "The commands.", body = [ExecInfo]), SandboxErrors),
)]
pub(super) async fn list(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    Ok(ok(&state.orchestrator.execs(&caller, &id).await?))
}

/// Shows one command.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/execs/{exec_id}", tag = "exec",
    operation_id = "get_exec",
    responses((status = 200, description = "The command.", body = ExecInfo), SandboxErrors),
)]
pub(super) async fn get(
    State(state): State<SharedState>,
    target: ExecTarget,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    let info = state
        .orchestrator
        .exec_info(&caller, &target.id, target.exec_id);
    Ok(ok(&info.await?))
}

/// Kills the whole process tree of a command; one that has ended already is as good.
#[utoipa::path(
    delete, path = "/api/v1/sandboxes/{id}/execs/{exec_id}", tag = "exec",
    operation_id = "kill_exec",
    responses(
        (
            status = 200,
            description = "It has ended, or will at once.",
            body = StatusResponse,
            example = json!({"status": "killed"}),
        ),
        SandboxErrors,
    ),
)]
pub(super) async fn kill(
    State(state): State<SharedState>,
    target: ExecTarget,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    let killing = state
        .orchestrator
        .kill_exec(&caller, &target.id, target.exec_id);
    killing.await?;
    Ok(done("killed"))
}

/// Reads a detached command's output, and follows it to its exit.
///
/// Lines are those of a streamed exec, with the `offset` behind them. Attach again at the last
/// offset seen and what follows comes, nothing missing, nothing twice. What is no longer kept is
/// told in a line `{"stream":"gap","data":"","lost":BYTES,"offset":N}`.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/attach", tag = "exec",
    params(AttachQuery, AttachSocketQuery),
    responses(
        (
            status = 101,
            description = "The same over a WebSocket, where one is asked for: typed frames both ways.",
        ),
        (
            status = 200,
            description = "Its output, as it comes.",
            body = NdjsonLines,
            content_type = "application/x-ndjson",
        ),
        SandboxErrors,
    ),
)]
pub(super) async fn attach(
    State(state): State<SharedState>,
    ExecTarget { id, exec_id }: ExecTarget,
    RequestCaller(caller): RequestCaller,
    query: QueryPairs,
    permit: Option<Extension<Arc<ConnectionPermit>>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply {
    let options = AttachOptions::from(query.read::<AttachQuery>()?);
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(_) if headers.contains_key(UPGRADE) => return Err(exec_ws::no_socket()),
        Err(_) => return follow(&state, &caller, &id, exec_id, options).await,
    };
    let acknowledge = query.read::<AttachSocketQuery>()?.stdin_ack == Some(true);
    let attached = state
        .orchestrator
        .attach_exec(&caller, &id, exec_id, options.offset, options.follow)
        .await?;
    Ok(exec_ws::follow(
        state,
        attached,
        options,
        acknowledge,
        permit,
        upgrade,
    ))
}

/// Answers with a command's output as it comes.
pub(super) async fn follow(
    state: &ServerState,
    caller: &Caller,
    id: &SandboxId,
    exec_id: ExecId,
    options: AttachOptions,
) -> Reply {
    let attached = state
        .orchestrator
        .attach_exec(caller, id, exec_id, options.offset, options.follow)
        .await?;
    let follower = Follower::new(options.offset, options.encoding);
    let body = Body::new(attach_body(attached, follower, state.cut()));
    Ok(exec_stream(exec_id, body))
}

/// Feeds a running command, and ends its input with `close`.
///
/// As JSON, or as raw bytes with the content type `application/octet-stream`.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/stdin", tag = "exec",
    request_body(
        content((StdinRequest = "application/json"), (FileContent = "application/octet-stream")),
    ),
    params(StdinQuery),
    responses(
        (
            status = 200,
            description = "The command has room for it.",
            body = StatusResponse,
            example = json!({"status": "written"}),
        ),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn stdin(
    State(state): State<SharedState>,
    target: ExecTarget,
    RequestCaller(caller): RequestCaller,
    query: QueryPairs,
    request: Request,
) -> Reply {
    let named = request.headers().get(CONTENT_TYPE);
    let raw = named.is_some_and(|name| name.as_bytes().starts_with(b"application/octet-stream"));
    let (data, close) = if raw {
        let data = read_raw(request, state.json_limit).await?;
        (data, query.read::<StdinQuery>()?.close == Some(true))
    } else {
        let Json(body) = Json::<StdinRequest>::from_request(request, &state).await?;
        let data = match (body.data, body.data_b64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(text)) => STANDARD
                .decode(text)
                .map(Bytes::from)
                .map_err(|_| Failure::bad_request("data_b64 is not base64 with padding"))?,
            (None, None) => Bytes::new(),
            (Some(_), Some(_)) => {
                return Err(Failure::bad_request("give data or data_b64, not both"));
            }
        };
        (data, body.close.unwrap_or(false))
    };
    if data.is_empty() && !close {
        // Nothing to write is no way around the question whether there is such a command.
        let orchestrator = &state.orchestrator;
        orchestrator
            .exec_info(&caller, &target.id, target.exec_id)
            .await?;
    }
    if !data.is_empty() {
        tell(&state, &caller, &target, ExecControl::Stdin(data)).await?;
    }
    if close {
        tell(&state, &caller, &target, ExecControl::CloseStdin).await?;
    }
    Ok(done("written"))
}

/// Sends a signal to a running command's process group.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/signal", tag = "exec",
    request_body = SignalRequest,
    responses(
        (
            status = 200,
            description = "It was sent.",
            body = StatusResponse,
            example = json!({"status": "signalled"}),
        ),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn signal(
    State(state): State<SharedState>,
    target: ExecTarget,
    RequestCaller(caller): RequestCaller,
    Json(body): Json<SignalRequest>,
) -> Reply {
    let name = match body.signal {
        SignalName::Number(number) => number.to_string(),
        SignalName::Name(name) => name,
    };
    let number = signals::number(&name).ok_or_else(|| {
        Failure::bad_request("signal must be the name or number of one, like SIGINT or 2")
    })?;
    tell(
        &state,
        &caller,
        &target,
        ExecControl::Signal(Signal(number)),
    )
    .await?;
    Ok(done("signalled"))
}

/// Gives a command's terminal another size; without a terminal nothing happens.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/resize", tag = "exec",
    request_body = ResizeRequest,
    responses(
        (
            status = 200,
            description = "It was told.",
            body = StatusResponse,
            example = json!({"status": "resized"}),
        ),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn resize(
    State(state): State<SharedState>,
    target: ExecTarget,
    RequestCaller(caller): RequestCaller,
    Json(ResizeRequest { cols, rows }): Json<ResizeRequest>,
) -> Reply {
    if cols == 0 || rows == 0 {
        return Err(Failure::bad_request("cols and rows must be at least 1"));
    }
    let size = ExecControl::Resize(TtySize { cols, rows });
    tell(&state, &caller, &target, size).await?;
    Ok(done("resized"))
}

/// Waits for a detached command's end.
///
/// A wait that is over before the command answers with one whose `state` is `running`.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/wait", tag = "exec",
    operation_id = "wait_exec",
    params(WaitQuery),
    responses(
        (status = 200, description = "The command, ended or not.", body = ExecInfo),
        SandboxErrors,
    ),
)]
pub(super) async fn wait(
    State(state): State<SharedState>,
    target: ExecTarget,
    RequestCaller(caller): RequestCaller,
    Query(query): Query<WaitQuery>,
) -> Reply {
    let limit = match &query.timeout {
        None => None,
        Some(text) => {
            let limit: GoDuration = text
                .parse()
                .map_err(|error| Failure::bad_request(format!("timeout: {error}")))?;
            if limit < GoDuration::ZERO {
                return Err(Failure::bad_request("timeout must not be negative"));
            }
            Some(limit.to_std())
        }
    };
    let info = state
        .orchestrator
        .wait_exec(&caller, &target.id, target.exec_id, limit);
    Ok(ok(&info.await?))
}

async fn tell(
    state: &ServerState,
    caller: &Caller,
    target: &ExecTarget,
    control: ExecControl,
) -> Result<(), Failure> {
    let told = state
        .orchestrator
        .tell_exec(caller, &target.id, target.exec_id, control);
    Ok(told.await?)
}

/// Waits for a detached command's end, for clients that would rather not GET for long.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/wait", tag = "exec",
    operation_id = "wait_exec_posted",
    params(WaitQuery),
    responses(
        (status = 200, description = "The command, ended or not.", body = ExecInfo),
        SandboxErrors,
    ),
)]
pub(super) async fn wait_posted(
    state: State<SharedState>,
    target: ExecTarget,
    asker: RequestCaller,
    query: Query<WaitQuery>,
) -> Reply {
    wait(state, target, asker, query).await
}
