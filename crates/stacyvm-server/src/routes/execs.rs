//! Commands that outlive their request: listed, followed, fed, signalled, waited for.

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
    ExecId, ExecInfo, GoDuration, ResizeRequest, SandboxId, SignalName, SignalRequest, StdinRequest,
};

use super::exec::streamed;
use super::exec_ws;
use super::{Done, done, ok};
use crate::attach::{Encoding, Follower, attach_body};
use crate::body::{Json, read_raw};
use crate::connection_permit::ConnectionPermit as Seat;
use crate::error::{Failure, Reply};
use crate::front::{Front, Shared};
use crate::openapi::{Content, InSandbox, JsonBody, Lines};
use crate::owner::Asker;
use crate::query::Query;
use crate::signals;
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
    responses((status = 200, description = "The commands.", body = [ExecInfo]), InSandbox),
)]
pub(super) async fn list(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
) -> Reply {
    Ok(ok(&front.orchestrator.execs(&caller, &id).await?))
}
/// Shows one command.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/execs/{exec_id}", tag = "exec",
    operation_id = "get_exec",
    responses((status = 200, description = "The command.", body = ExecInfo), InSandbox),
)]
pub(super) async fn get(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
) -> Reply {
    let info = front
        .orchestrator
        .exec_info(&caller, &target.id, target.exec_id);
    Ok(ok(&info.await?))
}

/// Kills the whole process tree of a command; one that has ended already is as good.
#[utoipa::path(
    delete, path = "/api/v1/sandboxes/{id}/execs/{exec_id}", tag = "exec",
    operation_id = "kill_exec",
    responses((status = 200, description = "It has ended, or will at once.", body = Done, example = json!({"status": "killed"})), InSandbox),
)]
pub(super) async fn kill(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
) -> Reply {
    let killing = front
        .orchestrator
        .kill_exec(&caller, &target.id, target.exec_id);
    killing.await?;
    Ok(done("killed"))
}

/// What of a command's output is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) offset: u64,
    pub(crate) follow: bool,
    pub(crate) encoding: Encoding,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            offset: 0,
            follow: true,
            encoding: Encoding::default(),
        }
    }
}

impl Wanted {
    pub(crate) fn of(query: &Query) -> Result<Self, Failure> {
        let offset = match query.get("offset")? {
            None => 0,
            Some(text) => text.parse().map_err(|_| {
                Failure::bad_request("the query parameter offset must be a whole number")
            })?,
        };
        let encoding = match query.get("encoding")? {
            None | Some("utf-8") => Encoding::Text,
            Some("base64") => Encoding::Base64,
            Some(_) => {
                return Err(Failure::bad_request(
                    "the query parameter encoding must be utf-8 or base64",
                ));
            }
        };
        // Following is what attaching means, unless it is switched off.
        let follow = query.get("follow")?.is_none() || query.switch("follow")?;
        Ok(Self {
            offset,
            follow,
            encoding,
        })
    }
}
/// Reads a detached command's output, and follows it to its exit.
///
/// Lines are those of a streamed exec, with the `offset` behind them. Attach again at the last
/// offset seen and what follows comes, nothing missing, nothing twice. What is no longer kept is
/// told in a line `{"stream":"gap","data":"","lost":BYTES,"offset":N}`.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/attach", tag = "exec",
    params(
        ("offset" = Option<u64>, Query, description = "The first byte wanted, over both streams; 0 without it."),
        ("follow" = Option<bool>, Query, description = "Whether to wait for what comes; true without it."),
        ("encoding" = Option<String>, Query, description = "`utf-8`, or `base64` for every byte as it is, in `data_b64`."),
        ("stdin_ack" = Option<bool>, Query, description = "Over a WebSocket: whether input is acknowledged."),
    ),
    responses((status = 101, description = "The same over a WebSocket, where one is asked for: typed frames both ways."), (status = 200, description = "Its output, as it comes.", body = Lines, content_type = "application/x-ndjson"), InSandbox),
)]
pub(super) async fn attach(
    State(front): State<Shared>,
    ExecTarget { id, exec_id }: ExecTarget,
    Asker(caller): Asker,
    query: Query,
    seat: Option<Extension<Arc<Seat>>>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Reply {
    let wanted = Wanted::of(&query)?;
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(_) if headers.contains_key(UPGRADE) => return Err(exec_ws::no_socket()),
        Err(_) => return follow(&front, &caller, &id, exec_id, wanted).await,
    };
    let acknowledge = query.switch("stdin_ack")?;
    let attached = front
        .orchestrator
        .attach_exec(&caller, &id, exec_id, wanted.offset, wanted.follow)
        .await?;
    Ok(exec_ws::follow(
        front,
        attached,
        wanted,
        acknowledge,
        seat,
        upgrade,
    ))
}

