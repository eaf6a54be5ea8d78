//! The process that resolves names for sandboxes and limits those with a list to the servers on it.
//!
//! The supervisor starts the process, tells it the policy of each sandbox and starts it again when
//! it ends. All policies are kept here, so that a new process gets every one of them. While none
//! runs, names are not resolved and sandboxes with a list reach nothing: the rules of the kernel
//! stay.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stacyvm_egress::{EgressError, EgressHandle, Identity, Limits, Policy, Program, Settings};
use stacyvm_provider::{Egress, Notice, Notices};
use stacyvm_types::{Cidr, SandboxId};
use tokio::sync::{Notify, watch};

use super::error::NetworkError;
use super::layout::NetworkLayout;
use super::lease::Lease;
use super::rules::EgressEndpoints;

/// The port of name servers.
const DNS_PORT: u16 = 53;
/// The user of the process of the first range of addresses, above every id that sandboxes get; each
/// range of addresses has a user of its own.
const FIRST_UID: u32 = 0x6000_0000;
/// How many name servers are asked, as many as the C library asks.
const MAX_UPSTREAMS: usize = 3;
/// First wait before a process that has ended is started again; doubled up to `MAX_RESTART_DELAY`.
const MIN_RESTART_DELAY: Duration = Duration::from_millis(20);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);
/// How long a sandbox waits for a process that is being started again.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the removal of a sandbox waits for the process to drop its policy.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(2);

/// The settings of every process that the supervisor starts.
#[derive(Clone, Debug)]
struct EgressConfig {
    program: Program,
    gateways: Vec<IpAddr>,
    allow_cidrs: Vec<Cidr>,
    name_servers: Vec<IpAddr>,
    ipv6: bool,
    uid: u32,
}

/// The process and the policies that it enforces.
#[derive(Debug)]
pub(crate) struct EgressSupervisor {
    config: EgressConfig,
    policies: Mutex<HashMap<SandboxId, (Vec<IpAddr>, Policy)>>,
    /// None while it is being started again.
    current: watch::Sender<Option<Arc<Running>>>,
    /// Asks for another process although this one runs.
    restart: Notify,
}

/// A process that runs.
#[derive(Debug)]
struct Running {
    handle: EgressHandle,
    endpoints: EgressEndpoints,
}

impl EgressSupervisor {
    /// Starts the process. `leases` are those of living sandboxes.
    pub(crate) async fn start(
        program: Program,
        layout: &NetworkLayout,
        allow_cidrs: &[Cidr],
        name_servers: &[IpAddr],
        leases: &[(SandboxId, Lease)],
        notices: &Arc<Notices>,
    ) -> Result<Self, NetworkError> {
        let mut gateways = vec![IpAddr::V4(layout.subnet.gateway())];
        gateways.extend(layout.prefix.map(|prefix| IpAddr::V6(prefix.gateway())));
        let config = EgressConfig {
            program,
            gateways,
            allow_cidrs: allow_cidrs.to_vec(),
            name_servers: name_servers.to_vec(),
            ipv6: layout.prefix.is_some(),
            uid: FIRST_UID + layout.subnet.number(),
        };
        let policies = leases
            .iter()
            .map(|(id, lease)| (id.clone(), policy_of(lease)))
            .collect();
        let supervisor = Self {
            config,
            policies: Mutex::new(policies),
            current: watch::Sender::new(None),
            restart: Notify::new(),
        };
        supervisor.launch(notices).await?;
        Ok(supervisor)
    }

    /// The addresses of the process, while it runs.
    pub(crate) fn endpoints(&self) -> Option<EgressEndpoints> {
        let current = self.current.borrow();
        current.as_ref().map(|running| running.endpoints.clone())
    }

