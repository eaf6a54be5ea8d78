//! The floor: the same work done on the native provider directly, with no server, no store and no
//! HTTP between. What the API costs above it is our own bookkeeping.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use stacyvm_provider::ops::{ExecEvent, ExecSpec, OpError, ReadRange, WriteOptions};
use stacyvm_provider::{BoxSpec, Provider, SandboxOps};
use stacyvm_types::{FileMode, SandboxId};

use super::target::{private_directory, remove};
use crate::wiring;

/// A native provider of this process.
pub(crate) struct Floor {
    provider: Arc<dyn Provider>,
    directory: PathBuf,
    image: String,
    next: std::sync::atomic::AtomicU32,
}

impl Floor {
    /// Starts it in a directory of its own.
    pub(crate) async fn start(image: Option<String>, network: bool) -> Result<Self> {
        let directory = private_directory("floor")?;
        match wiring::bare_native(&directory, network).await {
            Ok(provider) => Ok(Self {
                image: image.unwrap_or_else(|| provider.default_image().to_owned()),
                provider,
                directory,
                next: std::sync::atomic::AtomicU32::new(1),
            }),
            Err(error) => {
                remove(&directory);
                Err(error)
            }
        }
    }

    /// Makes a box.
    pub(crate) async fn create(&self) -> Result<(SandboxId, Arc<dyn SandboxOps>)> {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let spec = BoxSpec {
            id: SandboxId::from_u32(number),
            image: self.image.clone(),
            isolation: self.provider.isolation(),
            memory_mb: 256,
            vcpus: stacyvm_types::Vcpus::ONE,
            pids_limit: 256,
            open_files: 1024,
            disk_mb: None,
            read_only_rootfs: false,
            network: self.provider.default_network(),
            user: None,
            workdir: None,
            env: std::collections::BTreeMap::new(),
        };
        let operations = self.provider.create(&spec).await?;
        Ok((spec.id, operations))
    }

    /// Ends a box.
    pub(crate) async fn destroy(&self, id: &SandboxId) -> Result<()> {
        Ok(self.provider.destroy(id).await?)
    }

    /// Ends everything and removes the directory.
    pub(crate) async fn stop(self) {
        for found in self.provider.list().await.unwrap_or_default() {
            if let Err(error) = self.provider.destroy(&found.id).await {
                eprintln!("warning: cannot destroy {}: {error}", found.id);
            }
        }
        self.provider.close().await;
        remove(&self.directory);
    }
}

/// Runs a command to its end and returns its output; a code other than 0 is an error.
pub(crate) async fn execute(operations: &dyn SandboxOps, argv: &[&str]) -> Result<Vec<u8>> {
    let mut session = operations
        .exec(ExecSpec {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            ..ExecSpec::default()
        })
        .await?;
    let mut output = Vec::new();
    while let Some(event) = session.events.recv().await {
        match event {
            ExecEvent::Output(_, bytes) => output.extend_from_slice(&bytes),
            ExecEvent::Resumed(_) | ExecEvent::End => {}
            ExecEvent::Exit(exit) if exit.exit_code == 0 => return Ok(output),
            ExecEvent::Exit(exit) => bail!("{} exited with {}", argv[0], exit.exit_code),
        }
    }
    bail!("the connection broke")
}

/// Runs a command and only counts its output.
pub(crate) async fn count_output(operations: &dyn SandboxOps, argv: &[&str]) -> Result<u64> {
    let mut session = operations
        .exec(ExecSpec {
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            ..ExecSpec::default()
        })
        .await?;
    let mut count = 0;
    while let Some(event) = session.events.recv().await {
        match event {
            ExecEvent::Output(_, bytes) => count += bytes.len() as u64,
            ExecEvent::Resumed(_) | ExecEvent::End => {}
            ExecEvent::Exit(_) => return Ok(count),
        }
    }
    bail!("the connection broke")
}

/// Writes a file.
pub(crate) async fn write(operations: &dyn SandboxOps, path: &str, content: Bytes) -> Result<()> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, OpError>>(8);
    let feeding = async move {
        let mut rest = content;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(64 * 1024));
            if sender.send(Ok(piece)).await.is_err() {
                break;
            }
        }
    };
    let options = WriteOptions {
        mode: FileMode::FILE,
        parents: true,
    };
    let (written, ()) = tokio::join!(operations.write(path, options, receiver), feeding);
    written.context("cannot write the file")
}

/// Reads a file and counts its bytes.
pub(crate) async fn read(operations: &dyn SandboxOps, path: &str) -> Result<u64> {
    let mut file = operations.read(path, ReadRange::default()).await?;
    let mut count = 0;
    while let Some(piece) = file.data.recv().await {
        count += piece?.len() as u64;
    }
    Ok(count)
}
