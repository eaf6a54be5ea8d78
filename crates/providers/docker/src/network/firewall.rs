//! The rules in the kernel: loading them where the bridge is in the server's own network namespace,
//! guarding them, and removing them.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use stacyvm_firewall::{Guard, Restored, restore};
use stacyvm_sys::netlink::Netlink;

use super::bridge::Bridge;
use super::error::NetworkError;
use super::rules::{self, Rules};
use super::settings::NetworkSettings;

/// The machine's name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The rules of one server, and the thread that guards them.
#[derive(Debug)]
pub(super) struct BridgeFirewall {
    tag: String,
    settings: NetworkSettings,
    loaded: Mutex<LoadedRules>,
}

#[derive(Debug, Default)]
struct LoadedRules {
    /// The bridge that this process has loaded rules for.
    bridge: Option<Bridge>,
    guard: Option<Guard>,
}

impl BridgeFirewall {
    pub(super) fn new(tag: &str, settings: &NetworkSettings) -> Self {
        Self {
            tag: tag.to_owned(),
            settings: settings.clone(),
            loaded: Mutex::default(),
        }
    }

    /// Loads the rules for this bridge unless they are complete; false when the bridge is not in the
    /// server's own network namespace.
    pub(super) async fn ensure(&self, bridge: &Bridge) -> Result<bool, NetworkError> {
        let name = bridge.interface.clone();
        if !blocking(move || is_here(&name)).await {
            return Ok(false);
        }
        let is_known = self.loaded.lock().bridge.as_ref() == Some(bridge);
        let (tag, interface) = (self.tag.clone(), bridge.interface.clone());
        if is_known && blocking(move || rules::are_loaded(&tag, &interface)).await {
            return Ok(true);
        }
        // The rules of an earlier server are replaced too: its settings may have been others.
        let text: Arc<str> = self.text(bridge).into();
        let loading = Arc::clone(&text);
        blocking(move || stacyvm_firewall::apply(&loading)).await?;
        self.watch(bridge, text).await;
        Ok(true)
    }

    /// Puts the rules back whenever something else on the machine removes them.
    async fn watch(&self, bridge: &Bridge, text: Arc<str>) {
        self.stop().await;
        let (tag, interface) = (self.tag.clone(), bridge.interface.clone());
        let removed = move || {
            let is_loaded = || rules::are_loaded(&tag, &interface);
            match restore(is_loaded, || stacyvm_firewall::apply(&text)) {
                Ok(Restored::Intact) => {}
                Ok(Restored::Reloaded) => {
                    tracing::warn!("the rules of containers were removed and are back");
                }
                Err(error) => {
                    tracing::error!(%error, "the rules of containers were removed and cannot be put back");
                }
            }
        };
        let guard = Guard::start(rules::table(&self.tag), removed);
        let mut loaded = self.loaded.lock();
        loaded.bridge = Some(bridge.clone());
        match guard {
            Ok(guard) => loaded.guard = Some(guard),
            // Every health check looks at the rules too.
            Err(error) => tracing::warn!(%error, "the rules of containers are not guarded"),
        }
    }

    /// Stops guarding the rules, which stay.
    pub(super) async fn stop(&self) {
        let guard = self.loaded.lock().guard.take();
        if let Some(guard) = guard {
            blocking(move || guard.stop()).await;
        }
    }

    /// Removes the rules that this process has loaded.
    pub(super) async fn remove(&self) {
        if self.loaded.lock().bridge.take().is_none() {
            return;
        }
        let text = rules::removal_commands(&self.tag);
        if let Err(error) = blocking(move || stacyvm_firewall::apply(&text)).await {
            tracing::warn!(%error, "the rules of containers could not be removed");
        }
    }

    fn text(&self, bridge: &Bridge) -> String {
        let settings = &self.settings;
        let of_machine;
        let name_servers = if settings.name_servers.is_empty() {
            of_machine = name_servers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
            &of_machine
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
}

/// Whether an interface of this name is in the server's own network namespace.
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

/// The name servers of this machine, without programs of its own, which the engine's resolver asks
/// for its containers.
fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf.lines();
    let servers = lines.filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers = servers.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    servers.filter(|server| !server.is_loopback()).collect()
}

/// Runs work that waits for the kernel or a program on a thread for blocking work.
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
