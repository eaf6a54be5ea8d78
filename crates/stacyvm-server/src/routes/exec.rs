//! Running commands: to the end, or streamed.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, header};
use serde::Deserialize;
use stacyvm_types::{ExecRequest, ExecResponse};

use super::ok;
use crate::body::JsonBytes;
use crate::error::{Failure, Reply};
use crate::front::Shared;
use crate::ndjson::ExecBody;
use crate::openapi::{Deadline, InSandbox, JsonBody, Lines};
use crate::owner::Asker;
use crate::target::Target;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Asks proxies not to collect the stream.
const UNBUFFERED: (header::HeaderName, HeaderValue) = (
    header::HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

/// Runs a command, to its end or streamed.
///
/// A non-zero exit code is still 200; death by signal N is 128+N. With `stream` the answer is
/// NDJSON while it runs, and a client that goes away ends the command.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/exec", tag = "exec",
    request_body = ExecRequest,
    responses(
        (
            status = 200,
            description = "It ran, or runs and streams.",
            content((ExecResponse = "application/json"), (Lines = "application/x-ndjson")),
        ),
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
    refuse_detached(&body)?;
    let request: ExecRequest = body.parse()?;
    drop(body);
    if !request.stream.unwrap_or(false) {
        let response = front.orchestrator.exec_captured(&caller, &id, request);
        return Ok(ok(&response.await?));
    }
    let running = front.orchestrator.exec(&caller, &id, request).await?;
    let body = Body::new(ExecBody::new(running, front.cut()));
    let headers = [
        (header::CONTENT_TYPE, NDJSON),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        UNBUFFERED,
    ];
    Ok((headers, body).into_response())
}

/// Refuses what would otherwise be ignored: a command that is meant to outlive its request.
fn refuse_detached(body: &JsonBytes) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Detach {
        #[serde(default)]
        detach: Option<bool>,
    }
    let named = body.0.windows(8).any(|window| window == b"\"detach\"");
    if named && body.parse::<Detach>()?.detach == Some(true) {
        return Err(no_detached());
    }
    Ok(())
}

fn no_detached() -> Failure {
    Failure::unsupported("detached execs (detach) are not supported by this version")
}

/// GET `/exec/ws`.
pub(super) async fn socket(Target(_): Target) -> Failure {
    Failure::unsupported(
        "exec over WebSocket is not supported by this version, use POST exec with \"stream\":true",
    )
}

/// Everything under `/execs`.
pub(super) async fn detached() -> Failure {
    no_detached()
}
