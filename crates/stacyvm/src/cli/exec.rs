//! `stacyvm exec`: a command in a sandbox of a server, its input, output, signals and exit code
//! ours; with a terminal on both ends it gets one of its own.
//!
//! When this program ends before the command the connection closes, and with it the server kills
//! the command's whole process tree. As JSON the whole answer is printed at the end, and the input
//! travels with the request.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use bytes::Bytes;
use stacyvm_client::{Client, ExecFrame, ExecInput, ExecOutput};
use stacyvm_types::ExecRequest;

use super::attached::{Attachment, CommandControl, CommandEvent, CommandEvents, attach};
use super::global::{Global, OutputFormat};
use super::output;
use super::signals::Signals;
use super::terminal::terminal_size;
use super::values::{NameValue, map};
use crate::failure::{exit_code, hinted};

/// The longest input of a JSON answer's command, in bytes: it must fit into a request of 4 MiB with
/// its quoting.
const MAX_INPUT: u64 = 1024 * 1024;
/// How long the end of such an input is waited for before a person is told so.
const INPUT_NOTICE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it may take to hand a signal on.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The size of a terminal that we do not have.
const DEFAULT_TERMINAL_SIZE: (u16, u16) = (80, 24);

/// Run a command in a sandbox.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the sandbox.
    #[arg(value_name = "ID")]
    id: String,
    /// Environment variable for the command; may be repeated.
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    env: Vec<NameValue>,
    /// Working directory of the command.
    #[arg(long, short = 'w', value_name = "PATH")]
    workdir: Option<String>,
    /// User that the command runs as.
    #[arg(long, short = 'u', value_name = "USER")]
    user: Option<String>,
    /// Time after which the command is killed, like 30s or 5m.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Give it this program's input; that is so without this option too.
    #[arg(long, short = 'i', conflicts_with = "no_stdin")]
    interactive: bool,
    /// Give it a terminal [default: when input and output are one].
    #[arg(long, short = 't')]
    tty: bool,
    /// Give it no terminal, whatever input and output are.
    #[arg(long, short = 'T', conflicts_with = "tty")]
    no_tty: bool,
    /// Give it no input, whatever this program's input is.
    #[arg(long, short = 'n')]
    no_stdin: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let mut words = args.command.into_iter();
    let request = ExecRequest {
        command: words.next().context("no command")?,
        args: Some(words.collect()),
        mode: Some("argv".to_owned()),
        env: map(args.env),
        workdir: args.workdir,
        timeout: args.timeout,
        user: args.user,
        stdin: None,
        stream: None,
        detach: None,
    };
    let mut signals = Signals::listen()?;
    let client = global.client()?;
    let failed = || format!("cannot run the command in {}", args.id);
    if global.output == OutputFormat::Json {
        return tokio::select! {
            code = captured(&client, &args.id, request, !args.no_stdin) => code.with_context(failed),
            number = signals.next_end() => Ok(exit_code(128 + number)),
        };
    }
    let ours = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let attachment = Attachment {
        stdin: !args.no_stdin,
        tty: args.tty || (ours && !args.no_tty && !args.no_stdin),
    };
    let size = terminal_size().map_or(DEFAULT_TERMINAL_SIZE, |size| (size.cols, size.rows));
    let tty = attachment.tty.then_some(size);
    let starting = async {
        let (input, mut output) = client.exec_interactive(&args.id, &request, tty).await?;
        // Until it runs our terminal stays as it is.
        let first = output.next().await?;
        Ok::<_, Error>((input, output, first))
    };
    let (input, output, first) = tokio::select! {
        started = starting => started.with_context(failed)?,
        number = signals.next_end() => return Ok(exit_code(128 + number)),
    };
    let mut heard = ServerFrames {
        first: Some(first),
        output,
    };
    let remote = BehindServer {
        input,
        tty: attachment.tty,
    };
    attach(&remote, &mut heard, attachment, &mut signals)
        .await
        .with_context(failed)
}

/// The command behind a server's WebSocket.
struct BehindServer {
    input: ExecInput,
    tty: bool,
}

// When the connection is gone its other half says so.
impl CommandControl for BehindServer {
    async fn stdin(&self, bytes: Bytes) -> bool {
        self.input.stdin(bytes).await
    }

    async fn close_stdin(&self) {
        self.input.close_stdin().await;
    }

    async fn resize(&self, cols: u16, rows: u16) {
        self.input.resize(cols, rows).await;
    }

    async fn signal(&self, number: i32, times: u32) -> Option<ExitCode> {
        // Keys of a terminal travel as bytes, so with one this is no Ctrl-C but a request to end
        // this program; and a second request does not wait for what the command makes of it.
        if self.tty || times > 1 {
            return Some(exit_code(128 + number));
        }
        let told = tokio::time::timeout(SIGNAL_TIMEOUT, self.input.signal(number)).await;
        (told != Ok(true)).then(|| exit_code(128 + number))
    }
}

/// The frames of the server, beginning with one that has been read already.
struct ServerFrames {
    first: Option<ExecFrame>,
    output: ExecOutput,
}

impl CommandEvents for ServerFrames {
    async fn next(&mut self) -> Result<CommandEvent> {
        loop {
            let frame = match self.first.take() {
                Some(frame) => frame,
                None => self.output.next().await?,
            };
            match frame {
                ExecFrame::Started { .. } => {}
                ExecFrame::Output(stream, bytes) => return Ok(CommandEvent::Output(stream, bytes)),
                ExecFrame::Exit { exit_code, reason } => {
                    return Ok(CommandEvent::Exit { exit_code, reason });
                }
            }
        }
    }
}

/// Runs it to its end and prints the whole answer.
async fn captured(
    client: &Client,
    id: &str,
    mut request: ExecRequest,
    stdin: bool,
) -> Result<ExitCode> {
    if stdin {
        request.stdin = input().await?;
    }
    let response = client.exec(id, &request).await?;
    output::json(&response)?;
    Ok(exit_code(response.exit_code))
}

/// All of standard input, unless it is a terminal.
async fn input() -> Result<Option<String>> {
    if std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let mut reading = tokio::task::spawn_blocking(|| {
        let mut bytes = Vec::new();
        std::io::stdin()
            .lock()
            .take(MAX_INPUT + 1)
            .read_to_end(&mut bytes)
            .map(|_| bytes)
    });
    let bytes = match tokio::time::timeout(INPUT_NOTICE_TIMEOUT, &mut reading).await {
        Ok(done) => done,
        Err(_) => {
            eprintln!("stacyvm: waiting for the end of standard input (--no-stdin leaves it out)");
            reading.await
        }
    }
    .context("reading standard input was interrupted")?
    .context("cannot read standard input")?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(hinted(
            format!("standard input is longer than {MAX_INPUT} bytes"),
            "leave out --output json, or copy it into the sandbox with \"stacyvm cp\" first",
        ));
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(hinted(
            "standard input is not UTF-8 text",
            "leave out --output json, or copy it into the sandbox with \"stacyvm cp\" first",
        )),
    }
}

#[cfg(test)]
impl Args {
    pub(crate) fn words(&self) -> &[String] {
        &self.command
    }
}
