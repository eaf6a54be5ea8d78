//! How routes get into the router, each with its description or with the reason why it has none.

use axum::Router;
use axum::routing::MethodRouter;
use stacyvm_types::{ApiError, Event, PullLine, StreamLine};
use utoipa::OpenApi;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::state::SharedState;

/// The part of the description that does not depend on the routes.
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
struct Common;

/// Routes with their descriptions. There is no other way to the router of the server.
pub(crate) struct Routes {
    known: OpenApiRouter<SharedState>,
    /// Paths without a description, and why they have none; the tests know the whole list.
    #[cfg_attr(not(test), allow(dead_code))]
    unlisted: Vec<(String, &'static str)>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self {
            known: OpenApiRouter::with_openapi(Common::openapi()),
            unlisted: Vec::new(),
        }
    }

    /// Adds the methods of one path, as `routes!(…)` has collected them.
    pub(crate) fn add(mut self, routes: UtoipaMethodRouter<SharedState>) -> Self {
        self.known = self.known.routes(routes);
        self
    }

    /// The same, and with a slash at the end too.
    pub(crate) fn collection(self, routes: UtoipaMethodRouter<SharedState>) -> Self {
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
        methods: MethodRouter<SharedState>,
        why: &'static str,
    ) -> Self {
        self.known = self.known.route(path, methods);
        self.unlisted.push((path.to_owned(), why));
        self
    }

    /// The description of the routes without what all of them have in common.
    pub(super) fn into_openapi(self) -> utoipa::openapi::OpenApi {
        self.known.into_openapi()
    }

    #[cfg(test)]
    pub(super) fn unlisted_paths(&self) -> Vec<&str> {
        self.unlisted
            .iter()
            .map(|(path, _)| path.as_str())
            .collect()
    }

    pub(crate) fn into_router(self) -> Router<SharedState> {
        self.known.into()
    }
}
