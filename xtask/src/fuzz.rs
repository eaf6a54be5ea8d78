//! The fuzz targets of `fuzz/`: built with coverage, run for a while, two at a time.
//!
//! The coverage is that of the compiler's own pass, asked for by flags that the stable compiler
//! takes too, so that no other toolchain is needed. A crash fails the task and its input is shown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::tools::{run, step};
use crate::workspace::{Workspace, cargo, host_target};

/// One file each in `fuzz/targets`, and a folder each in `fuzz/corpus`.
const TARGETS: [&str; 10] = [
    "agent_frames",
    "agent_link",
    "agent_paths",
    "agent_patterns",
    "client_hello",
    "config",
    "duration",
    "host_header",
    "image_documents",
    "image_layers",
];

/// What makes libFuzzer see which way the code went: a counter for every edge, and every
/// comparison.
const COVERAGE: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Targets at once.
const AT_ONCE: usize = 2;

/// Builds every target and runs each for so many seconds.
pub(crate) fn run_all(workspace: &Workspace, seconds: u32) -> Result<()> {
    let manifest = workspace.root.join("fuzz/Cargo.toml");
    let place = workspace.target.join("fuzz");
    step("build the fuzz targets", || {
        run(Command::new(cargo())
            .args(["build", "--release", "--locked", "--bins"])
            // Named, so that build scripts are compiled without coverage.
            .args(["--target", &host_target()])
            .arg("--manifest-path")
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&place)
            .env("RUSTFLAGS", COVERAGE))
    })?;
    let scratch = place.join("tmp");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).context("empty the targets' scratch directory")?;
    }
    fs::create_dir_all(&scratch).context("make the targets' scratch directory")?;
    let mut crashed = Vec::new();
    for names in TARGETS.chunks(AT_ONCE) {
        step(
            &format!("fuzz {} for {seconds} s", names.join(", ")),
            || {
                let running: Result<Vec<_>> = names
                    .iter()
                    .map(|name| Running::start(workspace, &place, name, seconds))
                    .collect();
                for running in running? {
                    crashed.extend(running.finish()?);
                }
                Ok(())
            },
        )?;
    }
    ensure!(crashed.is_empty(), "these crashed: {}", crashed.join(", "));
    Ok(())
}

struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
    crashes: PathBuf,
}

impl Running {
    fn start(
        workspace: &Workspace,
        place: &Path,
        name: &'static str,
        seconds: u32,
    ) -> Result<Self> {
        let found = place.join("corpus").join(name);
        let crashes = place.join("crashes").join(name);
        for directory in [&found, &crashes] {
            fs::create_dir_all(directory)
                .with_context(|| format!("make {}", workspace.shown(directory)))?;
        }
        let log = place.join(format!("{name}.log"));
        let output = fs::File::create(&log).context("make the target's log")?;
        let program = place.join(host_target()).join("release").join(name);
        let child = Command::new(program)
            .arg(&found)
            .arg(workspace.root.join("fuzz/corpus").join(name))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"])
            .env("TMPDIR", place.join("tmp"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the target's log")?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start the fuzz target {name}"))?;
        Ok(Self {
            name,
            child,
            log,
            crashes,
        })
    }

    /// Waits for the end; the name, when it crashed.
    fn finish(mut self) -> Result<Option<&'static str>> {
        let status = loop {
            match self.child.try_wait().context("wait for a fuzz target")? {
                Some(status) => break status,
                None => thread::sleep(Duration::from_millis(200)),
            }
        };
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let about = |words: &str| log.lines().rev().find(|line| line.contains(words));
        if !status.success() {
            eprintln!("{log}\n{}: {status}", self.name);
            eprintln!("the input is in {}", self.crashes.display());
            return Ok(Some(self.name));
        }
        // Without counters it would guess blindly and find nothing.
        if !log.contains("inline 8-bit counters") {
            bail!("{} runs without coverage:\n{log}", self.name);
        }
        let runs = about("stat::number_of_executed_units").unwrap_or("no statistics");
        let reached = about("cov: ").unwrap_or_default();
        eprintln!("    {}: {runs}\n    {reached}", self.name);
        Ok(None)
    }
}
