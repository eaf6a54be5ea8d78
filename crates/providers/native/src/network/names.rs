//! The process that resolves names for sandboxes and lets those with a list out by name: started,
//! told who may what, started again when it dies.
//!
//! What each sandbox may stands here, so that a process that comes anew is told all of it. While
//! none runs, names are not resolved and sandboxes with a list reach nothing: the rules of the
//! kernel stay.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stacyvm_egress::{EgressError, EgressHandle, Identity, Limits, Policy, Program, Settings};
use stacyvm_provider::{Egress, Notice, Notices};
use stacyvm_types::{Cidr, SandboxId};
use tokio::sync::{Notify, watch};

use super::rules::EgressPlace;
use super::{Lease, NetworkError, Site};

/// The port of name servers.
const DNS: u16 = 53;
/// Above every range of ids that sandboxes get; each range of addresses has a user of its own.
const FIRST_UID: u32 = 0x6000_0000;
/// How many name servers are asked, as the C library does it.
const MOST_UPSTREAMS: usize = 3;
/// First wait before a process that died is started again; doubled up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a sandbox waits for a process that is being started again.
const RESTART_LIMIT: Duration = Duration::from_secs(10);
/// How long a sandbox that goes waits for the process to forget it.
const FORGET_LIMIT: Duration = Duration::from_secs(2);

/// What never changes about it.
#[derive(Clone, Debug)]
struct Plan {
    program: Program,
    gateways: Vec<IpAddr>,
    allow_cidrs: Vec<Cidr>,
    name_servers: Vec<IpAddr>,
    ipv6: bool,
    uid: u32,
}

/// The process and what it is told.
#[derive(Debug)]
pub(crate) struct Names {
    plan: Plan,
    members: Mutex<HashMap<SandboxId, (Vec<IpAddr>, Policy)>>,
    /// None while it is being started again.
    current: watch::Sender<Option<Arc<Running>>>,
    /// It is to be started again although it lives.
    renew: Notify,
}

#[derive(Debug)]
struct Running {
    handle: EgressHandle,
    place: EgressPlace,
}

impl Names {
    /// Starts the process. `leases` are what boxes that live have.
    pub(crate) async fn start(
        program: Program,
        site: &Site,
        allow_cidrs: &[Cidr],
        name_servers: &[IpAddr],
        leases: &[(SandboxId, Lease)],
        notices: &Arc<Notices>,
    ) -> Result<Self, NetworkError> {
        let mut gateways = vec![IpAddr::V4(site.subnet.gateway())];
        gateways.extend(site.prefix.map(|prefix| IpAddr::V6(prefix.gateway())));
        let plan = Plan {
            program,
            gateways,
            allow_cidrs: allow_cidrs.to_vec(),
            name_servers: name_servers.to_vec(),
            ipv6: site.prefix.is_some(),
            uid: FIRST_UID + site.subnet.number(),
        };
        let members = leases
            .iter()
            .map(|(id, lease)| (id.clone(), membership(lease)))
            .collect();
        let names = Self {
            plan,
            members: Mutex::new(members),
            current: watch::Sender::new(None),
            renew: Notify::new(),
        };
        names.launch(notices).await?;
        Ok(names)
    }

    /// Where it serves, while it does.
    pub(crate) fn place(&self) -> Option<EgressPlace> {
        let current = self.current.borrow();
        current.as_ref().map(|running| running.place.clone())
    }

    /// Says what a sandbox may; in force when this returns.
    pub(crate) async fn set(&self, id: &SandboxId, lease: &Lease) -> Result<(), NetworkError> {
        let (addresses, policy) = membership(lease);
        self.members()
            .insert(id.clone(), (addresses.clone(), policy.clone()));
        let told = async {
            let mut current = self.current.subscribe();
            loop {
                let running = current
                    .wait_for(Option::is_some)
                    .await
                    .map_err(|_| NetworkError::Closed)?
                    .clone();
                let Some(running) = running else { continue };
                match running.handle.set(id, &addresses, &policy).await {
                    Ok(()) => return Ok(()),
                    // The next one is told with all the others; here it is waited for.
                    Err(EgressError::Ended) => {
                        let gone = current.wait_for(|now| {
                            now.as_ref().is_none_or(|now| !Arc::ptr_eq(now, &running))
                        });
                        gone.await.map_err(|_| NetworkError::Closed)?;
                    }
                    Err(error) => return Err(NetworkError::Egress(error.to_string())),
                }
            }
        };
        tokio::time::timeout(RESTART_LIMIT, told)
            .await
            .unwrap_or_else(|_| Err(NetworkError::Egress("it does not answer".to_owned())))
    }

