//! `stacyvm stats`: what a sandbox uses, against what it may use.

use std::process::ExitCode;

use anyhow::{Context, Result};
use stacyvm_types::SandboxStats;

use super::global::{Global, OutputFormat};
use super::output;

/// Show what a sandbox uses.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the sandbox.
    id: String,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<ExitCode> {
    let stats = global
        .client()?
        .stats(&args.id)
        .await
        .with_context(|| format!("cannot measure sandbox {}", args.id))?;
    match global.output {
        OutputFormat::Json => output::json(&stats)?,
        OutputFormat::Table if !stats.supported => output::line("Its provider cannot measure it")?,
        OutputFormat::Table => output::table(&["WHAT", "USED", "LIMIT"], &rows(&stats))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(stats: &SandboxStats) -> Vec<Vec<String>> {
    let count = |limit: u64| match limit {
        0 => "none".to_owned(),
        limit => limit.to_string(),
    };
    let size = |limit: u64| match limit {
        0 => "none".to_owned(),
        limit => bytes(limit),
    };
    let cores = |limit: f64| match limit {
        0.0 => "none".to_owned(),
        limit => limit.to_string(),
    };
    let row = |what: &str, used: String, limit: String| vec![what.to_owned(), used, limit];
    vec![
        row(
            "cores",
            format!("{:.2}", stats.cpu_pct / 100.0),
            cores(stats.cpu_limit),
        ),
        row(
            "memory",
            bytes(stats.mem_bytes),
            size(stats.mem_limit_bytes),
        ),
        row("processes", stats.pids.to_string(), count(stats.pids_limit)),
        row(
            "disk",
            bytes(stats.disk_bytes),
            size(stats.disk_limit_bytes),
        ),
        row("received", bytes(stats.net_rx_bytes), String::new()),
        row("sent", bytes(stats.net_tx_bytes), String::new()),
        row("out of memory", stats.oom_kills.to_string(), String::new()),
    ]
}

/// As people read it: `1.5 MiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value.fract() > 0.05 && value < 100.0);
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (32 << 20, "32 MiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn what_is_not_limited_says_so() {
        let stats = SandboxStats {
            supported: true,
            cpu_limit: 0.5,
            ..SandboxStats::default()
        };
        let rows = rows(&stats);
        assert_eq!(rows[0], ["cores", "0.00", "0.5"]);
        assert_eq!(rows[3], ["disk", "0 B", "none"]);
    }
}
