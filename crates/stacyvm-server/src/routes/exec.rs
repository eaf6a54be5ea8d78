//! Running commands: to the end, or streamed.

use axum::body::Body;
use axum::extract::State;
use http::StatusCode;
use stacyvm_types::{ExecId, ExecInfo, ExecRequest, ExecResponse};

use super::execs;
use crate::attach::AttachOptions;
use crate::body::JsonBytes;
use crate::error::Reply;
use crate::ndjson::exec_body;
use crate::openapi::failures::{JsonBodyErrors, SandboxErrors, TimeoutErrors};
use crate::openapi::shapes::NdjsonLines;
use crate::owner::RequestCaller;
use crate::response::{exec_stream, json, ok};
use crate::state::SharedState;
use crate::target::Target;

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
            content((ExecResponse = "application/json"), (NdjsonLines = "application/x-ndjson")),
        ),
        (status = 201, description = "It runs, detached.", body = ExecInfo),
        SandboxErrors,
        JsonBodyErrors,
        TimeoutErrors,
    ),
)]
pub(super) async fn run(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    body: JsonBytes,
) -> Reply {
    let request: ExecRequest = body.parse()?;
    drop(body);
    if request.detach == Some(true) {
        let stream = request.stream.unwrap_or(false);
        let info = state
            .orchestrator
            .exec_detached(&caller, &id, request, None)
            .await?;
        return if stream {
            execs::follow(&state, &caller, &id, info.exec_id, AttachOptions::default()).await
        } else {
            Ok(json(StatusCode::CREATED, &info))
        };
    }
    if !request.stream.unwrap_or(false) {
        let response = state.orchestrator.exec_captured(&caller, &id, request);
        return Ok(ok(&response.await?));
    }
    let running = state.orchestrator.exec(&caller, &id, request).await?;
    let exec_id = ExecId(running.exec_id);
    let body = Body::new(exec_body(running, state.cut()));
    Ok(exec_stream(exec_id, body))
}
