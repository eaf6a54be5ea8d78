//! `stacyvm cp`: files and directories into and out of a sandbox.
//!
//! One side is `ID:PATH`. As with cp(1), a destination that is a directory receives the source
//! under its own name. What comes out of a sandbox is not trusted: see `archive`.

mod archive;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use stacyvm_client::{ByteStream, Client};
use stacyvm_types::{ArchiveFormat, ErrorCode, FileMode};
use tokio::io::AsyncReadExt;

use super::global::{Global, OutputFormat};
use super::output;
use crate::failure::hinted;
use crate::progress::Progress;

/// Copy files into or out of a sandbox.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Source: PATH, or ID:PATH.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Destination: PATH, or ID:PATH.
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Here(PathBuf),
    Inside { id: String, path: String },
}

impl Side {
    /// `sb-…:path` is inside; everything else is here, also with a colon in it.
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((id, path)) if id.starts_with("sb-") && !id.contains('/') => Self::Inside {
                id: id.to_owned(),
                path: if path.is_empty() { "." } else { path }.to_owned(),
            },
            _ => Self::Here(PathBuf::from(text)),
        }
    }
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let client = global.client()?;
    match (Side::parse(&args.source), Side::parse(&args.destination)) {
        (Side::Here(from), Side::Inside { id, path }) => copy_in(&client, &from, &id, &path).await,
        (Side::Inside { id, path }, Side::Here(to)) => copy_out(&client, &id, &path, &to).await,
        _ => Err(hinted(
            "one side must be in a sandbox and the other here",
            "write it like: stacyvm cp app.py sb-0123abcd:/workspace/",
        )),
    }
    .with_context(|| format!("cannot copy {} to {}", args.source, args.destination))?;
    if global.output == OutputFormat::Json {
        output::json(&serde_json::json!({
            "source": args.source,
            "destination": args.destination,
        }))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn copy_in(client: &Client, from: &Path, id: &str, path: &str) -> Result<()> {
    let metadata = std::fs::metadata(from).context("cannot read the source")?;
    let mut target = path.to_owned();
    if is_directory(client, id, path).await? {
        let name = std::path::absolute(from)?
            .file_name()
            .context("the source has no name of its own")?
            .to_string_lossy()
            .into_owned();
        target = format!("{}/{name}", path.trim_end_matches('/'));
    }
    if metadata.is_dir() {
        let progress = Progress::bytes("Copying", None);
        let pieces = archive::pack(from.to_owned()).inspect(move |piece| {
            progress.advance(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        });
        return Ok(client.archive_in(id, &target, pieces).await?);
    }
    let progress = Progress::bytes("Copying", Some(metadata.len()));
    let file = tokio::fs::File::open(from)
        .await
        .context("cannot open the source")?;
    let mode = FileMode::from_bits(std::os::unix::fs::PermissionsExt::mode(
        &metadata.permissions(),
    ));
    let pieces = pieces(file).inspect(move |piece| {
        progress.advance(piece.as_ref().map_or(0, |piece| piece.len() as u64));
    });
    let mode = mode.to_string();
    Ok(client
        .write_file_stream(id, &target, Some(&mode), pieces)
        .await?)
}

/// A file's content, piece by piece.
fn pieces(
    file: tokio::fs::File,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    futures_util::stream::try_unfold(file, |mut file| async move {
        let mut piece = bytes::BytesMut::with_capacity(64 * 1024);
        let read = file.read_buf(&mut piece).await?;
        Ok((read > 0).then(|| (piece.freeze(), file)))
    })
}

async fn is_directory(client: &Client, id: &str, path: &str) -> Result<bool> {
    match client.stat_file(id, path).await {
        Ok(info) if info.is_symlink => {
            // The link's target decides, and only listing it follows the link.
            Ok(client.list_files(id, path).await.is_ok())
        }
        Ok(info) => Ok(info.is_dir),
        Err(error) if error.code() == Some(ErrorCode::NotFound) => {
            // The sandbox itself may be what is not there.
            client.get(id).await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

async fn copy_out(client: &Client, id: &str, path: &str, to: &Path) -> Result<()> {
    let directory = is_directory(client, id, path).await?;
    let mut target = to.to_owned();
    if to.is_dir() {
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or("");
        if matches!(name, "" | "." | "..") {
            bail!("the source has no name of its own, name the destination in full");
        }
        target.push(name);
    }
    if directory {
        let download = client.archive_out(id, path, ArchiveFormat::Tar).await?;
        let progress = Progress::bytes("Copying", None);
        return archive::unpack(download, target, progress).await;
    }
    let download = client.read_file_stream(id, path).await?;
    save(download, &target).await
}

/// Writes a download beside its place first, so that a broken one leaves the old file.
async fn save(mut download: ByteStream, target: &Path) -> Result<()> {
    let progress = Progress::bytes("Copying", None);
    let mut name = target
        .file_name()
        .context("the destination has no name")?
        .to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let partial = target.with_file_name(name);
    let result = async {
        let mut file = tokio::fs::File::create(&partial)
            .await
            .context("cannot write the destination")?;
        while let Some(piece) = download.next().await {
            let piece = piece?;
            tokio::io::AsyncWriteExt::write_all(&mut file, &piece).await?;
            progress.advance(piece.len() as u64);
        }
        tokio::io::AsyncWriteExt::flush(&mut file).await?;
        tokio::fs::rename(&partial, target)
            .await
            .context("cannot write the destination")
    }
    .await;
    if result.is_err() {
        let _ = tokio::fs::remove_file(&partial).await;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::Side;

    #[test]
    fn only_a_sandbox_id_makes_a_side_inside() {
        let inside = |id: &str, path: &str| Side::Inside {
            id: id.to_owned(),
            path: path.to_owned(),
        };
        assert_eq!(
            Side::parse("sb-0123abcd:/a/b"),
            inside("sb-0123abcd", "/a/b")
        );
        assert_eq!(Side::parse("sb-0123abcd:"), inside("sb-0123abcd", "."));
        for here in ["a.txt", "./sb-1:x", "c:d", "/tmp/sb-1:/x"] {
            assert_eq!(Side::parse(here), Side::Here(here.into()), "{here}");
        }
    }
}
