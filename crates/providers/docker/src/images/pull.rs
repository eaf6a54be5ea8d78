//! Pulling images through the engine.

use std::sync::Arc;

use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt as _;
use stacyvm_image::{Credentials, ImageError, Login, Reference};
use stacyvm_provider::ProviderError;
use stacyvm_types::PullLine;
use tokio::sync::mpsc;

use super::progress::PullProgress;
use crate::engine::{Engine, EngineError, WORK_TIMEOUT};

const STEP: &str = "pull the image";

/// Pulls images.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) engine: Arc<Engine>,
    /// The platform to pull, `linux/amd64`; none leaves it to the engine.
    pub(crate) platform: Option<String>,
    pub(crate) credentials: Credentials,
}

impl Puller {
    /// Pulls an image, sends its progress, and returns how many bytes were downloaded. Dropping the
    /// future ends the pull, unless another client waits for the same: the engine downloads a layer
    /// once.
    pub(super) async fn pull(
        &self,
        reference: &Reference,
        progress: Option<mpsc::Sender<PullLine>>,
    ) -> Result<u64, ProviderError> {
        let name = reference.canonical();
        let credentials = self.credentials(reference).await?;
        let options = CreateImageOptions {
            from_image: Some(name.clone()),
            platform: self.platform.clone().unwrap_or_default(),
            ..CreateImageOptions::default()
        };
        let docker = self.engine.docker().await?;
        let mut lines = docker.create_image(Some(options), None, credentials);
        let mut state = PullProgress::default();
        tracing::info!(image = %name, "Image is pulled by the engine");
        loop {
            let next = tokio::time::timeout(WORK_TIMEOUT, lines.next()).await;
            let Some(line) = next.map_err(|_| stalled(&name))? else {
                break;
            };
            let line = line.map_err(|error| failed(&name, self.engine.failed(STEP, error)))?;
            if let Some(error) = refusal_of(&line) {
                return Err(refused(&name, 0, &error));
            }
            if let (Some(update), Some(progress)) = (state.update(&line), &progress) {
                // A client that reads too slowly misses some.
                let _ = progress.try_send(update);
            }
        }
        Ok(state.downloaded())
    }

    /// The login for a registry, which is sent with the request because the engine keeps none.
    async fn credentials(
        &self,
        reference: &Reference,
    ) -> Result<Option<DockerCredentials>, ProviderError> {
        let (source, registry) = (self.credentials.clone(), reference.registry().to_owned());
        let address = registry.clone();
        let looked = tokio::task::spawn_blocking(move || source.find(&registry)).await;
        let login = looked
            .map_err(|error| ProviderError::backend("look the login up", "", error))?
            .map_err(|error: ImageError| ProviderError::Backend {
                step: STEP,
                message: error.to_string(),
                source: None,
            })?;
        Ok(login.map(|login| match login {
            Login::Password { user, password } => DockerCredentials {
                username: Some(user),
                password: Some(password.reveal().to_owned()),
                serveraddress: Some(address),
                ..DockerCredentials::default()
            },
            Login::IdentityToken(token) => DockerCredentials {
                identitytoken: Some(token.reveal().to_owned()),
                serveraddress: Some(address),
                ..DockerCredentials::default()
            },
        }))
    }
}

fn stalled(name: &str) -> ProviderError {
    ProviderError::Backend {
        step: STEP,
        message: format!(
            "{name}: nothing has come for {} seconds",
            WORK_TIMEOUT.as_secs()
        ),
        source: None,
    }
}

/// The error in a line of the engine's answer.
fn refusal_of(line: &CreateImageInfo) -> Option<String> {
    line.error_detail.as_ref()?.message.clone()
}

fn failed(name: &str, error: EngineError) -> ProviderError {
    match &error {
        EngineError::Refused {
            status, message, ..
        } => refused(name, *status, message),
        _ => error.into(),
    }
}

/// Classifies a registry's answer, which the engine passes on as a message only.
fn refused(name: &str, status: u16, message: &str) -> ProviderError {
    let lower = message.to_ascii_lowercase();
    let unknown = [
        "manifest unknown",
        "not found",
        "no matching manifest",
        "name unknown",
    ];
    if status == 404 || unknown.iter().any(|phrase| lower.contains(phrase)) {
        return ProviderError::NotFound(format!("image {name:?} cannot be pulled: {message}"));
    }
    let locked = [
        "no basic auth credentials",
        "unauthorized",
        "authentication required",
        "access to the resource is denied",
    ];
    let hint = if locked.iter().any(|phrase| lower.contains(phrase)) {
        "; hint: run \"docker login\" for its registry as the server's user"
    } else {
        ""
    };
    ProviderError::Backend {
        step: STEP,
        message: format!("{name}: {message}{hint}"),
        source: None,
    }
}
