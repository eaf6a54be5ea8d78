//! What the sandbox routes take beside a spawn, and their small answers.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use serde::{Deserialize, Serialize};

use crate::id::OwnerId;
use crate::sandbox::state::SandboxState;

/// The query of GET `/sandboxes`: what the list is narrowed to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct ListSandboxesQuery {
    /// Only those in this state.
    pub state: Option<SandboxState>,
    /// Only those of this owner.
    pub owner: Option<OwnerId>,
    /// Only those whose label KEY, any name, has this value.
    #[cfg_attr(
        feature = "openapi",
        param(rename = "metadata.KEY", value_type = Option<String>)
    )]
    pub metadata: BTreeMap<String, String>,
}

/// The query of GET `/sandboxes/{id}/logs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct LogsQuery {
    /// How many lines; 100 when absent.
    #[cfg_attr(feature = "openapi", param(value_type = Option<u32>, minimum = 1))]
    pub lines: Option<NonZeroUsize>,
    /// Whether to go on with what comes, as NDJSON of `{"line":…}`; `{"skipped":BYTES}` tells a
    /// slow reader what it missed.
    pub follow: Option<bool>,
}

/// The body of POST `/sandboxes/{id}/extend`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExtendRequest {
    /// How long from now; a Go duration over zero.
    pub ttl: String,
}

/// The answer of DELETE `/sandboxes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PruneResult {
    /// How many expired sandboxes were destroyed.
    pub pruned: u64,
}
