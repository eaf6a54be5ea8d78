//! The engine's images, as sandboxes are made from them.

mod archives;
mod ops;
mod progress;
mod pull;

use bollard::models::ImageConfig;
use stacyvm_image::{ImageError, Reference};
use stacyvm_provider::ProviderError;

use crate::engine::QUICK;
use crate::inner::Inner;
pub(crate) use ops::EngineImages;

/// The name of another provider's image, which people carry over.
const HOST: &str = "host";

/// An image that the engine has.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    /// The engine's own name, which stays with this very image.
    pub(crate) id: String,
    pub(crate) config: ImageConfig,
}

/// Reads a name.
///
/// # Errors
/// `Invalid` when no image can have it, with the remedy.
pub(crate) fn reference(name: &str) -> Result<Reference, ProviderError> {
    if name == HOST {
        return Err(ProviderError::Invalid(
            "the image \"host\" is the provider native's; hint: name an image of the engine, such as alpine:latest".to_owned(),
        ));
    }
    Reference::parse(name).map_err(|error| match error {
        ImageError::Name { .. } => ProviderError::Invalid(error.to_string()),
        other => ProviderError::backend("read the image's name", other.to_string(), other),
    })
}

/// The image of a name, if the engine has it.
pub(crate) async fn find(inner: &Inner, name: &str) -> Result<Option<Local>, ProviderError> {
    reference(name)?;
    let wanted = name.to_owned();
    let looking = inner
        .engine
        .ask("look the image up", QUICK, |docker| async move {
            docker.inspect_image(&wanted).await
        });
    match looking.await {
        Ok(found) => Ok(found.id.map(|id| Local {
            id,
            config: found.config.unwrap_or_default(),
        })),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The image of a name, which is there.
pub(crate) async fn present(inner: &Inner, name: &str) -> Result<Local, ProviderError> {
    find(inner, name).await?.ok_or_else(|| missing(name))
}

/// Makes an image be there, if it may be pulled.
pub(crate) async fn prepare(inner: &Inner, name: &str) -> Result<(), ProviderError> {
    if find(inner, name).await?.is_some() {
        return Ok(());
    }
    if !inner.settings.pull_missing {
        return Err(missing(name));
    }
    pull::pull(inner, &reference(name)?, None).await.map(drop)
}

pub(crate) fn missing(name: &str) -> ProviderError {
    ProviderError::NotFound(format!(
        "image {name:?} not found in the engine; hint: run \"stacyvm image pull {name} --provider docker\", or set images.pull to \"missing\""
    ))
}
