//! Running commands: to the end, or streamed.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use stacyvm_types::{ExecId, ExecInfo, ExecRequest, ExecResponse};

use super::execs::{self, Wanted};
use super::{NDJSON, json, ok};
use crate::body::JsonBytes;
use crate::error::Reply;
use crate::front::Shared;
use crate::ndjson::exec_body;
use crate::openapi::{Deadline, InSandbox, JsonBody, Lines};
use crate::owner::Asker;
use crate::target::Target;

/// Names the exec of a streamed answer.
const EXEC_ID: HeaderName = HeaderName::from_static("x-exec-id");

/// Runs a command, to its end, streamed, or detached.
///
/// A non-zero exit code is still 200; death by signal N is 128+N. With `stream` the answer is
/// NDJSON while it runs, and a client that goes away ends the command. With `detach` the command
/// outlives its request: the answer names it, or with `stream` too follows it.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/exec", tag = "exec",
    request_body = ExecRequest,
    responses(
        (
            status = 200,
            description = "It ran, or runs and streams.",
            headers(("X-Exec-ID" = ExecId, description = "Which exec a stream is of.")),
            content((ExecResponse = "application/json"), (Lines = "application/x-ndjson")),
        ),
        (status = 201, description = "It runs, detached.", body = ExecInfo),
        InSandbox,
        JsonBody,
        Deadline,
    ),
)]
pub(super) async fn run(
    State(front): State<Shared>,
    Target(id): Target,
    Asker(caller): Asker,
    body: JsonBytes,
) -> Reply {
    let request: ExecRequest = body.parse()?;
    drop(body);
    if request.detach == Some(true) {
        let stream = request.stream.unwrap_or(false);
        let info = front
            .orchestrator
            .exec_detached(&caller, &id, request, None)
            .await?;
        return if stream {
            execs::follow(&front, &caller, &id, info.exec_id, Wanted::default()).await
        } else {
            Ok(json(StatusCode::CREATED, &info))
        };
    }
    if !request.stream.unwrap_or(false) {
        let response = front.orchestrator.exec_captured(&caller, &id, request);
        return Ok(ok(&response.await?));
    }
    let running = front.orchestrator.exec(&caller, &id, request).await?;
    let exec_id = ExecId(running.exec_id);
    let body = Body::new(exec_body(running, front.cut()));
    Ok(streamed(exec_id, body))
}

/// An NDJSON answer that goes on for as long as its command.
pub(super) fn streamed(exec_id: ExecId, body: Body) -> Response {
    let id = HeaderValue::from_str(&exec_id.to_string()).expect("an id is plain ASCII");
    let mut response = super::streamed(NDJSON, body);
    response.headers_mut().insert(EXEC_ID, id);
    response
}
