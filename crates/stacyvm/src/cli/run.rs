//! `stacyvm run`: one command in a fresh sandbox, with no server, gone afterwards.
//!
//! Input, output, signals and the exit code are the command's; with a terminal on both ends it
//! gets one of its own. Whatever happens, the sandbox is destroyed before this program ends; when
//! it is killed outright, the next run removes what it left.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use stacyvm_orchestrator::Caller;
use stacyvm_provider::SandboxOps;
use stacyvm_provider::ops::{ExecControl, ExecEvent, ExecSpec, Signal as SandboxSignal, TtySize};
use stacyvm_types::GoDuration;
use tokio::sync::mpsc;

use super::Global;
use super::attached::{Connected, Remote, Said, Source, attach};
use super::signals::Signals;
use super::terminal::terminal_size;
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
    let connected = Connected {
        stdin: true,
        tty: spec.tty.is_some(),
    };
    let session = operations
        .exec(spec)
        .await
        .context("cannot start the command")?;
    let remote = BehindAgent(session.control);
    attach(&remote, &mut Events(session.events), connected, signals).await
}

/// The command behind its sandbox's agent.
struct BehindAgent(mpsc::Sender<ExecControl>);

impl Remote for BehindAgent {
    async fn stdin(&self, bytes: Bytes) -> bool {
        self.0.send(ExecControl::Stdin(bytes)).await.is_ok()
    }

    async fn close_stdin(&self) {
        // A command that has ended needs no end of input.
        let _ = self.0.send(ExecControl::CloseStdin).await;
    }

    async fn resize(&self, cols: u16, rows: u16) {
        // A command that has just ended needs no word any more.
        let size = TtySize { cols, rows };
        let _ = self.0.try_send(ExecControl::Resize(size));
    }

    async fn signal(&self, number: i32, times: u32) -> Option<ExitCode> {
        // Who asks twice does not want to wait for the command's opinion. The sandbox is to be
        // destroyed in any case, so we wait for the end.
        let word = if times > 1 {
            ExecControl::Kill
        } else {
            ExecControl::Signal(SandboxSignal(number))
        };
        let _ = self.0.try_send(word);
        None
    }
}

/// What the agent says.
struct Events(mpsc::Receiver<ExecEvent>);

impl Source for Events {
    async fn next(&mut self) -> Result<Said> {
        match self.0.recv().await {
            Some(ExecEvent::Output(stream, bytes)) => Ok(Said::Output(stream, bytes)),
            Some(ExecEvent::Exit(exit)) => Ok(Said::Exit {
                exit_code: exit.exit_code,
                reason: Some(exit.reason),
            }),
            None => anyhow::bail!("the connection to the sandbox broke"),
        }
    }
}
