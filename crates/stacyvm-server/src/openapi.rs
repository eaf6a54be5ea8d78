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
//!    (`SandboxErrors, JsonBodyErrors`). 400, 401, 403, 429 and 500 are added to every route here.
//! 3. A body is `request_body = Type`, an answer `body = Type`, both deriving `utoipa::ToSchema`.
//!    Types that a client sends or reads stand in stacyvm-types, behind its feature `openapi`. Give
//!    the type an example in `examples.rs`, or the route one of its own with `example = json!(…)`.
//! 4. A query is a type of stacyvm-types that derives `utoipa::IntoParams`: `params(ItsQuery)` here
//!    and `Query<ItsQuery>` in the handler. Headers are `params(("name" = Type, Header, …))`.
//!    Parameters of the path are added by `complete.rs`, and so is `X-User-ID` below the paths that
//!    it lists.
//! 5. Register it in `routes.rs` with `.add(routes!(module::handler))`, several methods of one
//!    path together; then `cargo xtask openapi` writes `openapi/stacyvm.json` anew. What ends only
//!    with its client is named in `STREAMS` of tests/e2e/python/test_openapi.py.

mod complete;
mod examples;
pub(crate) mod failures;
pub(crate) mod routes;
pub(crate) mod shapes;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use serde_json::Value;

use self::routes::Routes;

/// The description of these routes, complete.
pub(crate) fn document(routes: Routes) -> Value {
    let description = routes.into_openapi();
    let document = serde_json::to_value(description).expect("a description is always JSON");
    complete::complete(document)
}