/// Answers with a command's output as it comes.
pub(super) async fn follow(
    front: &Front,
    caller: &Caller,
    id: &SandboxId,
    exec_id: ExecId,
    wanted: Wanted,
) -> Reply {
    let attached = front
        .orchestrator
        .attach_exec(caller, id, exec_id, wanted.offset, wanted.follow)
        .await?;
    let follower = Follower::new(wanted.offset, wanted.encoding);
    let body = Body::new(attach_body(attached, follower, front.cut()));
    Ok(streamed(exec_id, body))
}

/// Feeds a running command, and ends its input with `close`.
///
/// As JSON, or as raw bytes with the content type `application/octet-stream`.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/stdin", tag = "exec",
    request_body(content((StdinRequest = "application/json"), (Content = "application/octet-stream"))),
    params(("close" = Option<bool>, Query, description = "For raw bytes: whether the input ends after them.")),
    responses((status = 200, description = "The command has room for it.", body = Done, example = json!({"status": "written"})), InSandbox, JsonBody),
)]
pub(super) async fn stdin(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
    query: Query,
    request: Request,
) -> Reply {
    let named = request.headers().get(CONTENT_TYPE);
    let raw = named.is_some_and(|name| name.as_bytes().starts_with(b"application/octet-stream"));
    let (data, close) = if raw {
        let data = read_raw(request, front.json_limit).await?;
        (data, query.switch("close")?)
    } else {
        let Json(body) = Json::<StdinRequest>::from_request(request, &front).await?;
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
        let orchestrator = &front.orchestrator;
        orchestrator
            .exec_info(&caller, &target.id, target.exec_id)
            .await?;
    }
    if !data.is_empty() {
        tell(&front, &caller, &target, ExecControl::Stdin(data)).await?;
    }
    if close {
        tell(&front, &caller, &target, ExecControl::CloseStdin).await?;
    }
    Ok(done("written"))
}

/// Sends a signal to a running command's process group.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/signal", tag = "exec",
    request_body = SignalRequest,
    responses((status = 200, description = "It was sent.", body = Done, example = json!({"status": "signalled"})), InSandbox, JsonBody),
)]
pub(super) async fn signal(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
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
        &front,
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
    responses((status = 200, description = "It was told.", body = Done, example = json!({"status": "resized"})), InSandbox, JsonBody),
)]
pub(super) async fn resize(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
    Json(ResizeRequest { cols, rows }): Json<ResizeRequest>,
) -> Reply {
    if cols == 0 || rows == 0 {
        return Err(Failure::bad_request("cols and rows must be at least 1"));
    }
    let size = ExecControl::Resize(TtySize { cols, rows });
    tell(&front, &caller, &target, size).await?;
    Ok(done("resized"))
}

/// Waits for a detached command's end.
///
/// A wait that is over before the command answers with one whose `state` is `running`.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/wait", tag = "exec",
    operation_id = "wait_exec",
    params(("timeout" = Option<String>, Query, description = "How long to wait at most, like `30s`; to the end without it.")),
    responses((status = 200, description = "The command, ended or not.", body = ExecInfo), InSandbox),
)]
pub(super) async fn wait(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
    query: Query,
) -> Reply {
    let limit = match query.get("timeout")? {
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
    let info = front
        .orchestrator
        .wait_exec(&caller, &target.id, target.exec_id, limit);
    Ok(ok(&info.await?))
}

async fn tell(
    front: &Front,
    caller: &Caller,
    target: &ExecTarget,
    control: ExecControl,
) -> Result<(), Failure> {
    let told = front
        .orchestrator
        .tell_exec(caller, &target.id, target.exec_id, control);
    Ok(told.await?)
}

/// Waits for a detached command's end, for clients that would rather not GET for long.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/execs/{exec_id}/wait", tag = "exec",
    operation_id = "wait_exec_posted",
    params(("timeout" = Option<String>, Query, description = "How long to wait at most, like `30s`; to the end without it.")),
    responses((status = 200, description = "The command, ended or not.", body = ExecInfo), InSandbox),
)]
pub(super) async fn wait_posted(
    front: State<Shared>,
    target: ExecTarget,
    asker: Asker,
    query: Query,
) -> Reply {
    wait(front, target, asker, query).await
}
