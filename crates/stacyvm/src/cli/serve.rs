//! `stacyvm serve`: configuration in, a listening server, and an orderly end.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use stacyvm_config::Loaded;
use stacyvm_server::Listeners;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::global::{self, Global};
use super::output;
use crate::failure::WithHint;
use crate::telemetry::Telemetry;
use crate::{logging, wiring};

/// Start the server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Directory of the database, the images and the sandboxes.
    #[arg(long, value_name = "PATH")]
    data_dir: Option<String>,
    /// Provider of sandboxes whose request names none: auto, native, mock.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Level of the log: debug, info, warn, error.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Format of the log: json, pretty.
    #[arg(long, value_name = "FORM")]
    log_format: Option<String>,
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let mut loader = global.loader();
    for (key, flag, value) in [
        ("server.host", "--host", args.host),
        ("server.port", "--port", args.port),
        ("server.data_dir", "--data-dir", args.data_dir),
        ("providers.default", "--provider", args.provider),
        ("logging.level", "--log-level", args.log_level),
        ("logging.format", "--log-format", args.log_format),
    ] {
        if let Some(value) = value {
            loader = loader.flag(key, flag, value);
        }
    }
    let loaded = global::check(loader.load())?;
    let telemetry = Telemetry::start(&loaded.config.telemetry)?;
    logging::install(&loaded.config.logging, &telemetry);
    for warning in &loaded.warnings {
        let hint = warning.hint.as_deref().unwrap_or("");
        tracing::warn!(problem = %warning, hint, "Configuration has something unknown");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(serve(&loaded));
    runtime.shutdown_timeout(Duration::from_secs(1));
    // After the runtime: what its last tasks did is among it.
    telemetry.finish();
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(loaded: &Loaded) -> Result<()> {
    wiring::raise_open_files();
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone())?);
    // The address first: a port that is taken must be heard of before anything is made.
    let listener = bind(loaded).await?;
    let address = listener
        .local_addr()
        .context("cannot read the own address")?;
    let mut listeners = Listeners::new(listener);
    let mut previews = None;
    for text in &loaded.config.server.preview_listen {
        let listener = bind_previews(text).await?;
        previews = previews.or(listener.local_addr().ok());
        listeners = listeners.with_previews(listener);
    }
    let service = wiring::start(loaded, previews.unwrap_or(address)).await?;
    let url = format!("http://{}", reachable(address));
    tracing::info!(
        %url,
        provider = %service.provider,
        isolation = %service.isolation,
        data_dir = %service.data_dir.display(),
        config = %loaded.file.as_deref().unwrap_or(Path::new("none")).display(),
        "Server listens"
    );
    output::line(&format!(
        "StacyVM listens on {url} (provider: {}, isolation: {})",
        service.provider, service.isolation
    ))?;
    let front = async {
        let served = stacyvm_server::serve(
            listeners,
            service.orchestrator.clone(),
            service.server_settings.clone(),
            stop.clone(),
        )
        .await;
        stop.cancel();
        served.context("the server stopped")
    };
    // Together: an answer that streams ends only when its command does, and that the orchestrator
    // sees to.
    let commands = async {
        stop.cancelled().await;
        tracing::info!("Server stops, commands in flight may end");
        let deadline = loaded.config.server.shutdown_timeout.to_std();
        service.orchestrator.shutdown(deadline).await;
    };
    let (served, ()) = tokio::join!(front, commands);
    signals.abort();
    tracing::info!("Server stopped, sandboxes live on");
    served
}

async fn bind(loaded: &Loaded) -> Result<TcpListener> {
    let server = &loaded.config.server;
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    TcpListener::bind((host, server.port))
        .await
        .with_context(|| format!("cannot listen on {host}, port {}", server.port))
        .hint("stop what uses the port, or choose another with --port")
}

async fn bind_previews(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for previews"))
        .hint("stop what uses the port, or choose another in server.preview_listen")
}

/// What the first signal does is up to the caller; the second ends the process at once.
fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    Ok(async move {
        let mut first = true;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if !first {
                tracing::warn!("Server ends at once, on a second signal");
                std::process::exit(130);
            }
            first = false;
            stop.cancel();
        }
    })
}

/// The address as a client on this machine would write it.
fn reachable(address: std::net::SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}
