//! Commands that outlive their request: listed, followed, fed, signalled, waited for.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request, State};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::Deserialize;
use stacyvm_orchestrator::Caller;
use stacyvm_provider::ops::{ExecControl, Signal, TtySize};
use stacyvm_types::{ExecId, GoDuration, SandboxId};

use super::exec::streamed;
use super::{done, ok};
use crate::attach::{AttachBody, Encoding, Lines};
use crate::body::{Json, read_raw};
use crate::error::{Failure, Reply};
use crate::front::{Front, Shared};
use crate::owner::Asker;
use crate::query::Query;
use crate::signal;
use crate::target::Target;

/// The `{id}` and `{exec_id}` of a path, well formed.
pub(crate) struct ExecTarget {
    pub(crate) id: String,
    pub(crate) exec_id: ExecId,
}

impl<S: Send + Sync> FromRequestParts<S> for ExecTarget {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((id, exec_id)) =
            path.map_err(|_| Failure::not_found("the path has a part that is not UTF-8"))?;
        let id = SandboxId::try_from(id).map_err(|_| {
            Failure::not_found(
                "sandbox not found: an id is \"sb-\" and 8 lower-case hexadecimal digits",
            )
        })?;
        let exec_id = exec_id
            .parse()
            .map_err(|error| Failure::not_found(format!("exec not found: {error}")))?;
        Ok(Self {
            id: id.into(),
            exec_id,
        })
    }
}

pub(super) async fn list(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
) -> Reply {
    Ok(ok(&front.orchestrator.execs(&caller, &id).await?))
}

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

/// Kills the whole tree; one that has ended already is as good.
pub(super) async fn kill(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
) -> Reply {
    let (id, exec_id) = (&target.id, target.exec_id);
    let info = front.orchestrator.exec_info(&caller, id, exec_id).await?;
    if info.exit_code.is_none() {
        tell(&front, &caller, &target, ExecControl::Kill).await?;
    }
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

pub(super) async fn attach(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
    query: Query,
) -> Reply {
    let wanted = Wanted::of(&query)?;
    follow(&front, &caller, &target.id, target.exec_id, wanted).await
}

/// Answers with a command's output as it comes.
pub(super) async fn follow(
    front: &Front,
    caller: &Caller,
    id: &str,
    exec_id: ExecId,
    wanted: Wanted,
) -> Reply {
    let attached = front
        .orchestrator
        .attach_exec(caller, id, exec_id, wanted.offset, wanted.follow)
        .await?;
    let lines = Lines::new(wanted.offset, wanted.encoding);
    let body = Body::new(AttachBody::new(attached, lines, front.cut()));
    Ok(streamed(exec_id, body))
}

#[derive(Deserialize)]
struct Stdin {
    #[serde(default)]
    data: Option<String>,
    #[serde(default)]
    data_b64: Option<String>,
    #[serde(default)]
    close: Option<bool>,
}

/// Input, as JSON or, with the content type for it, as raw bytes; `close` ends it.
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
        let Json(body) = Json::<Stdin>::from_request(request, &front).await?;
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
    if !data.is_empty() {
        tell(&front, &caller, &target, ExecControl::Stdin(data)).await?;
    }
    if close {
        tell(&front, &caller, &target, ExecControl::CloseStdin).await?;
    }
    Ok(done("written"))
}

#[derive(Deserialize)]
pub(super) struct Signalled {
    signal: signal::Named,
}

pub(super) async fn signal(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
    Json(body): Json<Signalled>,
) -> Reply {
    let number = body.signal.number()?;
    tell(
        &front,
        &caller,
        &target,
        ExecControl::Signal(Signal(number)),
    )
    .await?;
    Ok(done("signalled"))
}

#[derive(Deserialize)]
pub(super) struct Resized {
    cols: u16,
    rows: u16,
}

pub(super) async fn resize(
    State(front): State<Shared>,
    target: ExecTarget,
    Asker(caller): Asker,
    Json(Resized { cols, rows }): Json<Resized>,
) -> Reply {
    if cols == 0 || rows == 0 {
        return Err(Failure::bad_request("cols and rows must be at least 1"));
    }
    let size = ExecControl::Resize(TtySize { cols, rows });
    tell(&front, &caller, &target, size).await?;
    Ok(done("resized"))
}

/// Waits for the end; a wait that is over first answers with a command that still runs.
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
