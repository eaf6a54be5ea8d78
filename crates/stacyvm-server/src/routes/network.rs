//! The network of a sandbox, and the hosts that it may reach.

use axum::extract::State;
use stacyvm_types::{NetworkInfo, NetworkRules};

use crate::body::Json;
use crate::error::Reply;
use crate::openapi::failures::{JsonBodyErrors, SandboxErrors};
use crate::owner::RequestCaller;
use crate::response::ok;
use crate::state::SharedState;
use crate::target::Target;

/// Shows how a sandbox is connected.
#[utoipa::path(
    get, path = "/api/v1/sandboxes/{id}/network", tag = "sandboxes", operation_id = "network",
    responses((status = 200, description = "Its network.", body = NetworkInfo), SandboxErrors),
)]
pub(super) async fn get(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
) -> Reply {
    Ok(ok(&state.orchestrator.network(&caller, &id).await?))
}

/// Changes what a sandbox with a network may reach, at once.
///
/// Connections to servers that are no longer allowed end. Whether there is a network is chosen
/// when the sandbox is made.
#[utoipa::path(
    put, path = "/api/v1/sandboxes/{id}/network", tag = "sandboxes", operation_id = "set_network",
    request_body = NetworkRules,
    responses(
        (status = 200, description = "Its network.", body = NetworkInfo),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn set(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Json(rules): Json<NetworkRules>,
) -> Reply {
    Ok(ok(&state
        .orchestrator
        .set_network(&caller, &id, rules)
        .await?))
}
