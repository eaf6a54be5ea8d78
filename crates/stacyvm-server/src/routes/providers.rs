//! The backends and how they are.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use stacyvm_types::ProviderInfo;

use super::ok;
use crate::error::Reply;
use crate::front::Shared;
use crate::target::RawTarget;

pub(super) async fn list(State(front): State<Shared>) -> Reply {
    Ok(ok(&front.orchestrator.providers().await))
}

/// What GET `/providers/{name}` adds to the listing.
#[derive(Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    info: &'a ProviderInfo,
    sandbox_count: u64,
    /// What the provider really uses; never a secret.
    config: BTreeMap<&'static str, &'a str>,
    degradations: &'a [String],
}

pub(super) async fn get(State(front): State<Shared>, RawTarget(name): RawTarget) -> Reply {
    let detail = front.orchestrator.provider(&name).await?;
    Ok(ok(&Detail {
        info: &detail.info,
        sandbox_count: detail.sandbox_count,
        config: BTreeMap::from([("default_image", detail.default_image.as_str())]),
        degradations: &detail.degradations,
    }))
}

pub(super) async fn test(State(front): State<Shared>) -> Reply {
    Ok(ok(&front.orchestrator.test_providers().await))
}
