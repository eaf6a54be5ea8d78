//! `stacyvm run`: one command in a fresh sandbox, with no server, gone afterwards.
//!
//! Input, output, signals and the exit code are the command's; with a terminal on both ends it
//! gets one of its own. Whatever happens, the sandbox is destroyed before this program ends; when
//! it is killed outright, the next run removes what it left.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use bytes::Bytes;
use stacyvm_config::PullPolicy;
use stacyvm_orchestrator::{
    Caller, Error, ExecControl, ExecEvent, ExecSpec, Orchestrator, SandboxHandle,
    Signal as SandboxSignal, TtySize,
};
use stacyvm_types::{GoDuration, PullRequest};
use tokio::sync::mpsc;

use super::attached::{Attachment, CommandControl, CommandEvent, CommandEvents, attach};
use super::global::{self, Global};
use super::image::PullBars;
use super::signals::Signals;
use super::terminal::terminal_size;
use super::values::SandboxOptions;
use crate::failure::{exit_code, hinted};
use crate::wiring::private::PrivateOrchestrator;
use crate::{logging, wiring};

/// Run one command in a fresh sandbox, without a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    sandbox: SandboxOptions,
    /// Time after which the command is killed, like 30s or 5m.
    #[arg(long, value_name = "DURATION")]
    timeout: Option<GoDuration>,
    /// The command and its arguments; what the image starts by itself when there is none.
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    logging::install_quiet();
    let mut loader = global.loader();
    if let Some(provider) = &args.sandbox.provider {
        loader = loader.flag("providers.default", "--provider", provider.clone());
    }
    let loaded = global::load(loader)?;
    wiring::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let private = PrivateOrchestrator::start(&loaded).await?;
        let pulls = loaded.config.images.pull == PullPolicy::Missing;
        let result = in_sandbox(&private, args, pulls, &mut signals).await;
        private.end().await;
        result
    });
    // A read of standard input cannot be interrupted and must not hold the exit up.
    runtime.shutdown_background();
    result
}

async fn in_sandbox(
    private: &PrivateOrchestrator,
    args: Args,
    pulls: bool,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let caller = Caller::default();
    let mut request = args.sandbox.into_request();
    if args.command.is_empty() && request.image.is_none() {
        return Err(no_command("there is no command"));
    }
    let image = request.image.clone().filter(|image| !image.is_empty());
    if let Some(image) = &image {
        let fetched = tokio::select! {
            fetched = fetch(&private.orchestrator, image, pulls) => fetched,
            number = signals.next_end() => return Ok(exit_code(128 + number)),
        };
        fetched.context("cannot make the sandbox")?;
    }
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
    let handle = private.orchestrator.sandbox(&caller, &sandbox.id).await?;
    let argv = match image {
        Some(image) if args.command.is_empty() => own_command(&private.orchestrator, &image).await,
        _ => Ok(args.command),
    };
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let spec = |argv| ExecSpec {
        argv,
        stdin: true,
        tty: if tty { terminal_size() } else { None },
        timeout: args
            .timeout
            .filter(|timeout| timeout.is_positive())
            .map(GoDuration::to_std),
        ..ExecSpec::default()
    };
    let code = match argv {
        Ok(argv) => command(&handle, spec(argv), signals).await,
        Err(error) => Err(error),
    };
    private
        .orchestrator
        .destroy(&caller, &sandbox.id)
        .await
        .context("cannot destroy the sandbox")?;
    code
}

/// Fetches an image that is not here, where that is allowed, and shows how far it is. What cannot
/// be fetched the spawn says better, but for what the registry has against it.
async fn fetch(orchestrator: &Orchestrator, image: &str, pulls: bool) -> Result<()> {
    let wanted = orchestrator.resolve_image(image);
    let Ok(images) = orchestrator.images(None) else {
        return Ok(());
    };
    let missing = matches!(images.inspect(&wanted).await, Err(Error::NotFound(_)));
    if !pulls || !missing || wanted.starts_with('/') || wanted.starts_with("sha256:") {
        return Ok(());
    }
    let request = PullRequest {
        image: wanted,
        ..PullRequest::default()
    };
    let mut bars = PullBars::new();
    let (sender, mut lines) = mpsc::channel(64);
    let mut pulling = std::pin::pin!(images.pull(&request, Some(sender)));
    loop {
        tokio::select! {
            biased;
            Some(line) = lines.recv() => bars.update(&line),
            pulled = &mut pulling => return Ok(pulled.map(drop)?),
        }
    }
}

/// What the image starts by itself.
async fn own_command(orchestrator: &Orchestrator, image: &str) -> Result<Vec<String>> {
    let wanted = orchestrator.resolve_image(image);
    let found = match orchestrator.images(None) {
        Ok(images) => images.inspect(&wanted).await.ok(),
        Err(_) => None,
    };
    let config = found.map(|found| found.config).unwrap_or_default();
    let argv = [config.entrypoint, config.cmd].concat();
    if argv.is_empty() {
        return Err(no_command(&format!(
            "there is no command, and the image {image} starts none by itself"
        )));
    }
    Ok(argv)
}

fn no_command(message: &str) -> anyhow::Error {
    hinted(message, "name one: stacyvm run -- COMMAND")
}

/// Runs the command to its end, connected to our own input, output and signals.
async fn command(
    sandbox: &SandboxHandle,
    spec: ExecSpec,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let attachment = Attachment {
        stdin: true,
        tty: spec.tty.is_some(),
    };
    let session = sandbox
        .exec(spec)
        .await
        .context("cannot start the command")?;
    let remote = BehindAgent(session.control);
    attach(
        &remote,
        &mut AgentEvents(session.events),
        attachment,
        signals,
    )
    .await
}

/// The command behind its sandbox's agent.
struct BehindAgent(mpsc::Sender<ExecControl>);

impl CommandControl for BehindAgent {
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
        // A second signal means that the person does not want to wait for the command to react. The
        // sandbox is to be destroyed in any case, so we wait for the end.
        let word = if times > 1 {
            ExecControl::Kill
        } else {
            ExecControl::Signal(SandboxSignal(number))
        };
        let _ = self.0.try_send(word);
        None
    }
}

/// The events of the command from its agent.
struct AgentEvents(mpsc::Receiver<ExecEvent>);

impl CommandEvents for AgentEvents {
    async fn next(&mut self) -> Result<CommandEvent> {
        loop {
            return match self.0.recv().await {
                Some(ExecEvent::Output(stream, bytes)) => Ok(CommandEvent::Output(stream, bytes)),
                Some(ExecEvent::Exit(exit)) => Ok(CommandEvent::Exit {
                    exit_code: exit.exit_code,
                    reason: Some(exit.reason),
                }),
                // Only followers of a detached command are told these.
                Some(ExecEvent::Resumed(_) | ExecEvent::End) => continue,
                None => Err(anyhow::anyhow!("the connection to the sandbox broke")),
            };
        }
    }
}
