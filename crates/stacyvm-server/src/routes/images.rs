//! The images of a provider.
//!
//! The name of an image may have slashes: in a path they are written as they are, or as `%2F`,
//! which is the form that the description knows.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::response::IntoResponse;
use http::HeaderValue;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use stacyvm_orchestrator::ArchiveKind;
use stacyvm_types::{
    ImageArchiveKind, ImageDetails, ImageInfo, ImagesRemoved, LoadImagesQuery, ProviderQuery,
    PruneRequest, SaveImagesQuery, StatusResponse, TagRequest,
};

use crate::body::Json;
use crate::download::ByteBody;
use crate::error::{Failure, Reply};
use crate::openapi::failures::{
    ConflictErrors, FileBodyErrors, ImageErrors, JsonBodyErrors, NotFoundErrors,
};
use crate::openapi::shapes::ImageArchive;
use crate::query::Query;
use crate::response::{done, ok};
use crate::state::SharedState;
use crate::upload::{self, UploadKind};

/// The image that a path names, with its slashes.
pub(super) struct ImageName(String);

impl<S: Send + Sync> FromRequestParts<S> for ImageName {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = Path::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        let Path(pieces) =
            path.map_err(|_| Failure::not_found("the path has a part that is not UTF-8"))?;
        let pieces: Vec<String> = pieces.into_iter().map(|(_, piece)| piece).collect();
        Ok(Self(pieces.join("/")))
    }
}

/// Lists the images, sorted by name.
#[utoipa::path(
    get, path = "/api/v1/images", tag = "images",
    params(ProviderQuery),
    responses((status = 200, description = "The images.", body = Vec<ImageInfo>), ImageErrors),
)]
pub(super) async fn list(
    State(state): State<SharedState>,
    Query(query): Query<ProviderQuery>,
) -> Reply {
    let images = state.orchestrator.images(query.provider.as_deref())?;
    Ok(ok(&images.list().await?))
}

/// Shows all that is known about an image.
#[utoipa::path(
    get, path = "/api/v1/images/{name}", tag = "images", operation_id = "inspect",
    params(
        ("name" = String, Path, description = "One of its names, or its id; slashes as `%2F`."),
        ProviderQuery,
    ),
    responses((status = 200, description = "The image.", body = ImageDetails), ImageErrors),
)]
pub(super) async fn inspect(
    State(state): State<SharedState>,
    ImageName(name): ImageName,
    Query(query): Query<ProviderQuery>,
) -> Reply {
    let images = state.orchestrator.images(query.provider.as_deref())?;
    Ok(ok(&images.inspect(&name).await?))
}

/// Removes a name, and its image with the last one.
///
/// An image that a sandbox uses stays. By its id an image goes with all its names.
#[utoipa::path(
    delete, path = "/api/v1/images/{name}", tag = "images",
    params(
        ("name" = String, Path, description = "One of its names, or its id; slashes as `%2F`."),
        ProviderQuery,
    ),
    responses(
        (status = 200, description = "What is gone.", body = ImagesRemoved),
        ImageErrors,
        ConflictErrors,
    ),
)]
pub(super) async fn remove(
    State(state): State<SharedState>,
    ImageName(name): ImageName,
    Query(query): Query<ProviderQuery>,
) -> Reply {
    let images = state.orchestrator.images(query.provider.as_deref())?;
    Ok(ok(&images.remove(&name).await?))
}

/// Gives an image a further name.
#[utoipa::path(
    post, path = "/api/v1/images/tag", tag = "images",
    request_body = TagRequest,
    responses(
        (
            status = 200,
            description = "Done.",
            body = StatusResponse,
            example = json!({"status": "tagged"}),
        ),
        ImageErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn tag(
    State(state): State<SharedState>,
    Json(request): Json<TagRequest>,
) -> Reply {
    let images = state.orchestrator.images(request.provider.as_deref())?;
    images.tag(&request).await?;
    Ok(done("tagged"))
}

/// Removes images that no sandbox uses, and layers that no image needs any more.
///
/// Without `all` only those whose name went to another image.
#[utoipa::path(
    post, path = "/api/v1/images/prune", tag = "images",
    request_body = PruneRequest,
    responses(
        (status = 200, description = "What is gone, or would be.", body = ImagesRemoved),
        ImageErrors,
        JsonBodyErrors,
    ),
)]
pub(super) async fn prune(
    State(state): State<SharedState>,
    Json(request): Json<PruneRequest>,
) -> Reply {
    let images = state.orchestrator.images(request.provider.as_deref())?;
    Ok(ok(&images.prune(&request).await?))
}

/// Makes images from an archive.
///
/// Of `docker save` or another tool of images, plain or packed; or, with `kind=rootfs`, of the tar
/// of one root file system.
#[utoipa::path(
    post, path = "/api/v1/images/load", tag = "images",
    params(LoadImagesQuery),
    request_body(
        description = "The content type is not looked at.",
        content(
            (ImageArchive = "application/x-tar"),
            (ImageArchive = "application/octet-stream"),
        ),
    ),
    responses(
        (status = 200, description = "The images.", body = Vec<ImageInfo>),
        ImageErrors,
        ConflictErrors,
        FileBodyErrors,
    ),
)]
pub(super) async fn load(
    State(state): State<SharedState>,
    Query(query): Query<LoadImagesQuery>,
    request: Request,
) -> Reply {
    let images = state.orchestrator.images(query.provider.as_deref())?;
    let name = query.name.as_deref();
    let kind = match query.kind.unwrap_or_default() {
        ImageArchiveKind::Images => ArchiveKind::Images,
        ImageArchiveKind::Rootfs if name.is_none() => {
            return Err(Failure::bad_request(
                "the query parameter name is missing: what the root file system is to be called",
            ));
        }
        ImageArchiveKind::Rootfs => ArchiveKind::Rootfs,
    };
    let (parts, body) = request.into_parts();
    let limit = state.image_limit;
    let loaded = upload::feed(&parts.headers, body, limit, UploadKind::Plain, |archive| {
        images.load(archive, kind, name)
    });
    Ok(ok(&loaded.await?))
}

/// Gives images as one archive, which `docker load` and other tools of images read.
#[utoipa::path(
    get, path = "/api/v1/images/save", tag = "images",
    params(SaveImagesQuery),
    responses(
        (
            status = 200,
            description = "The archive: an OCI layout with a `manifest.json`.",
            body = ImageArchive,
            content_type = "application/x-tar",
        ),
        ImageErrors,
        NotFoundErrors,
    ),
)]
pub(super) async fn save(
    State(state): State<SharedState>,
    Query(query): Query<SaveImagesQuery>,
) -> Reply {
    let images = state.orchestrator.images(query.provider.as_deref())?;
    let mut archive = images.save(&query.name).await?;
    // What fails before the first byte can still be told properly.
    let first = archive.next().await.transpose();
    let first = first.map_err(Failure::internal)?;
    let body = ByteBody::new(first, archive, None, state.cut());
    let kind = [(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"))];
    Ok((kind, Body::new(body)).into_response())
}
