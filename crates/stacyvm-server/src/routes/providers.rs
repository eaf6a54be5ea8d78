//! The configured providers and their health.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use stacyvm_types::ProviderInfo;
use utoipa::ToSchema;

use crate::error::Reply;
use crate::openapi::failures::NotFoundErrors;
use crate::response::ok;
use crate::state::SharedState;
use crate::target::RawTarget;

/// Lists the providers, sorted by name. Exactly one is the default.
#[utoipa::path(
    get, path = "/api/v1/providers", tag = "providers",
    responses((status = 200, description = "The providers.", body = Vec<ProviderInfo>)),
)]
pub(super) async fn list(State(state): State<SharedState>) -> Reply {
    Ok(ok(&state.orchestrator.providers().await))
}

/// What GET `/providers/{name}` adds to the listing.
#[derive(Serialize, ToSchema)]
#[schema(as = ProviderDetail)]
struct Detail<'a> {
    #[serde(flatten)]
    info: &'a ProviderInfo,
    /// Sandboxes alive here.
    sandbox_count: u64,
    /// What the provider really uses; never a secret.
    config: BTreeMap<&'static str, &'a str>,
    /// What this machine does not let it do, for people to read.
    degradations: &'a [String],
}

/// Shows one provider and how it is configured.
#[utoipa::path(
    get, path = "/api/v1/providers/{name}", tag = "providers",
    responses((status = 200, description = "The provider.", body = Detail), NotFoundErrors),
)]
pub(super) async fn get(State(state): State<SharedState>, RawTarget(name): RawTarget) -> Reply {
    let detail = state.orchestrator.provider(&name).await?;
    Ok(ok(&Detail {
        info: &detail.info,
        sandbox_count: detail.sandbox_count,
        config: BTreeMap::from([("default_image", detail.default_image.as_str())]),
        degradations: &detail.degradations,
    }))
}

/// Checks every provider now.
#[utoipa::path(
    post, path = "/api/v1/providers/test", tag = "providers",
    responses(
        (
            status = 200,
            description = "Which are healthy.",
            body = BTreeMap<String, bool>,
            example = json!({"mock": true, "native": true}),
        ),
    ),
)]
pub(super) async fn test(State(state): State<SharedState>) -> Reply {
    Ok(ok(&state.orchestrator.test_providers().await))
}
