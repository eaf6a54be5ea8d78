//! Pulling an image through the engine.

use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptions;
use futures_util::StreamExt as _;
use stacyvm_image::{ImageError, Login, Reference};
use stacyvm_provider::ProviderError;
use stacyvm_types::PullLine;
use tokio::sync::mpsc;

use super::progress::Words;
use crate::engine::{EngineError, WORK};
use crate::inner::Inner;

const STEP: &str = "pull the image";

/// Pulls an image and says how far it is; the answer is the bytes that came. Dropping the future
/// ends the pull, unless others wait for the same: the engine fetches a layer once.
pub(super) async fn pull(
    inner: &Inner,
    reference: &Reference,
    progress: Option<mpsc::Sender<PullLine>>,
) -> Result<u64, ProviderError> {
    let name = reference.canonical();
    let credentials = credentials(inner, reference).await?;
    let options = CreateImageOptions {
        from_image: Some(name.clone()),
        platform: inner.settings.platform.clone().unwrap_or_default(),
        ..CreateImageOptions::default()
    };
    let docker = inner.engine.docker().await?;
    let mut lines = docker.create_image(Some(options), None, credentials);
    let mut words = Words::default();
    tracing::info!(image = %name, "Image is pulled by the engine");
    loop {
        let next = tokio::time::timeout(WORK, lines.next()).await;
        let line = match next {
            Err(_) => {
                return Err(ProviderError::Backend {
                    step: STEP,
                    message: format!("{name}: nothing has come for {} seconds", WORK.as_secs()),
                    source: None,
                });
            }
            Ok(None) => break,
            Ok(Some(line)) => line,
        };
        let line = line.map_err(|error| failed(&name, inner.engine.failed(STEP, error)))?;
        if let Some(error) = said_no(&line) {
            return Err(refused(&name, 0, &error));
        }
        if let (Some(word), Some(progress)) = (words.hear(&line), &progress) {
            // Who reads too slowly misses some.
            let _ = progress.try_send(word);
        }
    }
    Ok(words.downloaded())
}

/// What the engine is to log in with: its own client keeps no logins on the engine's machine.
async fn credentials(
    inner: &Inner,
    reference: &Reference,
) -> Result<Option<DockerCredentials>, ProviderError> {
    let (source, registry) = (
        inner.settings.credentials.clone(),
        reference.registry().to_owned(),
    );
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

fn said_no(line: &CreateImageInfo) -> Option<String> {
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

/// The engine hands a registry's answer on in words only.
fn refused(name: &str, status: u16, message: &str) -> ProviderError {
    let lower = message.to_ascii_lowercase();
    let unknown = [
        "manifest unknown",
        "not found",
        "no matching manifest",
        "name unknown",
    ];
    if status == 404 || unknown.iter().any(|words| lower.contains(words)) {
        return ProviderError::NotFound(format!("image {name:?} cannot be pulled: {message}"));
    }
    let locked = [
        "no basic auth credentials",
        "unauthorized",
        "authentication required",
        "access to the resource is denied",
    ];
    let hint = if locked.iter().any(|words| lower.contains(words)) {
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
