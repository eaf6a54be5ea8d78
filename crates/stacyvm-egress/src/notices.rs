//! Telling the provider what was refused, but not more often than anybody reads.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::{Notice, Reason, Report};
use crate::members::{Member, Members};

/// The longest target that is told, in bytes.
const MAX_TARGET: usize = 253;

/// Where notices go.
#[derive(Clone, Debug)]
pub(crate) struct Notices {
    reports: mpsc::Sender<Report>,
}

impl Notices {
    pub(crate) fn new(reports: mpsc::Sender<Report>) -> Self {
        Self { reports }
    }

    /// Tells that something was refused, or counts it.
    pub(crate) fn refused(&self, member: &Member, target: &str, port: Option<u16>, reason: Reason) {
        if !member.notices().pass() {
            return;
        }
        let notice = Notice::Refused {
            sandbox: member.id.clone(),
            target: printable(target.as_bytes()),
            port,
            reason,
        };
        // When the provider does not read, nothing here waits for it.
        if self.reports.try_send(Report::Notice(notice)).is_err() {
            member.notices().leave_out();
        }
    }

    /// As [`Self::refused`], for a connection of which only the address is known.
    pub(crate) fn refused_address(
        &self,
        member: &Member,
        address: IpAddr,
        port: u16,
        reason: Reason,
    ) {
        let target = address.to_canonical().to_string();
        self.refused(member, &target, Some(port), reason);
    }

    /// Tells every second how much was left out. Never returns.
    pub(crate) async fn tell_left_out(self, members: Arc<Members>) {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            for member in members.all() {
                let count = member.notices().take_left_out();
                if count == 0 {
                    continue;
                }
                let notice = Notice::LeftOut {
                    sandbox: member.id.clone(),
                    count,
                };
                // Only as long as the provider is behind; the process ends when it is gone.
                if self.reports.send(Report::Notice(notice)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a sandbox sent, so that it can be shown.
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
        let members = Arc::new(Members::new(Limits::default()));
        let source: IpAddr = "10.0.0.2".parse().unwrap();
        let id = stacyvm_types::SandboxId::from_u32(1);
        members.set(&id, &[source], Policy::Domains(Vec::new()));
        let member = members.at(source).unwrap();
        let (sender, mut reports) = mpsc::channel(1024);
        let notices = Notices::new(sender);
        for _ in 0..1000 {
            notices.refused(&member, "a\n.example", None, Reason::NotAllowed);
        }
        tokio::spawn(notices.tell_left_out(members));
        let mut told = 0;
        loop {
            match reports.recv().await {
                Some(Report::Notice(Notice::Refused { target, .. })) => {
                    assert_eq!(target, "a\\n.example");
                    told += 1;
                }
                Some(Report::Notice(Notice::LeftOut { count, .. })) => {
                    assert_eq!((told, count), (20, 980));
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
