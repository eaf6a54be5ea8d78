//! Reports to the provider of what was refused, limited in rate for each sandbox.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::{Notice, Reason, Report};
use crate::sandboxes::{Sandbox, Sandboxes};

/// The longest target in a notice, in bytes.
const MAX_TARGET: usize = 253;

/// Sends notices to the provider.
#[derive(Clone, Debug)]
pub(crate) struct NoticeSender {
    reports: mpsc::Sender<Report>,
}

impl NoticeSender {
    pub(crate) fn new(reports: mpsc::Sender<Report>) -> Self {
        Self { reports }
    }

    /// Reports that something was refused, or counts it when there is too much to report.
    pub(crate) fn refused(
        &self,
        sandbox: &Sandbox,
        target: &str,
        port: Option<u16>,
        reason: Reason,
    ) {
        if !sandbox.notices().allow() {
            return;
        }
        let notice = Notice::Refused {
            sandbox: sandbox.id.clone(),
            target: printable(target.as_bytes()),
            port,
            reason,
        };
        // A sandbox's connection never waits for the provider to read.
        if self.reports.try_send(Report::Notice(notice)).is_err() {
            sandbox.notices().leave_out();
        }
    }

    /// As [`Self::refused`], for a connection that named no host.
    pub(crate) fn refused_address(
        &self,
        sandbox: &Sandbox,
        address: IpAddr,
        port: u16,
        reason: Reason,
    ) {
        let target = address.to_canonical().to_string();
        self.refused(sandbox, &target, Some(port), reason);
    }

    /// Reports every second how much was left out. Never returns.
    pub(crate) async fn report_left_out(self, sandboxes: Arc<Sandboxes>) {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            for sandbox in sandboxes.all() {
                let count = sandbox.notices().take_left_out();
                if count == 0 {
                    continue;
                }
                let notice = Notice::LeftOut {
                    sandbox: sandbox.id.clone(),
                    count,
                };
                // Waits while the provider is behind; the process ends when it is gone.
                if self.reports.send(Report::Notice(notice)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Bytes from a sandbox as printable text, cut to the longest target.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = bytes.escape_ascii().to_string();
    text.truncate(MAX_TARGET);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Limits, Policy};

    #[tokio::test(start_paused = true)]
    async fn too_many_become_a_count() {
        let sandboxes = Arc::new(Sandboxes::new(Limits::default()));
        let source: IpAddr = "10.0.0.2".parse().unwrap();
        let id = stacyvm_types::SandboxId::from_u32(1);
        sandboxes.set(&id, &[source], Policy::Domains(Vec::new()));
        let sandbox = sandboxes.at(source).unwrap();
        let (sender, mut reports) = mpsc::channel(1024);
        let notices = NoticeSender::new(sender);
        for _ in 0..1000 {
            notices.refused(&sandbox, "a\n.example", None, Reason::NotAllowed);
        }
        tokio::spawn(notices.report_left_out(sandboxes));
        let mut refused = 0;
        loop {
            match reports.recv().await {
                Some(Report::Notice(Notice::Refused { target, .. })) => {
                    assert_eq!(target, "a\\n.example");
                    refused += 1;
                }
                Some(Report::Notice(Notice::LeftOut { count, .. })) => {
                    assert_eq!((refused, count), (20, 980));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_shown_is_short_and_harmless() {
        assert_eq!(printable(b"a\x1b[1m\xff"), "a\\x1b[1m\\xff");
        assert_eq!(printable(&[7; 1000]).len(), MAX_TARGET);
    }
}
