//! Looking images up in the engine.

use bollard::models::{ImageConfig, ImageInspect};
use stacyvm_provider::ProviderError;

use super::reference;
use crate::engine::{Engine, QUERY_TIMEOUT};

/// An image that the engine has.
#[derive(Clone, Debug)]
pub(crate) struct LocalImage {
    /// The engine's id of the image, which never refers to another image.
    pub(crate) id: String,
    pub(crate) config: ImageConfig,
}

/// The image of a name; none when the engine lacks it.
///
/// # Errors
/// `Invalid` when no image can have the name.
pub(super) async fn find(engine: &Engine, name: &str) -> Result<Option<LocalImage>, ProviderError> {
    let found = inspect(engine, name).await?;
    Ok(found.and_then(|found| {
        Some(LocalImage {
            id: found.id?,
            config: found.config.unwrap_or_default(),
        })
    }))
}

/// The engine's description of an image.
///
/// # Errors
/// `NotFound` when the engine lacks the image.
pub(super) async fn describe(engine: &Engine, name: &str) -> Result<ImageInspect, ProviderError> {
    let found = inspect(engine, name).await?;
    found.ok_or_else(|| reference::not_found(name))
}

async fn inspect(engine: &Engine, name: &str) -> Result<Option<ImageInspect>, ProviderError> {
    reference::parse(name)?;
    let asking = engine.request("look the image up", QUERY_TIMEOUT, |docker| async move {
        docker.inspect_image(name).await
    });
    match asking.await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(reference::refused(name, error)),
    }
}
