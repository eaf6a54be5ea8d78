//! What the kernel reports about this process, under the names that Prometheus clients share.
//!
//! Everything is read from `/proc`, which is no disk, so nothing waits; where there is none the
//! figures are left out.

use std::{fmt, fs};

use prometheus_client::encoding::DescriptorEncoder;

use super::exposition::{counter, gauge};

/// Ticks of a second in `/proc/PID/stat`: part of the kernel's interface on every machine that we
/// build for (proc_pid_stat(5), USER_HZ).
const TICKS: f64 = 100.0;

/// Resident memory; 0 where the system does not tell.
pub(super) fn resident_bytes() -> u64 {
    const KIB: u64 = 1024;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    field(&status, "VmRSS:").map_or(0, |kib| kib * KIB)
}

pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let resident = resident_bytes();
    if resident > 0 {
        let name = "process_resident_memory_bytes";
        gauge(encoder, name, "Resident memory.", resident)?;
    }
    if let Some((cpu, started)) = times() {
        let name = "process_cpu_seconds";
        counter(encoder, name, "Time on processors.", cpu)?;
        let name = "process_start_time_seconds";
        gauge(encoder, name, "Start, since the epoch.", started)?;
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The directory itself is open while it is counted.
        let open = open.count().saturating_sub(1);
        gauge(encoder, "process_open_fds", "Open files.", open)?;
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(most) = field(&limits, "Max open files") {
        let name = "process_max_fds";
        gauge(encoder, name, "How many files may be open.", most)?;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(threads) = field(&status, "Threads:") {
        gauge(encoder, "process_threads", "Threads.", threads)?;
    }
    Ok(())
}

/// Seconds on processors, and the start in seconds since the epoch.
fn times() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in front may hold anything, blanks and brackets too.
    let (_, rest) = stat.rsplit_once(')')?;
    // The first field here is the third of the line.
    let ticks = |number: usize| -> Option<f64> {
        rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
    };
    let booted = field(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
    let cpu = (ticks(14)? + ticks(15)?) / TICKS;
    Some((cpu, booted as f64 + ticks(22)? / TICKS))
}

/// The first number of the line that begins with `name`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[derive(Debug)]
    struct ProcessCollector;

    impl Collector for ProcessCollector {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            super::encode(&mut encoder)
        }
    }

    #[test]
    fn a_process_knows_itself() {
        assert!(resident_bytes() > 100 * 1024);
        let (_, started) = times().unwrap();
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - started;
        // `btime` is whole seconds, and a machine's clock may have been set since.
        assert!((-5.0..86_400.0).contains(&age), "{age}");
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).unwrap();
        for name in ["open_fds", "max_fds", "threads", "cpu_seconds_total"] {
            assert!(text.contains(&format!("\nprocess_{name} ")), "{text}");
        }
    }
}
