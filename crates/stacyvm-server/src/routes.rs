//! Which path leads where. Every route stands here, so that the whole surface is seen at once.

mod archive;
mod exec;
mod exec_ws;
mod files;
mod metrics;
mod providers;
mod sandboxes;
mod system;
mod templates;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde::Serialize;

use crate::body::JSON;
use crate::front::Shared;

pub(crate) fn all() -> Router<Shared> {
    let sandboxes = || {
        get(sandboxes::list)
            .post(sandboxes::spawn)
            .delete(sandboxes::prune)
    };
    let templates = || get(templates::list).post(templates::refuse);
    let archive = get(archive::read).put(archive::write);
    Router::new()
        .route("/api/v1/sandboxes", sandboxes())
        .route("/api/v1/sandboxes/", sandboxes())
        .route("/api/v1/sandboxes/admission", post(sandboxes::admission))
        .route(
            "/api/v1/sandboxes/{id}",
            get(sandboxes::get).delete(sandboxes::destroy),
        )
        .route("/api/v1/sandboxes/{id}/extend", post(sandboxes::extend))
        .route("/api/v1/sandboxes/{id}/stats", get(sandboxes::stats))
        .route("/api/v1/sandboxes/{id}/logs", get(sandboxes::logs))
        .route("/api/v1/sandboxes/{id}/exec", post(exec::run))
        .route("/api/v1/sandboxes/{id}/exec/ws", get(exec_ws::open))
        .route("/api/v1/sandboxes/{id}/execs", any(exec::detached))
        .route("/api/v1/sandboxes/{id}/execs/{*rest}", any(exec::detached))
        .route(
            "/api/v1/sandboxes/{id}/files",
            get(files::read).post(files::write).delete(files::remove),
        )
        .route("/api/v1/sandboxes/{id}/files/list", get(files::list))
        .route("/api/v1/sandboxes/{id}/files/move", post(files::rename))
        .route("/api/v1/sandboxes/{id}/files/chmod", post(files::chmod))
        .route("/api/v1/sandboxes/{id}/files/stat", get(files::stat))
        .route("/api/v1/sandboxes/{id}/files/glob", get(files::glob))
        .route("/api/v1/sandboxes/{id}/files/mkdir", post(files::mkdir))
        .route("/api/v1/sandboxes/{id}/files/archive", archive)
        .route("/api/v1/providers", get(providers::list))
        .route("/api/v1/providers/", get(providers::list))
        .route("/api/v1/providers/test", post(providers::test))
        .route("/api/v1/providers/{name}", get(providers::get))
        .route("/api/v1/templates", templates())
        .route("/api/v1/templates/", templates())
        .route("/api/v1/templates/{*rest}", any(templates::refuse))
        .route("/api/v1/pool/status", get(system::pool))
        .route("/api/v1/snapshots", get(system::snapshots))
        .route("/api/v1/snapshots/", get(system::snapshots))
        .route("/api/v1/quotas/summary", get(system::quotas))
        .route("/api/v1/health", get(system::health))
        .route("/api/v1/live", get(system::live))
        .route("/api/v1/ready", get(system::ready))
        .route("/api/v1/metrics", get(metrics::json))
        .route("/api/v1/metrics/prometheus", get(metrics::prometheus))
}

/// An answer in compact JSON.
fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut bytes = Vec::with_capacity(512);
    serde_json::to_writer(&mut bytes, body).expect("our own answers are always JSON");
    (status, [(header::CONTENT_TYPE, JSON)], bytes).into_response()
}

fn ok(body: &impl Serialize) -> Response {
    json(StatusCode::OK, body)
}

/// `{"status": word}`
fn done(word: &'static str) -> Response {
    #[derive(Serialize)]
    struct Done {
        status: &'static str,
    }
    ok(&Done { status: word })
}
