//! Rows about what stands still: the idle server, idle sandboxes; and about the machine itself.

use anyhow::Result;
use serde::Serialize;

use super::measurement::Bench;
use super::samples::{Samples, Unit, milliseconds};
use super::target::{OwnServer, Target};

/// How many idle sandboxes are measured together.
const IDLE_SANDBOXES: u32 = 100;
/// How often the server is started.
const STARTS: usize = 5;

/// What the figures were taken on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    memory_mib: f64,
    kernel: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kibibytes("/proc/meminfo", "MemTotal:") / 1024.0,
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        }
    }
}

/// Resident memory of a process, MiB; 0 when it is gone.
pub(crate) fn resident(pid: u32) -> f64 {
    kibibytes(&format!("/proc/{pid}/status"), "VmRSS:") / 1024.0
}

/// The figure behind `label` in a file of /proc, which counts in KiB.
fn kibibytes(path: &str, label: &str) -> f64 {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            line.strip_prefix(label)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0.0)
}

/// What an idle server and an idle sandbox cost in memory.
pub(crate) async fn idle(bench: &Bench, target: &Target) -> Result<Vec<Samples>> {
    let mut rows = Vec::new();
    if let Some(own) = &target.own {
        let mut server = Samples::new("server, resident memory", Unit::Mebibytes).goal("<= 20");
        server.values.push(resident(own.pid()));
        rows.push(server);
    }
    let mut sandbox =
        Samples::new("idle sandbox, of the machine's memory", Unit::Mebibytes).goal("<= 1");
    sandbox.note = Some(format!(
        "MemAvailable before and after {IDLE_SANDBOXES} sandboxes, divided; other work on the machine shows in it"
    ));
    let available = || kibibytes("/proc/meminfo", "MemAvailable:") / 1024.0;
    let mut made = Vec::new();
    let before = available();
    for _ in 0..IDLE_SANDBOXES {
        made.push(bench.spawn().await?.id);
    }
    let used = before - available();
    sandbox.values.push(used / f64::from(IDLE_SANDBOXES));
    for id in made {
        bench.client.destroy(id.as_str()).await?;
    }
    rows.push(sandbox);
    Ok(rows)
}

/// Start of the server process to its first answer, each time in a new directory.
pub(crate) async fn start(bench: &Bench, target: &Target) -> Result<Vec<Samples>> {
    let Some(own) = &target.own else {
        return Ok(Vec::new());
    };
    let mut row = Samples::new("server start -> first answer", Unit::Milliseconds).goal("<= 100");
    row.note = Some("empty data directory, so the first view of the host is built too".to_owned());
    row.values.push(milliseconds(own.first_answer));
    for _ in 1..STARTS {
        let server = OwnServer::start(bench.provider.as_deref(), bench.network).await?;
        row.values.push(milliseconds(server.first_answer));
        server.stop();
    }
    Ok(vec![row])
}
