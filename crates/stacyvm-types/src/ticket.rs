//! Tickets: what a browser sends once instead of the key, where it cannot set headers.

use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// The body of POST `/tickets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TicketRequest {
    /// The ticket is good at and below this path; absent means wherever tickets are taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// The answer of POST `/tickets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ticket {
    /// For `?ticket=`; good once.
    pub ticket: String,
    /// When it stops being good.
    pub expires_at: Timestamp,
}
