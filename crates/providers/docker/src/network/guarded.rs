//! The rules in the kernel: loaded when the bridge is ours to guard, watched over, put back.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use stacyvm_firewall::Guard;
use stacyvm_sys::netlink::Netlink;

use super::bridge::Bridge;
use super::rules::{self, Rules};
use super::{Failure, NetworkSettings};

/// Where a machine says whom it asks for names.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The rules of one server, and the thread that watches over them.
#[derive(Debug)]
pub(super) struct Guarded {
    tag: String,
    settings: NetworkSettings,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    /// For which bridge this process has loaded them.
    bridge: Option<Bridge>,
    guard: Option<Guard>,
}

impl Guarded {
    pub(super) fn new(tag: &str, settings: &NetworkSettings) -> Self {
        Self {
            tag: tag.to_owned(),
            settings: settings.clone(),
            loaded: Mutex::default(),
        }
    }

    /// Sees to it that the rules stand for this bridge; false when it is not in our own network.
    pub(super) async fn close_off(&self, bridge: &Bridge) -> Result<bool, Failure> {
        let name = bridge.interface.clone();
        if !blocking(move || is_here(&name)).await {
            return Ok(false);
        }
        let known = self.loaded().bridge.as_ref() == Some(bridge);
        let (tag, interface) = (self.tag.clone(), bridge.interface.clone());
        if known && blocking(move || rules::stand(&tag, &interface)).await {
            return Ok(true);
        }
        // Those of an earlier server may have been made by other settings.
        let text: Arc<str> = self.text(bridge).into();
        let loading = Arc::clone(&text);
        blocking(move || stacyvm_firewall::apply(&loading)).await?;
        self.watch(bridge, text).await;
        Ok(true)
    }

    /// Puts the rules back whenever somebody removes them.
    async fn watch(&self, bridge: &Bridge, text: Arc<str>) {
        self.stop().await;
        let (tag, interface) = (self.tag.clone(), bridge.interface.clone());
        let removed = move || {
            if rules::stand(&tag, &interface) {
                return;
            }
            match stacyvm_firewall::apply(&text) {
                Ok(()) => tracing::warn!("the rules of containers were removed and are back"),
                Err(error) => {
                    tracing::error!(%error, "the rules of containers were removed and cannot be put back");
                }
            }
        };
        let guard = Guard::start(rules::table(&self.tag), removed);
        let mut loaded = self.loaded();
        loaded.bridge = Some(bridge.clone());
        match guard {
            Ok(guard) => loaded.guard = Some(guard),
            // They are looked at whenever the engine is.
            Err(error) => tracing::warn!(%error, "nobody watches over the rules of containers"),
        }
    }

    /// Watches no more; the rules stay.
    pub(super) async fn stop(&self) {
        let guard = self.loaded().guard.take();
        if let Some(guard) = guard {
            blocking(move || guard.stop()).await;
        }
    }

    /// Takes the rules away, once nothing needs them any more.
    pub(super) async fn remove(&self) {
        if self.loaded().bridge.take().is_none() {
            return;
        }
        let text = rules::removal(&self.tag);
        if let Err(error) = blocking(move || stacyvm_firewall::apply(&text)).await {
            tracing::warn!(%error, "the rules of containers could not be removed");
        }
    }

    fn text(&self, bridge: &Bridge) -> String {
        let settings = &self.settings;
        let machines;
        let name_servers = if settings.name_servers.is_empty() {
            machines = name_servers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
            &machines
        } else {
            &settings.name_servers
        };
        let rules = Rules {
            tag: &self.tag,
            bridge: &bridge.interface,
            subnet: bridge.subnet,
            allow_host_ports: &settings.allow_host_ports,
            allow_cidrs: &settings.allow_cidrs,
            deny_cidrs: &settings.deny_cidrs,
            name_servers,
            inbound_from_host: settings.inbound_from_host,
        };
        rules.text()
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an interface of this name is in our own network.
fn is_here(name: &str) -> bool {
    let found = Netlink::open().and_then(|mut netlink| netlink.link(name));
    match found {
        Ok(_) => true,
        Err(Errno::NODEV) => false,
        Err(error) => {
            tracing::warn!(%error, "this server cannot look at its own network");
            false
        }
    }
}

/// Whom this machine asks for names, but for programs of its own: those the engine asks itself.
fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf.lines();
    let servers = lines.filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    servers.filter(|server| !server.is_loopback()).collect()
}

/// Work that waits for the kernel or a program, off the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_name_servers_are_read_without_its_own() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 192.168.1.1\n nameserver\t127.0.0.53\nnameserver fd00::1\nnameserver fe80::1%eth0\nnameserver\n";
        let expected: Vec<IpAddr> = ["192.168.1.1", "fd00::1"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(name_servers(text), expected);
    }
}
