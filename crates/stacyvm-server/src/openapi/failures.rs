//! Failures in groups that routes name. Each kind of failure is described once, under
//! `components/responses`; routes refer to it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use stacyvm_types::{ApiError, ErrorCode};
use utoipa::IntoResponses;
use utoipa::openapi::{Ref, RefOr, Response};

use crate::error::status;

/// One kind of failure: its code, its HTTP status, when it happens and an example of its message.
pub(super) struct Kind {
    name: &'static str,
    status: u16,
    code: ErrorCode,
    when: &'static str,
    example: &'static str,
}

/// The status of a kind is that of its code.
const fn kind(
    name: &'static str,
    code: ErrorCode,
    when: &'static str,
    example: &'static str,
) -> Kind {
    Kind {
        name,
        status: status(code).as_u16(),
        code,
        when,
        example,
    }
}

const BAD_REQUEST: Kind = kind(
    "BadRequest",
    ErrorCode::BadRequest,
    "Malformed JSON, a missing or invalid field, header or query parameter.",
    "invalid duration \"1d\": the units are ns, us, ms, s, m and h, write it like 30s, 5m or 1h30m",
);
const UNAUTHORIZED: Kind = kind(
    "Unauthorized",
    ErrorCode::Unauthorized,
    "A key is configured, and the request has none or a wrong one.",
    "the API key is wrong",
);
const FORBIDDEN: Kind = kind(
    "Forbidden",
    ErrorCode::Forbidden,
    "The `Host` or the `Origin` is refused while no key is configured, or the key lacks the scope.",
    "this host name is refused because authentication is off: call the server as localhost or by \
     its address, add the name to server.allowed_hosts, or set auth.api_key",
);
const NOT_FOUND: Kind = kind(
    "NotFound",
    ErrorCode::NotFound,
    "What the request names does not exist, does not exist any more, or belongs to another owner.",
    "sandbox \"sb-0123abcd\" not found",
);
const TIMEOUT: Kind = kind(
    "Timeout",
    ErrorCode::Timeout,
    "The command hit its deadline; its whole process tree is gone.",
    "exec timeout: the command ran longer than 30s",
);
const CONFLICT: Kind = kind(
    "Conflict",
    ErrorCode::Conflict,
    "It exists already, or is not in a state for this.",
    "sandbox sb-0123abcd is still being created",
);
const PAYLOAD_TOO_LARGE: Kind = kind(
    "PayloadTooLarge",
    ErrorCode::PayloadTooLarge,
    "The body is over the limit: 4 MiB for JSON, 1 GiB for files and archives, 16 GiB for images.",
    "the request body is longer than 4 MiB",
);
const RANGE: Kind = Kind {
    name: "RangeNotSatisfiable",
    status: 416,
    code: ErrorCode::BadRequest,
    when: "The file has no byte in the asked range.",
    example: "the file has no byte in the asked range",
};
const UNSUPPORTED: Kind = kind(
    "Unsupported",
    ErrorCode::Unsupported,
    "The provider cannot do this; the message names the capability.",
    "provider mock does not support network",
);
const RESOURCE_LIMIT: Kind = kind(
    "ResourceLimit",
    ErrorCode::ResourceLimit,
    "A limit, a quota or a queue said no, or there were too many requests.",
    "ttl 48h0m0s is over the limit of 24h0m0s",
);
const INTERNAL_ERROR: Kind = kind(
    "InternalError",
    ErrorCode::InternalError,
    "Our fault; the log has the detail under the request id.",
    "internal error, the server's log has the detail under this request's id",
);
const PROVIDER_ERROR: Kind = kind(
    "ProviderError",
    ErrorCode::ProviderError,
    "The backend failed.",
    "provider native: the sandbox does not answer",
);
const UNAVAILABLE: Kind = kind(
    "Unavailable",
    ErrorCode::Unavailable,
    "The provider is not healthy or not configured, or the server is shutting down.",
    "the server is shutting down",
);

