//! The query of the event stream.

use serde::{Deserialize, Serialize};

/// The query of GET `/events`: what the stream is narrowed to, and where it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "openapi",
    derive(utoipa::IntoParams),
    into_params(parameter_in = Query)
)]
pub struct EventsQuery {
    /// Only these: types separated by commas, or like `sandbox.*`; may be there several times.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", param(value_type = Option<String>))]
    pub types: Vec<String>,
    /// Only events of this sandbox.
    #[cfg_attr(feature = "openapi", param(value_type = Option<crate::id::SandboxId>))]
    pub sandbox_id: Option<String>,
    /// Go on after this event; `evt-0` means everything that is kept. The header `Last-Event-ID`
    /// wins.
    pub last_event_id: Option<String>,
}
