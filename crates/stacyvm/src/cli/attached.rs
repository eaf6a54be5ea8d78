//! A command elsewhere as if it ran here: its input, output, signals and terminal are ours.
//!
//! Shared by `run`, whose command is behind an agent, and `exec`, whose command is behind a server.

use std::process::ExitCode;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use stacyvm_types::{ExitReason, OutputStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::signals::{SignalEvent, Signals};
use super::terminal::{RawTerminal, terminal_size};
use crate::failure::exit_code;

/// The way to a running command: its input, its terminal and signals.
pub(crate) trait CommandControl {
    /// Hands on input, waiting until there is room for it; false when the command takes none any more.
    async fn stdin(&self, bytes: Bytes) -> bool;
    /// Ends the input.
    async fn close_stdin(&self);
    /// Gives its terminal another size.
    async fn resize(&self, cols: u16, rows: u16);
    /// Answers a signal to this program, the `times`-th one. None to wait on for the command's
    /// end, else what to exit with at once.
    async fn signal(&self, number: i32, times: u32) -> Option<ExitCode>;
}

/// What happens to a running command: output, or its end.
pub(crate) enum CommandEvent {
    Output(OutputStream, Bytes),
    Exit {
        exit_code: i32,
        reason: Option<ExitReason>,
    },
}

/// The way back from a running command.
pub(crate) trait CommandEvents {
    /// The next output, or the end.
    async fn next(&mut self) -> Result<CommandEvent>;
}

/// Which of this program's own channels the command is connected to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attachment {
    /// Our standard input.
    pub(crate) stdin: bool,
    /// Our terminal: keys go to the command as they are, and sizes too.
    pub(crate) tty: bool,
}

/// Connects the command to us until it ends, and exits as it did.
pub(crate) async fn attach(
    remote: &impl CommandControl,
    source: &mut impl CommandEvents,
    attachment: Attachment,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let raw = if attachment.tty && attachment.stdin {
        RawTerminal::enter()
    } else {
        None
    };
    let result = relay(remote, source, attachment, signals).await;
    // Before anything is printed about how it ended.
    drop(raw);
    let (code, reason) = result?;
    if let Some(words) = reason.and_then(explain) {
        eprintln!("stacyvm: {words}");
    }
    Ok(code)
}

async fn relay(
    remote: &impl CommandControl,
    source: &mut impl CommandEvents,
    attachment: Attachment,
    signals: &mut Signals,
) -> Result<(ExitCode, Option<ExitReason>)> {
    let feeding = async {
        if attachment.stdin {
            feed(remote).await;
        } else {
            remote.close_stdin().await;
        }
        // The end of the input is not the end of the command.
        std::future::pending::<()>().await;
    };
    let mut feeding = std::pin::pin!(feeding);
    let mut printing = std::pin::pin!(print(source));
    let mut signalled = 0;
    loop {
        tokio::select! {
            ended = printing.as_mut() => return ended,
            () = feeding.as_mut() => {}
            heard = signals.next() => match heard {
                SignalEvent::Signal(number) => {
                    signalled += 1;
                    if let Some(code) = remote.signal(number, signalled).await {
                        return Ok((code, None));
                    }
                }
                SignalEvent::Resize => {
                    if attachment.tty && let Some(size) = terminal_size() {
                        remote.resize(size.cols, size.rows).await;
                    }
                }
            },
        }
    }
}

/// Our input becomes the command's.
async fn feed(remote: &impl CommandControl) {
    let mut input = tokio::io::stdin();
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    loop {
        buffer.reserve(16 * 1024);
        match input.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return remote.close_stdin().await,
            Ok(_) => {
                if !remote.stdin(buffer.split().freeze()).await {
                    return;
                }
            }
        }
    }
}

/// The command's output becomes ours, until its end or until our output is closed.
async fn print(source: &mut impl CommandEvents) -> Result<(ExitCode, Option<ExitReason>)> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    loop {
        let written = match source.next().await? {
            CommandEvent::Output(OutputStream::Stdout, bytes) => write(&mut out, &bytes).await,
            CommandEvent::Output(OutputStream::Stderr, bytes) => write(&mut err, &bytes).await,
            CommandEvent::Exit {
                exit_code: code,
                reason,
            } => return Ok((exit_code(code), reason)),
        };
        match written {
            Ok(()) => {}
            // Our output was closed, as with "| head": what SIGPIPE would have said.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok((exit_code(128 + 13), None));
            }
            Err(error) => return Err(error).context("cannot write the command's output"),
        }
    }
}

async fn write(target: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    target.write_all(bytes).await?;
    target.flush().await
}

/// What a person should hear about an end that was not the command's own.
fn explain(reason: ExitReason) -> Option<&'static str> {
    match reason {
        ExitReason::Exit | ExitReason::Signal => None,
        ExitReason::Timeout => Some("the command ran into its timeout and was killed"),
        ExitReason::Oom => Some("the sandbox ran out of memory, give it more with --memory"),
        ExitReason::SandboxDestroyed => Some("the sandbox was destroyed under the command"),
    }
}
