//! Archives of images on their way into the engine and out of it.
//!
//! Nothing is kept here: what comes goes on, piece by piece. The engine uses an archive only when it
//! has all of it, so one that breaks off leaves nothing.

use bollard::query_parameters::{CreateImageOptions, ImportImageOptions};
use bollard::{body_try_stream, errors::Error};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use stacyvm_provider::ProviderError;
use stacyvm_provider::ops::{ByteReceiver, OpError};
use tokio::sync::mpsc;

use super::{find, ops, reference};
use crate::engine::{EngineError, WORK};
use crate::inner::Inner;

/// Pieces between the engine and who reads an archive.
const DEPTH: usize = 8;
const LOAD: &str = "load the images";
const IMPORT: &str = "import the root file system";
/// How the engine says which image it has made.
const LOADED: [&str; 2] = ["Loaded image: ", "Loaded image ID: "];

/// Loads what `docker save` wrote and returns the names of what was in it. With `name` there may
/// be one image in it, which gets that name.
pub(super) async fn load(
    inner: &Inner,
    archive: ByteReceiver,
    name: Option<&str>,
) -> Result<Vec<String>, ProviderError> {
    let new = free(inner, name).await?;
    let docker = inner.engine.docker().await?;
    let options = ImportImageOptions {
        quiet: true,
        ..ImportImageOptions::default()
    };
    let lines = docker.import_image_stream(options, pieces(archive), None);
    let lines = lines.map(|line| line.map(|line| line.stream.unwrap_or_default()));
    let words = heard(inner, LOAD, lines).await?;
    let loaded: Vec<String> = words.iter().filter_map(|word| loaded(word)).collect();
    match (new, loaded.as_slice()) {
        (_, []) => Err(ProviderError::Invalid(
            "there is no image in the archive".to_owned(),
        )),
        (Some(new), [one]) => {
            ops::tag(inner, one, &new).await?;
            Ok(vec![new.familiar()])
        }
        (Some(_), _) => Err(ProviderError::Invalid(
            "there are several images in the archive, which were loaded under their own names; hint: give no name"
                .to_owned(),
        )),
        (None, _) => Ok(loaded),
    }
}

/// Makes an image of one root file system and returns its name, or its id when it gets none.
pub(super) async fn import(
    inner: &Inner,
    archive: ByteReceiver,
    name: Option<&str>,
) -> Result<String, ProviderError> {
    let new = free(inner, name).await?;
    let docker = inner.engine.docker().await?;
    let options = CreateImageOptions {
        from_src: Some("-".to_owned()),
        repo: new.as_ref().map(|new| new.name()),
        tag: new.as_ref().and_then(|new| new.tag().map(str::to_owned)),
        ..CreateImageOptions::default()
    };
    let archive = pieces(archive).map(|piece| piece.map_err(std::io::Error::other));
    let lines = docker.create_image(Some(options), Some(body_try_stream(archive)), None);
    let lines = lines.map(|line| line.map(|line| line.status.unwrap_or_default()));
    let words = heard(inner, IMPORT, lines).await?;
    let id = words.iter().rfind(|word| word.starts_with("sha256:"));
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

/// Gives images as one archive.
pub(super) async fn save(inner: &Inner, names: Vec<String>) -> Result<ByteReceiver, ProviderError> {
    let docker = inner.engine.docker().await?;
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut pieces = std::pin::pin!(docker.export_images(&names));
        loop {
            let piece = match tokio::time::timeout(WORK, pieces.next()).await {
                Ok(None) => return,
                Ok(Some(Ok(piece))) => Ok(piece),
                Ok(Some(Err(error))) => {
                    tracing::warn!(%error, "Images cannot be saved");
                    Err(())
                }
                Err(_) => Err(()),
            };
            let broken = piece.is_err();
            let piece =
                piece.map_err(|()| OpError::Failed("the archive could not be written".to_owned()));
            // Who asked for it may have gone.
            if sender.send(piece).await.is_err() || broken {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Reads a name that is to be given, and refuses one that stands for something.
async fn free(
    inner: &Inner,
    name: Option<&str>,
) -> Result<Option<stacyvm_image::Reference>, ProviderError> {
    let Some(name) = name else {
        return Ok(None);
    };
    let new = reference(name)?;
    if new.digest().is_some() {
        return Err(ProviderError::Invalid(
            "a digest is no name that can be given".to_owned(),
        ));
    }
    if find(inner, name).await?.is_some() {
        return Err(ProviderError::Conflict(format!(
            "image {name:?} exists already, remove it first or use another name"
        )));
    }
    Ok(Some(new))
}

/// The pieces of an archive as they come.
fn pieces(archive: ByteReceiver) -> impl Stream<Item = Result<Bytes, OpError>> + Send + 'static {
    stream::unfold(archive, |mut archive| async move {
        let piece = archive.recv().await?;
        Some((piece, archive))
    })
}

/// Every line that the engine answers with, to the last.
async fn heard(
    inner: &Inner,
    step: &'static str,
    lines: impl Stream<Item = Result<String, Error>>,
) -> Result<Vec<String>, ProviderError> {
    let mut lines = std::pin::pin!(lines);
    let mut words = Vec::new();
    // The archive comes from whoever sends it, at their pace; their connection is timed.
    while let Some(line) = lines.next().await {
        let line = line.map_err(|error| refused(inner.engine.failed(step, error)))?;
        words.extend(line.lines().map(|line| line.trim().to_owned()));
    }
    Ok(words)
}

/// What the engine does not take is the fault of the archive, but for a broken engine.
fn refused(error: EngineError) -> ProviderError {
    match error.refusal() {
        Some(words) => ProviderError::Invalid(format!("the archive is no image: {words}")),
        None => error.into(),
    }
}

fn loaded(word: &str) -> Option<String> {
    let named = LOADED.iter().find_map(|prefix| word.strip_prefix(prefix));
    named.map(|name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_says_what_it_has_loaded() {
        let found = |word: &str| loaded(word);
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
        let all: Vec<_> = pieces(receiver).collect().await;
        assert_eq!(all, [Ok(Bytes::from_static(b"a")), Err(gone)]);
    }
}