    /// Sets the policy of a sandbox; it is in force when this returns.
    pub(crate) async fn register(&self, id: &SandboxId, lease: &Lease) -> Result<(), NetworkError> {
        let (addresses, policy) = policy_of(lease);
        self.policies
            .lock()
            .insert(id.clone(), (addresses.clone(), policy.clone()));
        let setting = async {
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
                    // The next process gets this policy with all the others; wait for it.
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
        tokio::time::timeout(RESTART_TIMEOUT, setting)
            .await
            .unwrap_or_else(|_| Err(NetworkError::Egress("it does not answer".to_owned())))
    }

    /// Removes the policy of a sandbox.
    pub(crate) async fn unregister(&self, id: &SandboxId) {
        let Some((addresses, _)) = self.policies.lock().remove(id) else {
            return;
        };
        let running = self.current.borrow().clone();
        if let Some(running) = running {
            // A process that does not answer is about to be started again, without this policy.
            let _ =
                tokio::time::timeout(UNREGISTER_TIMEOUT, running.handle.remove(&addresses)).await;
        }
    }

    /// Waits for the process to end, and starts another one, which may have other addresses.
    pub(crate) async fn restart_when_ended(&self, notices: &Arc<Notices>) {
        let running = self.current.borrow().clone();
        if let Some(running) = running {
            tokio::select! {
                () = running.handle.ended() => {
                    tracing::warn!("the program that resolves names for sandboxes stopped and is started again");
                }
                () = self.restart.notified() => {}
            }
        }
        // The process ends when its last handle is dropped.
        self.current.send_replace(None);
        let mut pause = MIN_RESTART_DELAY;
        loop {
            // Also before the first try: a process that ends at once must not be restarted in a loop.
            tokio::time::sleep(pause).await;
            match self.launch(notices).await {
                Ok(()) => return,
                Err(error) => tracing::error!(%error, "sandboxes resolve no names"),
            }
            pause = (pause * 2).min(MAX_RESTART_DELAY);
        }
    }

    /// Restarts the process when the host has other name servers now.
    pub(crate) fn follow_upstreams(&self) {
        let endpoints = self.endpoints();
        if endpoints.is_some_and(|endpoints| endpoints.upstreams != self.upstreams()) {
            self.restart.notify_one();
        }
    }

    /// Ends the process.
    pub(crate) fn stop(&self) {
        self.current.send_replace(None);
    }

    async fn launch(&self, notices: &Arc<Notices>) -> Result<(), NetworkError> {
        let failed = |error: EgressError| NetworkError::Egress(error_chain(&error));
        let any_port = |address: &IpAddr| SocketAddr::new(*address, 0);
        let upstreams = self.upstreams();
        let settings = Settings {
            dns: self.config.gateways.iter().take(1).map(any_port).collect(),
            proxy: self.config.gateways.iter().map(any_port).collect(),
            upstreams: upstreams.clone(),
            allow_cidrs: self.config.allow_cidrs.clone(),
            ipv6: self.config.ipv6,
            identity: Some(Identity {
                uid: self.config.uid,
                gid: self.config.uid,
            }),
            limits: Limits::default(),
        };
        let (handle, refused) = EgressHandle::start(&self.config.program, &settings)
            .await
            .map_err(failed)?;
        let endpoints = EgressEndpoints {
            uid: self.config.uid,
            dns: handle.ready().dns.clone(),
            proxy: handle.ready().proxy.clone(),
            upstreams,
        };
        let running = Arc::new(Running { handle, endpoints });
        // A sandbox that registers from here on sends its policy too; twice is harmless.
        self.current.send_replace(Some(running.clone()));
        let policies = self.policies.lock().clone();
        for (id, (addresses, policy)) in policies {
            running
                .handle
                .set(&id, &addresses, &policy)
                .await
                .map_err(failed)?;
        }
        tokio::spawn(forward_refusals(refused, notices.clone()));
        Ok(())
    }

    fn upstreams(&self) -> Vec<SocketAddr> {
        let mut servers = self.config.name_servers.clone();
        if servers.is_empty() {
            servers = servers_of_host(Path::new("/etc/resolv.conf"));
        }
        servers
            .into_iter()
            .map(|address| SocketAddr::new(address, DNS_PORT))
            .collect()
    }
}

fn policy_of(lease: &Lease) -> (Vec<IpAddr>, Policy) {
    let policy = match lease.egress() {
        Egress::Open => Policy::Open,
        Egress::Domains(domains) => Policy::Domains(domains),
    };
    (lease.addresses(), policy)
}

/// The name servers of a `resolv.conf(5)`.
fn servers_of_host(path: &Path) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    parse_servers(&text)
}

fn parse_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
        })
        .take(MAX_UPSTREAMS)
        .collect()
}

/// Forwards the refusals of the process to the provider's notices.
async fn forward_refusals(mut refused: stacyvm_egress::Notices, notices: Arc<Notices>) {
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
fn error_chain(error: &dyn std::error::Error) -> String {
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
        assert!(servers_of_host(Path::new("/nonexistent/resolv.conf")).is_empty());
    }
}
