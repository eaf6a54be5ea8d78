//! `stacyvm run`: one command in a fresh sandbox, with no server, gone afterwards.
//!
//! Input, output, signals and the exit code are the command's; with a terminal on both ends it
//! gets one of its own. Whatever happens, the sandbox is destroyed before this program ends; when
//! it is killed outright, the next run removes what it left.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use stacyvm_orchestrator::Caller;
use stacyvm_provider::SandboxOps;
use stacyvm_provider::ops::{
    ExecControl, ExecEvent, ExecExit, ExecSession, ExecSpec, Signal as SandboxSignal,
};
use stacyvm_types::{ExitReason, GoDuration, OutputStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::Global;
use super::signals::{Heard, Signals};
use super::terminal::{RawTerminal, terminal_size};
use super::values::SandboxOptions;
use crate::failure::exit_code;
use crate::wiring::private::Private;
use crate::{logging, wiring};

/// Run one command in a fresh sandbox, without a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sandbox: SandboxOptions,
    /// When the command is killed, like 30s or 5m.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<GoDuration>,
    /// The command and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    logging::install_quiet();
    let mut loader = global.loader();
    if let Some(provider) = &args.sandbox.provider {
        loader = loader.flag("providers.default", "--provider", provider.clone());
    }
    let loaded = super::loaded(loader)?;
    wiring::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let private = Private::start(&loaded).await?;
        let result = in_sandbox(&private, args, &mut signals).await;
        private.end().await;
        result
    });
    // A read of standard input cannot be interrupted and must not hold the exit up.
    runtime.shutdown_background();
    result
}

async fn in_sandbox(private: &Private, args: Args, signals: &mut Signals) -> Result<ExitCode> {
    let caller = Caller::default();
    let mut request = args.sandbox.into_request();
    if request.ttl.is_none() {
        // A command that is waited for must not lose its computer to the default of a server.
        request.ttl = Some("24h".to_owned());
    }
    let sandbox = tokio::select! {
        sandbox = private.orchestrator.spawn(&caller, request, None) => {
            sandbox.context("cannot make the sandbox")?
        }
        number = signals.next_end() => return Ok(exit_code(128 + number)),
    };
    let operations = private
        .orchestrator
        .sandbox(&caller, sandbox.id.as_str())
        .await?;
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let spec = ExecSpec {
        argv: args.command,
        stdin: true,
        tty: if tty { terminal_size() } else { None },
        timeout: args
            .timeout
            .filter(|timeout| timeout.is_positive())
            .map(GoDuration::to_std),
        ..ExecSpec::default()
    };
    let code = command(operations, spec, signals).await;
    private
        .orchestrator
        .destroy(&caller, sandbox.id.as_str())
        .await
        .context("cannot destroy the sandbox")?;
    code
}

/// Runs the command to its end, connected to our own input, output and signals.
async fn command(
    operations: Arc<dyn SandboxOps>,
    spec: ExecSpec,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let tty = spec.tty.is_some();
    let ExecSession {
        events, control, ..
    } = operations
        .exec(spec)
        .await
        .context("cannot start the command")?;
    let raw = if tty { RawTerminal::enter() } else { None };
    let feeding = tokio::spawn(feed(control.clone()));
    let mut printing = tokio::spawn(print(events));
    let mut signalled = 0;
    let exit = loop {
        tokio::select! {
            exit = &mut printing => break exit.context("the output was lost")?,
            heard = signals.next() => {
                let word = match heard {
                    Heard::Signal(number) => {
                        signalled += 1;
                        // Who asks twice does not want to wait for the command's opinion.
                        if signalled > 1 {
                            Some(ExecControl::Kill)
                        } else {
                            Some(ExecControl::Signal(SandboxSignal(number)))
                        }
                    }
                    Heard::Resize if tty => terminal_size().map(ExecControl::Resize),
                    Heard::Resize => None,
                };
                if let Some(word) = word {
                    // A command that has just ended needs no word any more.
                    let _ = control.try_send(word);
                }
            }
        }
    };
    feeding.abort();
    drop(raw);
    Ok(match exit? {
        Some(exit) => {
            if let Some(words) = explain(exit.reason) {
                eprintln!("stacyvm: {words}");
            }
            exit_code(exit.exit_code)
        }
        // Whoever read our output has gone, as with "| head": what SIGPIPE would have said.
        None => exit_code(128 + 13),
    })
}

/// What a person should hear about an end that was not the command's own.
pub(crate) fn explain(reason: ExitReason) -> Option<&'static str> {
    match reason {
        ExitReason::Exit | ExitReason::Signal => None,
        ExitReason::Timeout => Some("the command ran into its timeout and was killed"),
        ExitReason::Oom => Some("the sandbox ran out of memory, give it more with --memory"),
        ExitReason::SandboxDestroyed => Some("the sandbox was destroyed under the command"),
    }
}

/// Our input becomes the command's.
async fn feed(control: mpsc::Sender<ExecControl>) {
    let mut input = tokio::io::stdin();
    let mut buffer = bytes::BytesMut::with_capacity(64 * 1024);
    loop {
        buffer.reserve(16 * 1024);
        let word = match input.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => ExecControl::CloseStdin,
            Ok(_) => ExecControl::Stdin(buffer.split().freeze()),
        };
        let end = word == ExecControl::CloseStdin;
        if control.send(word).await.is_err() || end {
            return;
        }
    }
}

/// The command's output becomes ours; none when nobody reads it any more.
async fn print(mut events: mpsc::Receiver<ExecEvent>) -> Result<Option<ExecExit>> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(event) = events.recv().await {
        let written = match event {
            ExecEvent::Output(OutputStream::Stdout, bytes) => write(&mut out, &bytes).await,
            ExecEvent::Output(OutputStream::Stderr, bytes) => write(&mut err, &bytes).await,
            ExecEvent::Exit(exit) => return Ok(Some(exit)),
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(None),
            Err(error) => return Err(error).context("cannot write the command's output"),
        }
    }
    anyhow::bail!("the connection to the sandbox broke")
}

async fn write(target: &mut (impl AsyncWriteExt + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    target.write_all(bytes).await?;
    target.flush().await
}
