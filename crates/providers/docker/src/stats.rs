//! The resource usage of a sandbox, as its agent measures it, with the container's limits.

use std::time::Instant;

use stacyvm_provider::ops::{OpError, ReadRange};
use stacyvm_provider::prelude::*;
use stacyvm_types::SandboxStats;

use crate::connections::SandboxConnection;

/// How much of `/proc/net/dev` is read, which is more than any has, bytes.
const MAX_NET_DEV_BYTES: usize = 64 * 1024;

/// Measures a sandbox.
pub(crate) async fn measure(connection: &SandboxConnection) -> Result<SandboxStats, OpError> {
    let usage = connection.sandbox.usage().await?;
    let (received, sent) = traffic(connection).await.unwrap_or((0, 0));
    let now = Instant::now();
    let cpu_pct = match connection
        .cpu_reading
        .lock()
        .replace((now, usage.cpu_nanos))
    {
        Some((then, before)) if now > then => {
            let used = usage.cpu_nanos.saturating_sub(before) as f64;
            used / (now - then).as_nanos() as f64 * 100.0
        }
        _ => 0.0,
    };
    Ok(SandboxStats {
        supported: true,
        cpu_pct,
        mem_bytes: usage.mem_bytes,
        mem_limit_bytes: connection.limits.memory,
        // The agent does not count itself.
        pids: usage.pids + 1,
        disk_bytes: 0,
        net_rx_bytes: received,
        net_tx_bytes: sent,
        cpu_limit: connection.limits.cpus,
        pids_limit: connection.limits.pids,
        disk_limit_bytes: connection.limits.disk,
        oom_kills: 0,
    })
}

async fn traffic(connection: &SandboxConnection) -> Option<(u64, u64)> {
    let file = connection
        .sandbox
        .read("/proc/net/dev", ReadRange::default());
    let mut file = file.await.ok()?;
    let mut text = Vec::new();
    while let Some(chunk) = file.data.recv().await {
        text.extend(chunk.ok()?);
        if text.len() > MAX_NET_DEV_BYTES {
            return None;
        }
    }
    Some(parse_traffic(&String::from_utf8_lossy(&text)))
}

/// Bytes received and sent on every interface except the loopback; see proc_net_dev(5).
fn parse_traffic(text: &str) -> (u64, u64) {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(name, _)| name.trim() != "lo")
        .fold((0, 0), |(received, sent), (_, numbers)| {
            let number = |at: usize| -> u64 {
                let text = numbers.split_whitespace().nth(at);
                text.and_then(|text| text.parse().ok()).unwrap_or(0)
            };
            (received + number(0), sent + number(8))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_but_the_loopback_counts() {
        let text = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1000       2    0    0    0     0          0         0       30       3    0    0    0     0       0          0
  eth1:5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
";
        assert_eq!(parse_traffic(text), (1005, 37));
        assert_eq!(parse_traffic("nonsense"), (0, 0));
    }
}
