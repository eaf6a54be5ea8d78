//! The images of a server.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use stacyvm_client::{ByteStream, Client};
use stacyvm_types::{ErrorCode, ImagesRemoved, PruneRequest, PullRequest, TagRequest};
use tokio::io::AsyncReadExt;

use super::action::{Action, Outcome, merge, suggested_name};
use super::display::PullBars;
use crate::failure::WithHint;

/// Bytes of an archive that are read at once.
const CHUNK_SIZE: usize = 128 * 1024;

pub(super) async fn run(client: Client, action: Action) -> Result<Outcome> {
    Ok(match action {
        Action::Pull { image, always } => {
            let request = PullRequest {
                policy: always.then(|| "always".to_owned()),
                image,
                ..PullRequest::default()
            };
            let mut bars = PullBars::new();
            let pulled = client.pull_image(&request, |line| bars.update(&line)).await;
            drop(bars);
            Outcome::Pulled(pulled.with_context(|| format!("cannot pull {}", request.image))?)
        }
        Action::Load { file, name } => {
            let loading = client.load_images(name.as_deref(), chunks(&file).await?);
            let images = loading.await;
            Outcome::Loaded(
                images.with_context(|| format!("cannot load {}", file.display()))?,
                "loaded",
            )
        }
        Action::Import { file, name } => {
            let name = name.map_or_else(|| suggested_name(&file), Ok)?;
            let importing = client.import_image(&name, chunks(&file).await?);
            let images = importing.await;
            Outcome::Loaded(
                images.with_context(|| format!("cannot import {}", file.display()))?,
                "imported",
            )
        }
        Action::Save { names, to } => {
            let archive = client.save_images(&names).await.context("cannot save")?;
            save(archive, &to).await?;
            Outcome::Saved(to)
        }
        Action::List => Outcome::Listed(client.images().await.context("cannot list the images")?),
        Action::Inspect { name } => {
            let details = client.image(&name).await;
            Outcome::Inspected(Box::new(details.context("cannot look at the image")?))
        }
        Action::Tag { image, name } => {
            let request = TagRequest {
                image: image.clone(),
                name: name.clone(),
                provider: None,
            };
            let tagged = client.tag_image(&request).await;
            tagged.context("cannot name the image")?;
            Outcome::Tagged { image, name }
        }
        Action::Rm { names } => {
            let mut removed = ImagesRemoved::default();
            for name in &names {
                let one = match client.remove_image(name).await {
                    Err(error) if error.code() == Some(ErrorCode::Conflict) => {
                        return Err(error)
                            .with_context(|| format!("cannot remove the image {name}"))
                            .hint(
                                "\"stacyvm list\" shows the sandboxes, \"stacyvm kill ID\" ends one",
                            );
                    }
                    other => other.with_context(|| format!("cannot remove the image {name}"))?,
                };
                merge(&mut removed, one);
            }
            Outcome::Removed(names, removed)
        }
        Action::Prune { all, dry_run } => {
            let request = PruneRequest {
                all,
                dry_run,
                provider: None,
            };
            let removed = client.prune_images(&request).await;
            Outcome::Pruned(removed.context("cannot remove images")?, dry_run)
        }
    })
}

/// The bytes of a file, as they are wanted.
async fn chunks(
    path: &Path,
) -> Result<impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static> {
    let file = tokio::fs::File::open(path).await;
    let file = file.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(futures_util::stream::try_unfold(file, async |mut file| {
        let mut chunk = vec![0; CHUNK_SIZE];
        let length = file.read(&mut chunk).await?;
        chunk.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(chunk), file)))
    }))
}

/// Writes an archive that appears under its name when it is whole.
async fn save(archive: ByteStream, to: &Path) -> Result<()> {
    if to.as_os_str() == "-" {
        return write_all(archive, &mut io::stdout()).await;
    }
    anyhow::ensure!(!to.exists(), "{} exists already", to.display());
    let mut name = to.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(name);
    let result = async {
        let create = std::fs::File::create_new(&part);
        let mut file = create.with_context(|| format!("cannot write {}", part.display()))?;
        write_all(archive, &mut file).await?;
        std::fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))
    };
    let result = result.await;
    if result.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    result
}

async fn write_all(mut archive: ByteStream, to: &mut impl Write) -> Result<()> {
    while let Some(chunk) = archive.next().await {
        to.write_all(&chunk.context("the archive broke off")?)?;
    }
    to.flush()?;
    Ok(())
}
