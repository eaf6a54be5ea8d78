//! `stacyvm bench`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::json;

use super::global::{Global, OutputFormat};
use super::output;
use crate::bench::floor::Floor;
use crate::bench::machine::Machine;
use crate::bench::samples::{HEADING, Samples};
use crate::bench::target::{OwnServer, Target};
use crate::bench::{self, Bench, LABEL, Mode, Row};

/// Measure how fast sandboxes are. Without --server (or STACYVM_SERVER) it starts a server of its
/// own on a free port.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Samples of each row.
    #[arg(long, default_value_t = 100, value_name = "N")]
    iterations: usize,
    /// How sandboxes are asked for in the row "first".
    #[arg(long, value_delimiter = ',', value_name = "MODE", value_enum, default_values_t = Mode::value_variants().to_vec())]
    mode: Vec<Mode>,
    /// How many requests go on at once, where a row has several.
    #[arg(long, default_value_t = 8, value_name = "N")]
    concurrency: usize,
    /// Rows to measure; all by default.
    #[arg(long, value_delimiter = ',', value_name = "ROW", value_enum, default_values_t = Row::value_variants().to_vec())]
    rows: Vec<Row>,
    /// Seconds after which a row begins no further sample.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    time_limit: u64,
    /// Image of the sandboxes.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Provider of the sandboxes.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Measure sandboxes that have a network; without it they have none. The host's network is
    /// changed while it goes on: see docs/network.md.
    #[arg(long)]
    network: bool,
    /// Leave out the floor, the same work without a server.
    #[arg(long)]
    no_floor: bool,
    /// Write raw samples to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(measure(args, global))
}

async fn measure(args: Args, global: &Global) -> Result<ExitCode> {
    crate::wiring::raise_open_files();
    let target = match &global.server {
        Some(url) => Target {
            url: url.clone(),
            own: None,
        },
        None => {
            eprintln!("bench: starting a server");
            let own = OwnServer::start(args.provider.as_deref(), args.network).await?;
            Target {
                url: own.url.clone(),
                own: Some(own),
            }
        }
    };
    let result = measure_target(&args, global, &target).await;
    if let Some(own) = target.own {
        own.stop();
    }
    let rows = result?;
    let failed = rows.iter().any(|row| row.failures > 0);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn measure_target(args: &Args, global: &Global, target: &Target) -> Result<Vec<Samples>> {
    let client = stacyvm_client::Client::new(
        &target.url,
        global.api_key.as_deref(),
        global.user_id.as_deref(),
    )?;
    client
        .health()
        .await
        .with_context(|| format!("cannot measure {}", target.url))?;
    let floor = if args.no_floor {
        None
    } else {
        match Floor::start(args.image.clone(), args.network).await {
            Ok(floor) => Some(floor),
            Err(error) => {
                eprintln!("warning: no floor is measured: {error:#}");
                None
            }
        }
    };
    let bench = Bench {
        client,
        floor,
        iterations: args.iterations.max(1),
        concurrency: args.concurrency.max(1),
        time_limit: Duration::from_secs(args.time_limit),
        image: args.image.clone(),
        provider: args.provider.clone(),
        network: args.network,
    };
    let taken = bench::take(&bench, &args.rows, &args.mode, target).await;
    sweep(&bench).await;
    if let Some(floor) = bench.floor {
        floor.stop().await;
    }
    let rows = taken?;
    report(args, global, target, &rows)?;
    Ok(rows)
}

/// Removes what a row that failed half way left behind.
async fn sweep(bench: &Bench) {
    for sandbox in bench.client.list().await.unwrap_or_default() {
        if sandbox.metadata.get(LABEL.0).map(String::as_str) != Some(LABEL.1) {
            continue;
        }
        if let Err(error) = bench.client.destroy(sandbox.id.as_str()).await {
            eprintln!("warning: cannot destroy {}: {error}", sandbox.id);
        }
    }
}

fn report(args: &Args, global: &Global, target: &Target, rows: &[Samples]) -> Result<()> {
    let machine = Machine::here();
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "taken_at": jiff::Timestamp::now().to_string(),
        "machine": machine,
        "server": target.url,
        "own_server": target.own.is_some(),
        "iterations": args.iterations,
        "concurrency": args.concurrency,
        "network": args.network,
        "modes": args.mode.iter().map(|mode| value_name(*mode)).collect::<Vec<_>>(),
        "rows_asked": args.rows.iter().map(|row| bench::row_name(*row)).collect::<Vec<_>>(),
        "rows": rows,
    });
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&document)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if global.output == OutputFormat::Json {
        return output::json(&document);
    }
    let cells: Vec<Vec<String>> = rows.iter().map(Samples::cells).collect();
    output::table(&HEADING, &cells)?;
    for row in rows {
        if let Some(note) = &row.note {
            output::line(&format!("note: {}: {note}", row.name))?;
        }
    }
    output::line(
        "FLOOR is the median of the same work on the provider, without a server, taken alternately; \
         RATIO is P50 to FLOOR, where 1.00x would be no cost of ours",
    )
}

fn value_name(value: impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}