    /// Forgets a sandbox.
    pub(crate) async fn forget(&self, id: &SandboxId) {
        let Some((addresses, _)) = self.members().remove(id) else {
            return;
        };
        let running = self.current.borrow().clone();
        if let Some(running) = running {
            // One that does not answer is about to be started again, without it.
            let _ = tokio::time::timeout(FORGET_LIMIT, running.handle.remove(&addresses)).await;
        }
    }

    /// Waits for the process to end, and starts another one, which may serve somewhere else.
    pub(crate) async fn renewed(&self, notices: &Arc<Notices>) {
        let running = self.current.borrow().clone();
        if let Some(running) = running {
            tokio::select! {
                () = running.handle.ended() => {
                    tracing::warn!("the program that resolves names for sandboxes stopped and is started again");
                }
                () = self.renew.notified() => {}
            }
        }
        // It ends with the last who holds it.
        self.current.send_replace(None);
        let mut pause = FIRST_PAUSE;
        loop {
            // Also before the first try, so that one which dies at once keeps nobody busy.
            tokio::time::sleep(pause).await;
            match self.launch(notices).await {
                Ok(()) => return,
                Err(error) => tracing::error!(%error, "sandboxes resolve no names"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Has it started again when the host asks other name servers now.
    pub(crate) fn follow_upstreams(&self) {
        let place = self.place();
        if place.is_some_and(|place| place.upstreams != self.upstreams()) {
            self.renew.notify_one();
        }
    }

    /// Ends it.
    pub(crate) fn stop(&self) {
        self.current.send_replace(None);
    }

    async fn launch(&self, notices: &Arc<Notices>) -> Result<(), NetworkError> {
        let failed = |error: EgressError| NetworkError::Egress(full(&error));
        let any_port = |address: &IpAddr| SocketAddr::new(*address, 0);
        let upstreams = self.upstreams();
        let settings = Settings {
            dns: self.plan.gateways.iter().take(1).map(any_port).collect(),
            proxy: self.plan.gateways.iter().map(any_port).collect(),
            upstreams: upstreams.clone(),
            allow_cidrs: self.plan.allow_cidrs.clone(),
            ipv6: self.plan.ipv6,
            identity: Some(Identity {
                uid: self.plan.uid,
                gid: self.plan.uid,
            }),
            limits: Limits::default(),
        };
        let (handle, refused) = EgressHandle::start(&self.plan.program, &settings)
            .await
            .map_err(failed)?;
        let place = EgressPlace {
            uid: self.plan.uid,
            dns: handle.ready().dns.clone(),
            proxy: handle.ready().proxy.clone(),
            upstreams,
        };
        let running = Arc::new(Running { handle, place });
        // Who joins from here on tells it too; doing that twice changes nothing.
        self.current.send_replace(Some(running.clone()));
        let members = self.members().clone();
        for (id, (addresses, policy)) in members {
            running
                .handle
                .set(&id, &addresses, &policy)
                .await
                .map_err(failed)?;
        }
        tokio::spawn(pass_on(refused, notices.clone()));
        Ok(())
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        let mut servers = self.plan.name_servers.clone();
        if servers.is_empty() {
            servers = of_host(Path::new("/etc/resolv.conf"));
        }
        servers
            .into_iter()
            .map(|address| SocketAddr::new(address, DNS))
            .collect()
    }

    fn members(&self) -> MutexGuard<'_, HashMap<SandboxId, (Vec<IpAddr>, Policy)>> {
        self.members.lock().expect("no holder of this lock panics")
    }
}

fn membership(lease: &Lease) -> (Vec<IpAddr>, Policy) {
    let policy = match lease.egress() {
        Egress::Open => Policy::Open,
        Egress::Domains(domains) => Policy::Domains(domains),
    };
    (lease.addresses(), policy)
}

/// The name servers of a `resolv.conf(5)`.
fn of_host(path: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse_servers(&text)
}

fn parse_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        })
        .take(MOST_UPSTREAMS)
        .collect()
}

/// Hands refusals to whoever listens to the provider.
async fn pass_on(mut refused: stacyvm_egress::Notices, notices: Arc<Notices>) {
    while let Some(notice) = refused.next().await {
        notices.tell(match notice {
            stacyvm_egress::Notice::Refused {
                sandbox,
                target,
                port,
                reason,
            } => Notice::Refused {
                id: sandbox,
                host: target,
                port,
                reason: reason.as_str().to_owned(),
            },
            stacyvm_egress::Notice::LeftOut { sandbox, count } => {
                Notice::RefusedMore { id: sandbox, count }
            }
        });
    }
}

/// An error with its causes.
fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch example\nnameserver 127.0.0.53\nnameserver\t::1 # x\nnameserver fe80::1%eth0\nnameserver 10.0.0.1\nnameserver 10.0.0.2\noptions edns0\n";
        let found: Vec<_> = parse_servers(text).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["127.0.0.53", "::1", "10.0.0.1"]);
        assert!(of_host(Path::new("/nonexistent/resolv.conf")).is_empty());
    }
}
