//! The description of the API, made from the code: OpenAPI 3.1.
//!
//! Owns how routes are registered and what all of them have in common; what one route takes and
//! gives stands beside its handler. Its rule: a route comes in through [`Routes`] with its
//! description, or with the reason why it has none.
//!
//! To add a route:
//! 1. Put `#[utoipa::path(METHOD, path = "/api/v1/…", tag = "…", …)]` above the handler. The first
//!    line of its doc comment becomes the summary, the rest the description. The tag is one of
//!    those listed below; tag and function name (or `operation_id`) make the operation's id.
//! 2. In `responses(…)` name the success, and the groups of `failures.rs` that it can answer
//!    (`InSandbox, JsonBody`). 400, 401, 403, 429 and 500 are added to every route here.
//! 3. A body is `request_body = Type`, an answer `body = Type`, both deriving `utoipa::ToSchema`
//!    (in stacyvm-types behind its feature `openapi`). Give the type an example in `examples.rs`,
//!    or the route one of its own with `example = json!(…)`.
//! 4. Queries and headers are `params(("name" = Type, Query, description = "…"))`. Parameters of
//!    the path are added by `complete.rs`, and so is `X-User-ID` below the paths that it lists.
//! 5. Register it in `routes.rs` with `.add(routes!(module::handler))`, several methods of one
//!    path together; then `cargo xtask openapi` writes `openapi/stacyvm.json` anew. What ends only
//!    with its client is named in `STREAMS` of tests/e2e/python/test_openapi.py.

mod complete;
mod examples;
mod failures;
mod shapes;

use std::sync::LazyLock;

use axum::Router;
use axum::routing::MethodRouter;
use bytes::Bytes;
use serde_json::Value;
use stacyvm_types::{ApiError, Event, PullLine, StreamLine};
use utoipa::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

pub(crate) use self::failures::{
    Deadline, Destroying, FileBody, InSandbox, JsonBody, NoSuch, NotNow, OfImages, Planning, Range,
    Spawning, Taken,
};
pub(crate) use self::shapes::{
    Archive, Content, EventStream, ImageArchive, Lines, NoneYet, PullLines,
};
use crate::front::Shared;

/// What stands in the description whatever the routes are.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "StacyVM",
        description = "Isolated sandboxes for AI agents: make them, run commands in them, move \
            files in and out, destroy them.\n\n\
            A key, where one is configured, goes into `X-API-Key`; the owner into `X-User-ID`. \
            Every answer has `X-Request-ID`, the one that was sent or a new one. Errors are always \
            `{\"code\",\"message\"}`. Durations are Go's (`90s`, `1h30m`, `1.5h`); instants are \
            RFC 3339 in UTC. Unknown fields of a request are ignored, `null` means absent.",
        contact(name = "", url = ""),
        license(name = "MIT", identifier = "MIT")
    ),
    tags(
        (name = "sandboxes", description = "Make, find and end sandboxes."),
        (name = "exec", description = "Run commands."),
        (name = "files", description = "Files of a sandbox. Paths are absolute inside, or \
            relative to `/workspace`; links are resolved inside."),
        (name = "events", description = "What happens, as it happens."),
        (name = "images", description = "What sandboxes are made from."),
        (name = "templates", description = "Saved specifications of sandboxes."),
        (name = "snapshots", description = "Saved states of sandboxes."),
        (name = "providers", description = "What makes the sandboxes."),
        (name = "pool", description = "Many users in one machine."),
        (name = "quotas", description = "Limits per owner."),
        (name = "auth", description = "Tickets for browsers."),
        (name = "system", description = "How the server is, and its description."),
    ),
    components(schemas(ApiError, Event, PullLine, StreamLine))
)]
struct Frame;

/// The document as `/openapi.json` answers it; the same for the life of the process.
pub(crate) static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| document().to_string().into_bytes().into());

/// The description of every route, complete.
pub(crate) fn document() -> Value {
    let description = crate::routes::all().known.into_openapi();
    let document = serde_json::to_value(description).expect("a description is always JSON");
    complete::complete(document)
}

/// Routes with their descriptions. There is no other way to the router of the server.
pub(crate) struct Routes {
    known: OpenApiRouter<Shared>,
    /// Paths without a description, and why they have none; the tests know the whole list.
    #[cfg_attr(not(test), allow(dead_code))]
    unlisted: Vec<(String, &'static str)>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self {
            known: OpenApiRouter::with_openapi(Frame::openapi()),
            unlisted: Vec::new(),
        }
    }

    /// Adds the methods of one path, as `routes!(…)` has collected them.
    pub(crate) fn add(mut self, routes: UtoipaMethodRouter<Shared>) -> Self {
        self.known = self.known.routes(routes);
        self
    }

    /// The same, and with a slash at the end too.
    pub(crate) fn collection(self, routes: UtoipaMethodRouter<Shared>) -> Self {
        let path = routes.1.paths.keys().next();
        let alias = format!("{}/", path.map_or("", String::as_str));
        let methods = routes.2.clone();
        self.add(routes)
            .unlisted(&alias, methods, "the same with a slash at the end")
    }

    /// Adds a route that is no part of the description.
    pub(crate) fn unlisted(
        mut self,
        path: &str,
        methods: MethodRouter<Shared>,
        why: &'static str,
    ) -> Self {
        self.known = self.known.route(path, methods);
        self.unlisted.push((path.to_owned(), why));
        self
    }

    pub(crate) fn into_router(self) -> Router<Shared> {
        self.known.into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
