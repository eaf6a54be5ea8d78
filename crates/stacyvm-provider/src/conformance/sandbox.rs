//! One sandbox and short words to ask it things.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use stacyvm_types::{FileMode, OutputStream, SandboxId};
use tokio::sync::mpsc;

use super::harness::{Harness, WAIT_TIMEOUT};
use crate::ops::{
    ByteReceiver, ExecControl, ExecEvent, ExecExit, ExecSession, ExecSpec, OpError, ReadRange,
    WriteOptions,
};
use crate::{BoxSpec, NetworkMode, Provider, SandboxOps};

/// The usual spec, with an id of its own.
pub fn spec(provider: &dyn Provider) -> BoxSpec {
    // Seeded with the process's random keys and a counter.
    let random = std::hash::RandomState::new().build_hasher().finish();
    BoxSpec {
        id: SandboxId::from_u32((random >> 16) as u32),
        image: provider.default_image().to_owned(),
        isolation: provider.isolation(),
        memory_mb: 512,
        vcpus: stacyvm_types::Vcpus::ONE,
        pids_limit: 256,
        open_files: 1024,
        disk_mb: None,
        read_only_rootfs: false,
        network: NetworkMode::None,
        user: None,
        workdir: None,
        env: BTreeMap::new(),
    }
}

/// A living sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Its name.
    pub id: SandboxId,
    /// What can be done in it.
    pub ops: Arc<dyn SandboxOps>,
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// How it ended.
    pub exit: ExecExit,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Finished {
    /// Standard output as text, without the newline at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

impl Sandbox {
    /// Makes the usual one.
    ///
    /// # Errors
    /// When the provider fails.
    pub async fn make(harness: &dyn Harness) -> Result<Self> {
        Self::make_with(harness, |_| {}).await
    }

    /// Makes one with a changed spec.
    ///
    /// # Errors
    /// When the provider fails.
    pub async fn make_with(
        harness: &dyn Harness,
        change: impl FnOnce(&mut BoxSpec),
    ) -> Result<Self> {
        let provider = harness.provider();
        let mut spec = spec(&*provider);
        change(&mut spec);
        let ops = provider.create(&spec).await.context("create")?;
        Ok(Self { id: spec.id, ops })
    }

    /// Runs a shell text to its end.
    ///
    /// # Errors
    /// When it cannot be started, or nothing is heard of its end.
    pub async fn shell(&self, text: &str) -> Result<Finished> {
        self.run(shell(text)).await
    }

    /// Runs a shell text that has to succeed; its standard output.
    ///
    /// # Errors
    /// When it does not.
    pub async fn say(&self, text: &str) -> Result<String> {
        let finished = self.shell(text).await?;
        if finished.exit.exit_code != 0 {
            let complaint = String::from_utf8_lossy(&finished.stderr).into_owned();
            bail!("{text:?} exits {}: {complaint}", finished.exit.exit_code);
        }
        Ok(finished.text())
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// When it cannot be started, or nothing is heard of its end.
    pub async fn run(&self, spec: ExecSpec) -> Result<Finished> {
        let session = self.ops.exec(spec).await.context("start a command")?;
        finish(session).await
    }

    /// Whether a process of this number lives inside.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn lives(&self, pid: &str) -> Result<bool> {
        // A zombie that is not reaped yet is not alive.
        let question = format!(
            "kill -0 {pid} 2>/dev/null && ! grep -q '^State:.*Z' /proc/{pid}/status 2>/dev/null"
        );
        Ok(self.shell(&question).await?.exit.exit_code == 0)
    }

    /// Writes a file with its parents.
    ///
    /// # Errors
    /// The operation's own.
    pub async fn write(&self, path: &str, content: impl Into<Bytes>) -> Result<(), OpError> {
        let options = WriteOptions {
            mode: FileMode::FILE,
            parents: true,
        };
        self.ops.write(path, options, stream(content)).await
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// The operation's own.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, OpError> {
        self.read_part(path, ReadRange::default()).await
    }

    /// Reads a part of a file.
    ///
    /// # Errors
    /// The operation's own.
    pub async fn read_part(&self, path: &str, range: ReadRange) -> Result<Vec<u8>, OpError> {
        collect(self.ops.read(path, range).await?.data).await
    }
}

/// A spec that runs a shell text.
pub(crate) fn shell(text: &str) -> ExecSpec {
    argv(&["/bin/sh", "-c", text])
}

/// A spec that runs a program.
pub(crate) fn argv(words: &[&str]) -> ExecSpec {
    ExecSpec {
        argv: words.iter().map(|word| (*word).to_owned()).collect(),
        ..ExecSpec::default()
    }
}

/// Hears a command out.
pub(crate) async fn finish(mut session: ExecSession) -> Result<Finished> {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match next(&mut session, WAIT_TIMEOUT).await? {
            ExecEvent::Output(OutputStream::Stdout, bytes) => stdout.extend_from_slice(&bytes),
            ExecEvent::Output(OutputStream::Stderr, bytes) => stderr.extend_from_slice(&bytes),
            // A command that outlives its connection says where its output begins.
            ExecEvent::Resumed(_) => {}
            ExecEvent::End => bail!("the end of a look at output"),
            ExecEvent::Exit(exit) => {
                return Ok(Finished {
                    exit,
                    stdout,
                    stderr,
                });
            }
        }
    }
}

/// The next thing that a command says.
pub(crate) async fn next(session: &mut ExecSession, within: Duration) -> Result<ExecEvent> {
    tokio::time::timeout(within, session.events.recv())
        .await
        .context("the command says nothing")?
        .context("the command's connection was lost")
}

/// Reads standard output until there is a whole line; the line.
pub(crate) async fn first_line(session: &mut ExecSession) -> Result<String> {
    let mut text = Vec::new();
    loop {
        match next(session, WAIT_TIMEOUT).await? {
            ExecEvent::Output(OutputStream::Stdout, bytes) => {
                text.extend_from_slice(&bytes);
                if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    return Ok(String::from_utf8_lossy(&text[..end]).trim().to_owned());
                }
            }
            ExecEvent::Output(OutputStream::Stderr, bytes) => {
                bail!("the command complains: {}", String::from_utf8_lossy(&bytes));
            }
            // A command that outlives its connection says where its output begins.
            ExecEvent::Resumed(_) => {}
            ExecEvent::End => bail!("the end of a look at output"),
            ExecEvent::Exit(exit) => bail!("the command ended without a line: {exit:?}"),
        }
    }
}

/// Tells a command something.
pub(crate) async fn tell(session: &ExecSession, control: ExecControl) -> Result<()> {
    session
        .control
        .send(control)
        .await
        .context("the command takes no control")
}

/// Bytes as a stream in pieces.
pub(crate) fn stream(content: impl Into<Bytes>) -> ByteReceiver {
    const CHUNK_SIZE: usize = 48 * 1024;
    let mut content = content.into();
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        while !content.is_empty() {
            let piece = content.split_to(CHUNK_SIZE.min(content.len()));
            if sender.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Everything that a stream brings.
pub(crate) async fn collect(mut data: ByteReceiver) -> Result<Vec<u8>, OpError> {
    let mut content = Vec::new();
    while let Some(piece) = data.recv().await {
        content.extend_from_slice(&piece?);
    }
    Ok(content)
}
