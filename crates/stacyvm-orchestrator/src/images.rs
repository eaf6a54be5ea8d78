//! The images of a provider: found, asked, and its failures turned into public ones.

use std::sync::Arc;

use stacyvm_provider::{ArchiveKind, Capability, ImageOps, ProviderError};
use stacyvm_types::{
    ImageDetails, ImageInfo, ImagesRemoved, PruneRequest, PullLine, PullRequest, PulledImage,
    TagRequest,
};
use tokio::sync::mpsc;

use crate::byte_stream::ByteStream;
use crate::error::Error;
use crate::limits::{self, bad, shown};
use crate::orchestrator::Orchestrator;
use crate::state::OrchestratorState;
use crate::upload::UploadData;

/// Names that one archive may be made of.
const MAX_NAMES: usize = 64;

/// The images of one provider. Dropping a future of it ends what it began, unless others
/// wait for the same.
#[derive(Debug)]
pub struct Images {
    state: Arc<OrchestratorState>,
    provider: String,
    ops: Arc<dyn ImageOps>,
}

impl Orchestrator {
    /// The images of this provider, of the default one when none or an empty one is named.
    ///
    /// # Errors
    /// `NotFound` for a provider that is not configured, `Unsupported` for one that has no images
    /// to manage.
    pub fn images(&self, provider: Option<&str>) -> Result<Images, Error> {
        let state = Arc::clone(&self.state);
        let name = provider
            .filter(|name| !name.is_empty())
            .unwrap_or(&state.settings.default_provider);
        let slot = state.providers.get(name).ok_or_else(|| {
            Error::NotFound(format!("provider {:?} is not configured", shown(name)))
        })?;
        let ops = slot.provider.images().ok_or_else(|| {
            Error::Unsupported(format!(
                "provider {name} lacks the capability {}",
                Capability::Images.as_str()
            ))
        })?;
        Ok(Images {
            provider: name.to_owned(),
            ops,
            state,
        })
    }

    /// The name that a spawn of this image really looks for.
    pub fn resolve_image(&self, image: &str) -> String {
        self.state.settings.resolve_image(image).to_owned()
    }
}

impl Images {
    /// Every image, sorted by name.
    ///
    /// # Errors
    /// `Provider`; so for every method here.
    pub async fn list(&self) -> Result<Vec<ImageInfo>, Error> {
        let _token = self.state.lifetime.enter()?;
        self.public(self.ops.list().await)
    }

    /// All that is known about one.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest`.
    pub async fn inspect(&self, name: &str) -> Result<ImageDetails, Error> {
        let _token = self.state.lifetime.enter()?;
        let name = named("name", name)?;
        self.public(self.ops.inspect(name).await)
    }

    /// Makes an image be there; `progress` hears how far it is.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest`; `Unavailable` when the server is shutting down.
    pub async fn pull(
        &self,
        request: &PullRequest,
        progress: Option<mpsc::Sender<PullLine>>,
    ) -> Result<PulledImage, Error> {
        let always = Self::asks_always(request)?;
        let _token = self.state.lifetime.enter()?;
        let image = named("image", &request.image)?;
        tokio::select! {
            pulled = self.ops.pull(image, always, progress) => self.public(pulled),
            () = self.state.lifetime.closing.cancelled() => Err(Error::shutting_down()),
        }
    }

    /// Whether the registry is asked in any case.
    ///
    /// # Errors
    /// `BadRequest` for a policy that there is not.
    pub fn asks_always(request: &PullRequest) -> Result<bool, Error> {
        match request.policy.as_deref() {
            None | Some("" | "missing") => Ok(false),
            Some("always") => Ok(true),
            Some(other) => {
                let other = shown(other);
                bad(format!(
                    "unknown policy {other:?}: the policies are missing and always"
                ))
            }
        }
    }

    /// Makes images from an archive.
    ///
    /// # Errors
    /// `BadRequest` for an archive that is none, `Conflict` when the name is taken.
    pub async fn load(
        &self,
        archive: UploadData,
        kind: ArchiveKind,
        name: Option<&str>,
    ) -> Result<Vec<ImageInfo>, Error> {
        let _token = self.state.lifetime.enter()?;
        let name = name.map(|name| named("name", name)).transpose()?;
        let loading = self.ops.load(archive.into_receiver(), kind, name);
        self.public(loading.await)
    }

    /// Gives images as one archive.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest`.
    pub async fn save(&self, names: &[String]) -> Result<ByteStream, Error> {
        let _token = self.state.lifetime.enter()?;
        if names.is_empty() || names.len() > MAX_NAMES {
            return bad(format!("an archive is made of 1 to {MAX_NAMES} images"));
        }
        for name in names {
            named("name", name)?;
        }
        let archive = self.public(self.ops.save(names).await)?;
        Ok(ByteStream::of_provider(self.provider.clone(), archive))
    }

    /// Gives an image a further name.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest`.
    pub async fn tag(&self, request: &TagRequest) -> Result<(), Error> {
        let _token = self.state.lifetime.enter()?;
        let image = named("image", &request.image)?;
        let name = named("name", &request.name)?;
        self.public(self.ops.tag(image, name).await)
    }

    /// Removes a name, and its image with the last one.
    ///
    /// # Errors
    /// `NotFound`, `BadRequest`; `Conflict` when a sandbox stands on it.
    pub async fn remove(&self, name: &str) -> Result<ImagesRemoved, Error> {
        let _token = self.state.lifetime.enter()?;
        let name = named("name", name)?;
        self.public(self.ops.remove(name).await)
    }

    /// Removes unused images.
    ///
    /// # Errors
    /// See [`Images::list`].
    pub async fn prune(&self, request: &PruneRequest) -> Result<ImagesRemoved, Error> {
        let _token = self.state.lifetime.enter()?;
        self.public(self.ops.prune(request.all, request.dry_run).await)
    }

    fn public<T>(&self, result: Result<T, ProviderError>) -> Result<T, Error> {
        result.map_err(|error| Error::from_provider(&self.provider, error))
    }
}

fn named<'a>(field: &str, name: &'a str) -> Result<&'a str, Error> {
    if name.is_empty() {
        return bad(format!("{field} is required: the name of an image"));
    }
    limits::image(name)?;
    Ok(name)
}