const ALL: [&Kind; 13] = [
    &BAD_REQUEST,
    &UNAUTHORIZED,
    &FORBIDDEN,
    &NOT_FOUND,
    &TIMEOUT,
    &CONFLICT,
    &PAYLOAD_TOO_LARGE,
    &RANGE,
    &UNSUPPORTED,
    &RESOURCE_LIMIT,
    &INTERNAL_ERROR,
    &PROVIDER_ERROR,
    &UNAVAILABLE,
];

/// What every route can answer.
pub(super) const EVERYWHERE: [&Kind; 3] = [&BAD_REQUEST, &FORBIDDEN, &INTERNAL_ERROR];
/// What every route that asks for the key can answer beside that.
pub(super) const GUARDED: [&Kind; 2] = [&UNAUTHORIZED, &RESOURCE_LIMIT];

impl Kind {
    /// The key and the value in a route's `responses`.
    pub(super) fn entry(&self) -> (String, Value) {
        let place = format!("#/components/responses/{}", self.name);
        (self.status.to_string(), json!({ "$ref": place }))
    }

    fn described(&self) -> Value {
        let error = ApiError::new(self.code, self.example);
        let mut described = json!({
            "description": self.when,
            "content": {"application/json": {
                "schema": {
                    "allOf": [{"$ref": "#/components/schemas/ApiError"}],
                    "properties": {"code": {"const": self.code}},
                },
                "example": error,
            }},
        });
        if self.code == ErrorCode::ResourceLimit {
            described["headers"] = json!({"Retry-After": {
                "description": "Seconds to wait, where waiting helps.",
                "schema": {"type": "integer", "minimum": 0},
            }});
        }
        described
    }
}

/// `components/responses`.
pub(super) fn components() -> Map<String, Value> {
    let described = |kind: &&Kind| (kind.name.to_owned(), kind.described());
    ALL.iter().map(described).collect()
}

/// Groups of failures, each a type that a route names in its `responses(…)`.
macro_rules! groups {
    ($($(#[doc = $doc:literal])* $group:ident = $($kind:ident)*;)*) => {$(
        $(#[doc = $doc])*
        pub(crate) struct $group;

        impl IntoResponses for $group {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                let kinds = [$(&$kind),*];
                kinds
                    .into_iter()
                    .map(|kind| {
                        let place = Ref::from_response_name(kind.name);
                        (kind.status.to_string(), RefOr::Ref(place))
                    })
                    .collect()
            }
        }
    )*};
}

groups! {
    /// The route names something that may not be there.
    NotFoundErrors = NOT_FOUND;
    /// The route changes something, which a server that is shutting down does not.
    UnavailableErrors = UNAVAILABLE;
    /// The route does something in a sandbox that must be running.
    SandboxErrors = NOT_FOUND CONFLICT UNSUPPORTED RESOURCE_LIMIT PROVIDER_ERROR UNAVAILABLE;
    /// The route says whether a sandbox would be made; a limit is no failure there.
    AdmissionErrors = NOT_FOUND UNSUPPORTED UNAVAILABLE;
    /// The route makes a sandbox.
    SpawnErrors = NOT_FOUND CONFLICT UNSUPPORTED RESOURCE_LIMIT PROVIDER_ERROR UNAVAILABLE;
    /// The route does something with images.
    ImageErrors = NOT_FOUND UNSUPPORTED RESOURCE_LIMIT PROVIDER_ERROR UNAVAILABLE;
    /// The route destroys a sandbox.
    DestroyErrors = NOT_FOUND PROVIDER_ERROR UNAVAILABLE;
    /// The route makes something that may be there already.
    ConflictErrors = CONFLICT;
    /// The route takes JSON.
    JsonBodyErrors = PAYLOAD_TOO_LARGE;
    /// The route takes a file or an archive.
    FileBodyErrors = PAYLOAD_TOO_LARGE;
    /// The route runs a command to its end.
    TimeoutErrors = TIMEOUT;
    /// The route gives part of a file.
    RangeErrors = RANGE;
}
