//! Links to ports of sandboxes. The links are opened by the preview, not by a route.

use axum::extract::State;
use axum::response::IntoResponse;
use http::{HeaderValue, StatusCode, header};
use stacyvm_types::{ErrorCode, GoDuration, PreviewLink, PreviewLinkRequest, Timestamp};

use crate::body::Json;
use crate::error::{Failure, Reply};
use crate::openapi::failures::{JsonBodyErrors, SandboxErrors};
use crate::owner::RequestCaller;
use crate::response::json;
use crate::state::SharedState;
use crate::target::Target;

/// Gives out the way to a port of a sandbox in a browser.
///
/// The link of a private preview opens it for whoever has the link, until it expires: it sets a
/// cookie for the one host name and leaves the address bar. Programs send its `stacyvm_token` as
/// `X-StacyVM-Preview-Token`. A public preview needs no link, and gets its bare address. Nothing
/// needs to listen on the port yet.
#[utoipa::path(
    post, path = "/api/v1/sandboxes/{id}/preview", tag = "sandboxes", operation_id = "preview_link",
    request_body = PreviewLinkRequest,
    responses(
        (status = 200, description = "The link.", body = PreviewLink),
        SandboxErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn link(
    State(state): State<SharedState>,
    Target(id): Target,
    RequestCaller(caller): RequestCaller,
    Json(PreviewLinkRequest { port, expires_in }): Json<PreviewLinkRequest>,
) -> Reply {
    let sandbox = state.orchestrator.get(&caller, &id).await?;
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| Failure::bad_request("port must be from 1 to 65535"))?;
    let Some(access) = &state.access else {
        return Err(Failure::new(
            ErrorCode::Unsupported,
            "this server has no previews",
        ));
    };
    let settings = access.settings();
    let life = match &expires_in {
        None => settings.lifetime,
        Some(text) => {
            let life: GoDuration = text
                .parse()
                .map_err(|error| Failure::bad_request(format!("expires_in: {error}")))?;
            if !life.is_positive() {
                return Err(Failure::bad_request(format!(
                    "expires_in must be longer than nothing, not {life}"
                )));
            }
            life.to_std()
        }
    };
    if life > settings.max_lifetime {
        let (life, longest) = (
            GoDuration::from(life),
            GoDuration::from(settings.max_lifetime),
        );
        return Err(Failure::new(
            ErrorCode::ResourceLimit,
            format!("expires_in {life} is longer than the longest allowed, {longest}"),
        ));
    }
    let link = access.link(&sandbox.id, port, sandbox.preview, life, Timestamp::now());
    let link = PreviewLink {
        url: link.url,
        expires_at: link.expires_at.unwrap_or(sandbox.expires_at),
    };
    // It is as good as a key for a while.
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((headers, json(StatusCode::OK, &link)).into_response())
}
