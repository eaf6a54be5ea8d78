//! Names of images: reading them, giving them, and the errors about them.

use bollard::query_parameters::TagImageOptions;
use stacyvm_image::{ImageError, Reference};
use stacyvm_provider::ProviderError;

use crate::engine::{Engine, EngineError, QUERY_TIMEOUT};

/// The image that only the provider native has.
const HOST: &str = "host";

/// Parses a name.
///
/// # Errors
/// `Invalid` when no image can have the name, with the remedy.
pub(super) fn parse(name: &str) -> Result<Reference, ProviderError> {
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

/// Parses a name that an image is to be given.
///
/// # Errors
/// `Invalid` when no image can be given the name.
pub(super) fn parse_new(name: &str) -> Result<Reference, ProviderError> {
    let new = parse(name)?;
    if new.digest().is_some() {
        return Err(ProviderError::Invalid(
            "a digest is no name that can be given".to_owned(),
        ));
    }
    Ok(new)
}

/// Gives an image a further name.
pub(super) async fn tag(engine: &Engine, name: &str, new: &Reference) -> Result<(), ProviderError> {
    let options = TagImageOptions {
        repo: Some(new.name()),
        tag: new.tag().map(str::to_owned),
    };
    let tagging = engine.request("name the image", QUERY_TIMEOUT, |docker| async move {
        docker.tag_image(name, Some(options)).await
    });
    tagging.await.map_err(|error| refused(name, error))
}

/// The error for an image that the engine lacks.
pub(super) fn not_found(name: &str) -> ProviderError {
    ProviderError::NotFound(format!(
        "image {name:?} not found in the engine; hint: run \"stacyvm image pull {name} --provider docker\", or set images.pull to \"missing\""
    ))
}

/// The error for a request about one image that the engine has refused.
pub(super) fn refused(name: &str, error: EngineError) -> ProviderError {
    if error.is_not_found() {
        return not_found(name);
    }
    if let (true, Some(message)) = (error.is_conflict(), error.refusal()) {
        return ProviderError::Conflict(format!("image {name:?} is in use: {message}"));
    }
    error.into()
}
