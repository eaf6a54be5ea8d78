//! `stacyvm exec`: a command in a sandbox of a server, its output as it comes, its exit code ours.
//!
//! Input that is no terminal is read to its end first and travels with the request; a terminal is
//! not connected. When this program is interrupted the connection closes, and with it the server
//! kills the command's whole process tree.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use stacyvm_types::ExecRequest;
use tokio::signal::unix::{SignalKind, signal};

use super::values::{Pair, map};
use super::{Form, Global, output};
use crate::failure::{exit_code, hinted};

/// The longest input, in bytes: it must fit into a request of 4 MiB with its quoting.
const MAX_INPUT: u64 = 1024 * 1024;
/// How long we wait for the end of the input before saying so.
const PATIENCE: Duration = Duration::from_secs(2);

/// Run a command in a sandbox.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which sandbox.
    #[arg(value_name = "ID")]
    id: String,
    /// A variable for the command; may be repeated.
    #[arg(long, short = 'e', value_name = "NAME=VALUE")]
    env: Vec<Pair>,
    /// Where it starts.
    #[arg(long, short = 'w', value_name = "PATH")]
    workdir: Option<String>,
    /// Who it runs as.
    #[arg(long, short = 'u', value_name = "USER")]
    user: Option<String>,
    /// When it is killed, like 30s or 5m.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Give it no input, whatever this program's input is.
    #[arg(long, short = 'n')]
    no_stdin: bool,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let mut words = args.command.into_iter();
    let stdin = if args.no_stdin { None } else { input().await? };
    let request = ExecRequest {
        command: words.next().context("no command")?,
        args: Some(words.collect()),
        mode: Some("argv".to_owned()),
        env: map(args.env),
        workdir: args.workdir,
        timeout: args.timeout,
        user: args.user,
        stdin,
        stream: None,
        detach: None,
    };
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    tokio::select! {
        code = execute(&args.id, request, global) => code,
        _ = interrupt.recv() => Ok(exit_code(128 + 2)),
        _ = terminate.recv() => Ok(exit_code(128 + 15)),
    }
}

async fn execute(id: &str, request: ExecRequest, global: &Global) -> Result<ExitCode> {
    let client = global.client()?;
    let failed = || format!("cannot run the command in {id}");
    if global.output == Form::Json {
        let response = client.exec(id, &request).await.with_context(failed)?;
        output::json(&response)?;
        return Ok(exit_code(response.exit_code));
    }
    let mut lines = client
        .exec_stream(id, &request)
        .await
        .with_context(failed)?;
    while let Some(line) = lines.next().await {
        let line = line.with_context(failed)?;
        match line.stream.as_str() {
            "stdout" => write(std::io::stdout().lock(), &line.data)?,
            "stderr" => write(std::io::stderr().lock(), &line.data)?,
            "exit" => {
                if let Some(words) = line.reason.and_then(super::run::explain) {
                    eprintln!("stacyvm: {words}");
                }
                return Ok(exit_code(line.exit_code.unwrap_or(0)));
            }
            _ => {}
        }
    }
    bail!("the server closed the connection before the command ended")
}

fn write(mut target: impl Write, text: &str) -> Result<()> {
    target.write_all(text.as_bytes())?;
    target.flush()?;
    Ok(())
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
    let bytes = match tokio::time::timeout(PATIENCE, &mut reading).await {
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
            "copy it into the sandbox with \"stacyvm cp\" first",
        ));
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(hinted(
            "standard input is not UTF-8 text",
            "copy it into the sandbox with \"stacyvm cp\" first",
        )),
    }
}

#[cfg(test)]
impl Args {
    pub(crate) fn words(&self) -> &[String] {
        &self.command
    }
}
