//! Running commands: to the end, or streamed.

use axum::body::Body;
use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, header};
use serde::Deserialize;
use stacyvm_types::ExecRequest;

use super::ok;
use crate::body::JsonBytes;
use crate::error::{Failure, Reply};
use crate::front::Shared;
use crate::ndjson::ExecBody;
use crate::owner::Asker;
use crate::target::Target;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Asks proxies not to collect the stream.
const UNBUFFERED: (header::HeaderName, HeaderValue) = (
    header::HeaderName::from_static("x-accel-buffering"),
    HeaderValue::from_static("no"),
);

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

pub(super) fn no_detached() -> Failure {
    Failure::unsupported("detached execs (detach) are not supported by this version")
}

/// Everything under `/execs`.
pub(super) async fn detached() -> Failure {
    no_detached()
}
