//! Loading archives of images into the engine, and saving images as archives.
//!
//! Archives are streamed and never stored here. The engine uses an archive only when it is complete,
//! so one that breaks off leaves nothing.

use bollard::query_parameters::{CreateImageOptions, ImportImageOptions};
use bollard::{body_try_stream, errors::Error};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use stacyvm_provider::ProviderError;
use stacyvm_provider::ops::{ByteReceiver, OpError};
use tokio::sync::mpsc;

use super::{lookup, reference};
use crate::engine::{Engine, EngineError, WORK_TIMEOUT};

/// How many chunks of a saved archive are buffered.
const CHANNEL_CAPACITY: usize = 8;
const LOAD: &str = "load the images";
const IMPORT: &str = "import the root file system";
/// The prefixes of the lines in which the engine names a loaded image.
const LOADED_PREFIXES: [&str; 2] = ["Loaded image: ", "Loaded image ID: "];

/// Loads an archive of `docker save` and returns the names of its images. With `name` the archive
/// may have one image only, which gets that name.
pub(super) async fn load(
    engine: &Engine,
    archive: ByteReceiver,
    name: Option<&str>,
) -> Result<Vec<String>, ProviderError> {
    let new = parse_free(engine, name).await?;
    let docker = engine.docker().await?;
    let options = ImportImageOptions {
        quiet: true,
        ..ImportImageOptions::default()
    };
    let lines = docker.import_image_stream(options, chunks(archive), None);
    let lines = lines.map(|line| line.map(|line| line.stream.unwrap_or_default()));
    let messages = messages(engine, LOAD, lines).await?;
    let loaded: Vec<String> = messages
        .iter()
        .filter_map(|message| loaded_image(message))
        .collect();
    match (new, loaded.as_slice()) {
        (_, []) => Err(ProviderError::Invalid(
            "there is no image in the archive".to_owned(),
        )),
        (Some(new), [one]) => {
            reference::tag(engine, one, &new).await?;
            Ok(vec![new.familiar()])
        }
        (Some(_), _) => Err(ProviderError::Invalid(
            "there are several images in the archive, which were loaded under their own names; hint: give no name"
                .to_owned(),
        )),
        (None, _) => Ok(loaded),
    }
}

/// Makes an image of a root file system and returns its name, or its id when it gets no name.
pub(super) async fn import(
    engine: &Engine,
    archive: ByteReceiver,
    name: Option<&str>,
) -> Result<String, ProviderError> {
    let new = parse_free(engine, name).await?;
    let docker = engine.docker().await?;
    let options = CreateImageOptions {
        from_src: Some("-".to_owned()),
        repo: new.as_ref().map(|new| new.name()),
        tag: new.as_ref().and_then(|new| new.tag().map(str::to_owned)),
        ..CreateImageOptions::default()
    };
    let archive = chunks(archive).map(|chunk| chunk.map_err(std::io::Error::other));
    let lines = docker.create_image(Some(options), Some(body_try_stream(archive)), None);
    let lines = lines.map(|line| line.map(|line| line.status.unwrap_or_default()));
    let messages = messages(engine, IMPORT, lines).await?;
    let id = messages
        .iter()
        .rfind(|message| message.starts_with("sha256:"));
    match (new, id) {
        (Some(new), _) => Ok(new.familiar()),
        (None, Some(id)) => Ok(id.clone()),
        (None, None) => Err(ProviderError::Backend {
            step: IMPORT,
            message: "the engine does not say which image it has made".to_owned(),
            source: None,
        }),
    }
}

/// Saves images as one archive.
pub(super) async fn save(
    engine: &Engine,
    names: Vec<String>,
) -> Result<ByteReceiver, ProviderError> {
    let docker = engine.docker().await?;
    let (sender, receiver) = mpsc::channel(CHANNEL_CAPACITY);
    tokio::spawn(async move {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut chunks = std::pin::pin!(docker.export_images(&names));
        loop {
            let chunk = match tokio::time::timeout(WORK_TIMEOUT, chunks.next()).await {
                Ok(None) => return,
                Ok(Some(Ok(chunk))) => Ok(chunk),
                Ok(Some(Err(error))) => {
                    tracing::warn!(%error, "Images cannot be saved");
                    Err(())
                }
                Err(_) => Err(()),
            };
            let broken = chunk.is_err();
            let chunk =
                chunk.map_err(|()| OpError::Failed("the archive could not be written".to_owned()));
            // The receiver may be gone.
            if sender.send(chunk).await.is_err() || broken {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Parses the name that a new image is to be given, and refuses one that an image has already.
async fn parse_free(
    engine: &Engine,
    name: Option<&str>,
) -> Result<Option<stacyvm_image::Reference>, ProviderError> {
    let Some(name) = name else {
        return Ok(None);
    };
    let new = reference::parse_new(name)?;
    if lookup::find(engine, name).await?.is_some() {
        return Err(ProviderError::Conflict(format!(
            "image {name:?} exists already, remove it first or use another name"
        )));
    }
    Ok(Some(new))
}

/// The chunks of an archive as a stream.
fn chunks(archive: ByteReceiver) -> impl Stream<Item = Result<Bytes, OpError>> + Send + 'static {
    stream::unfold(archive, |mut archive| async move {
        let chunk = archive.recv().await?;
        Some((chunk, archive))
    })
}

/// Every line of the engine's answer.
async fn messages(
    engine: &Engine,
    step: &'static str,
    lines: impl Stream<Item = Result<String, Error>>,
) -> Result<Vec<String>, ProviderError> {
    let mut lines = std::pin::pin!(lines);
    let mut messages = Vec::new();
    // Without a timeout here: the client that sends the archive sets the pace, and the server times
    // its connection.
    while let Some(line) = lines.next().await {
        let line = line.map_err(|error| refused(engine.failed(step, error)))?;
        messages.extend(line.lines().map(|line| line.trim().to_owned()));
    }
    Ok(messages)
}

/// A refusal is the archive's fault; every other error is the engine's.
fn refused(error: EngineError) -> ProviderError {
    match error.refusal() {
        Some(message) => ProviderError::Invalid(format!("the archive is no image: {message}")),
        None => error.into(),
    }
}

/// The name of the image that a line says was loaded.
fn loaded_image(message: &str) -> Option<String> {
    let named = LOADED_PREFIXES
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix));
    named.map(|name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_says_what_it_has_loaded() {
        let found = |message: &str| loaded_image(message);
        assert_eq!(found("Loaded image: a:1").as_deref(), Some("a:1"));
        let id = found("Loaded image ID: sha256:ab");
        assert_eq!(id.as_deref(), Some("sha256:ab"));
        assert_eq!(found("Loading layer"), None);
    }

    #[tokio::test]
    async fn a_broken_archive_stays_broken() {
        let (sender, receiver) = mpsc::channel(2);
        sender.send(Ok(Bytes::from_static(b"a"))).await.unwrap();
        let gone = OpError::Gone("away".to_owned());
        sender.send(Err(gone.clone())).await.unwrap();
        drop(sender);
        let all: Vec<_> = chunks(receiver).collect().await;
        assert_eq!(all, [Ok(Bytes::from_static(b"a")), Err(gone)]);
    }
}
