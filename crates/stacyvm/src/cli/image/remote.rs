//! The images of a server.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use stacyvm_client::{ByteStream, Client};
use stacyvm_types::{ErrorCode, ImagesRemoved, PruneRequest, PullRequest, TagRequest};
use tokio::io::AsyncReadExt;

use super::{Action, Done, PullBars, add, suggested};
use crate::failure::WithHint;

/// Bytes of an archive that are read at once.
const PIECE: usize = 128 * 1024;

pub(super) async fn run(client: Client, action: Action) -> Result<Done> {
    Ok(match action {
        Action::Pull { image, always } => {
            let request = PullRequest {
                policy: always.then(|| "always".to_owned()),
                image,
                ..PullRequest::default()
            };
            let mut bars = PullBars::new();
            let pulled = client.pull_image(&request, |line| bars.hear(&line)).await;
            drop(bars);
            Done::Pulled(pulled.with_context(|| format!("cannot pull {}", request.image))?)
        }
        Action::Load { file, name } => {
            let loading = client.load_images(name.as_deref(), pieces(&file).await?);
            let images = loading.await;
            Done::Loaded(
                images.with_context(|| format!("cannot load {}", file.display()))?,
                "loaded",
            )
        }
        Action::Import { file, name } => {
            let name = name.map_or_else(|| suggested(&file), Ok)?;
            let importing = client.import_image(&name, pieces(&file).await?);
            let images = importing.await;
            Done::Loaded(
                images.with_context(|| format!("cannot import {}", file.display()))?,
                "imported",
            )
        }
        Action::Save { names, to } => {
            let archive = client.save_images(&names).await.context("cannot save")?;
            save(archive, &to).await?;
            Done::Saved(to)
        }
        Action::List => Done::Listed(client.images().await.context("cannot list the images")?),
        Action::Inspect { name } => {
            let details = client.image(&name).await;
            Done::Inspected(Box::new(details.context("cannot look at the image")?))
        }
        Action::Tag { image, name } => {
            let request = TagRequest {
                image: image.clone(),
                name: name.clone(),
                provider: None,
            };
            let tagged = client.tag_image(&request).await;
            tagged.context("cannot name the image")?;
            Done::Tagged { image, name }
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
                add(&mut removed, one);
            }
            Done::Removed(names, removed)
        }
        Action::Prune { all, dry_run } => {
            let request = PruneRequest {
                all,
                dry_run,
                provider: None,
            };
            let removed = client.prune_images(&request).await;
            Done::Pruned(removed.context("cannot remove images")?, dry_run)
        }
    })
}

/// The bytes of a file, as they are wanted.
async fn pieces(
    path: &Path,
) -> Result<impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static> {
    let file = tokio::fs::File::open(path).await;
    let file = file.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(futures_util::stream::try_unfold(file, async |mut file| {
        let mut piece = vec![0; PIECE];
        let length = file.read(&mut piece).await?;
        piece.truncate(length);
        Ok((length > 0).then(|| (Bytes::from(piece), file)))
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
    while let Some(piece) = archive.next().await {
        to.write_all(&piece.context("the archive broke off")?)?;
    }
    to.flush()?;
    Ok(())
}
