//! The sandboxes, what each may reach, and how many connections and questions each has open.
//!
//! A sandbox is known by the address that it sends from; an address without a sandbox is not served.
//! A change of policy is seen by every open connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use stacyvm_types::{HostName, SandboxId};
use tokio::sync::{Semaphore, watch};

use crate::control::{Limits, Policy};
use crate::rate::{Throttle, TokenBucket};

/// One sandbox.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: SandboxId,
    state: watch::Sender<State>,
    /// The right to open connections; as many permits as it may still open.
    pub(crate) connections: Arc<Semaphore>,
    /// The right to ask questions; as many permits as it may still ask before one is answered.
    pub(crate) queries: Arc<Semaphore>,
    query_rate: Mutex<TokenBucket>,
    notices: Mutex<Throttle>,
}

#[derive(Clone, Debug, PartialEq)]
struct State {
    addresses: Vec<IpAddr>,
    policy: Policy,
}

impl State {
    fn allows(&self, source: IpAddr, host: &HostName) -> bool {
        self.addresses.contains(&source.to_canonical())
            && match &self.policy {
                Policy::Open => true,
                Policy::Domains(list) => list.iter().any(|pattern| pattern.matches(host)),
            }
    }
}

impl Sandbox {
    fn new(id: SandboxId, policy: Policy, limits: &Limits) -> Self {
        let permits = |number: u32| Arc::new(Semaphore::new(number as usize));
        let state = State {
            addresses: Vec::new(),
            policy,
        };
        Self {
            id,
            state: watch::Sender::new(state),
            connections: permits(limits.connections_per_sandbox),
            queries: permits(limits.queries_per_sandbox),
            query_rate: Mutex::new(TokenBucket::new(limits.queries_per_second)),
            notices: Mutex::new(Throttle::new()),
        }
    }

    /// Whether the sandbox may reach this host.
    pub(crate) fn allows(&self, source: IpAddr, host: &HostName) -> bool {
        self.state.borrow().allows(source, host)
    }

    /// Whether the sandbox may reach everything, so that none of its connections is redirected to
    /// the proxy.
    pub(crate) fn is_open(&self, source: IpAddr) -> bool {
        let state = self.state.borrow();
        state.addresses.contains(&source.to_canonical()) && state.policy == Policy::Open
    }

    /// Resolves once the sandbox may no longer reach the host that `current` returns.
    pub(crate) async fn until_refused(
        &self,
        source: IpAddr,
        mut current: impl FnMut() -> Option<HostName>,
    ) {
        let mut state = self.state.subscribe();
        let refused = |state: &State| match current() {
            Some(host) => !state.allows(source, &host),
            None => !state.addresses.contains(&source.to_canonical()),
        };
        // The sender lives in `self`, so this cannot fail.
        let _ = state.wait_for(refused).await;
    }

    /// Whether the sandbox may ask one more question now.
    pub(crate) fn take_query(&self) -> bool {
        self.query_rate.lock().take()
    }

    pub(crate) fn notices(&self) -> MutexGuard<'_, Throttle> {
        self.notices.lock()
    }
}

/// All sandboxes.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_address: HashMap<IpAddr, Arc<Sandbox>>,
    by_id: HashMap<SandboxId, Arc<Sandbox>>,
}

impl Sandboxes {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            table: Mutex::default(),
        }
    }

    /// The sandbox that sends from this address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Arc<Sandbox>> {
        self.table
            .lock()
            .by_address
            .get(&address.to_canonical())
            .cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Sandbox>> {
        self.table.lock().by_id.values().cloned().collect()
    }

    /// Gives a sandbox exactly these addresses and this policy. An address that belonged to another
    /// sandbox is taken from it.
    pub(crate) fn set(&self, id: &SandboxId, addresses: &[IpAddr], policy: Policy) {
        let addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        let mut table = self.table.lock();
        let sandbox = table
            .by_id
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Sandbox::new(id.clone(), policy.clone(), &self.limits)))
            .clone();
        let former = sandbox.state.borrow().addresses.clone();
        let gone = former
            .iter()
            .filter(|address| !addresses.contains(address))
            .copied();
        let taken = addresses
            .iter()
            .filter(|address| !former.contains(address))
            .copied();
        for address in gone.chain(taken).collect::<Vec<_>>() {
            // Also from its own row, which is made anew below.
            table.take_away(address, Some(id));
        }
        if addresses.is_empty() {
            table.by_id.remove(id);
        }
        for address in &addresses {
            table.by_address.insert(*address, sandbox.clone());
        }
        let wanted = State { addresses, policy };
        sandbox.state.send_if_modified(|state| {
            let changed = *state != wanted;
            *state = wanted;
            changed
        });
    }

    /// Forgets addresses, and the sandboxes that have no other.
    pub(crate) fn remove(&self, addresses: &[IpAddr]) {
        let mut table = self.table.lock();
        for address in addresses {
            table.take_away(address.to_canonical(), None);
        }
    }
}

impl Table {
    /// Takes an address from the sandbox that has it. A sandbox left without any address is
    /// forgotten, unless it is `kept`.
    fn take_away(&mut self, address: IpAddr, kept: Option<&SandboxId>) {
        let Some(sandbox) = self.by_address.remove(&address) else {
            return;
        };
        sandbox
            .state
            .send_modify(|state| state.addresses.retain(|other| *other != address));
        let is_bare = sandbox.state.borrow().addresses.is_empty();
        if is_bare && kept != Some(&sandbox.id) {
            self.by_id.remove(&sandbox.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> SandboxId {
        SandboxId::from_u32(number)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn domains(list: &[&str]) -> Policy {
        Policy::Domains(list.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn sandboxes() -> Sandboxes {
        Sandboxes::new(Limits::default())
    }

    #[test]
    fn who_is_not_set_is_nobody() {
        let sandboxes = sandboxes();
        let (one, two) = (address("10.0.0.2"), address("10.0.0.3"));
        assert!(sandboxes.at(one).is_none());
        sandboxes.set(&id(1), &[one], Policy::Open);
        assert_eq!(sandboxes.at(address("::ffff:10.0.0.2")).unwrap().id, id(1));
        assert!(sandboxes.at(two).is_none());
        sandboxes.remove(&[one, two]);
        assert!(sandboxes.at(one).is_none() && sandboxes.all().is_empty());
    }

    #[test]
    fn setting_again_replaces_everything() {
        let sandboxes = sandboxes();
        let (one, two, six) = (address("10.0.0.2"), address("10.0.0.3"), address("fd00::2"));
        sandboxes.set(&id(1), &[one, six], domains(&["a.example"]));
        let sandbox = sandboxes.at(six).unwrap();
        sandboxes.set(&id(1), &[one, six], domains(&["a.example"]));
        assert!(Arc::ptr_eq(&sandbox, &sandboxes.at(one).unwrap()));
        sandboxes.set(&id(1), &[two], domains(&["b.example"]));
        assert!(sandboxes.at(one).is_none() && sandboxes.at(six).is_none());
        let host = "b.example".parse().unwrap();
        assert!(Arc::ptr_eq(&sandbox, &sandboxes.at(two).unwrap()));
        assert!(sandbox.allows(two, &host));
        assert!(
            !sandbox.allows(one, &host),
            "the address is no longer its own"
        );
        assert!(!sandbox.allows(two, &"a.example".parse().unwrap()));
    }

    #[test]
    fn an_address_has_one_owner() {
        let sandboxes = sandboxes();
        let (one, two) = (address("10.0.0.2"), address("10.0.0.3"));
        sandboxes.set(&id(1), &[one, two], Policy::Open);
        let first = sandboxes.at(one).unwrap();
        sandboxes.set(&id(2), &[one], domains(&[]));
        assert_eq!(sandboxes.at(one).unwrap().id, id(2));
        assert_eq!(sandboxes.at(two).unwrap().id, id(1));
        assert!(!first.allows(one, &"a.example".parse().unwrap()));
        sandboxes.set(&id(2), &[one, two], domains(&[]));
        assert_eq!(sandboxes.all().len(), 1, "the first has nothing left");
    }

    #[tokio::test]
    async fn a_change_is_seen_by_what_is_open() {
        let sandboxes = sandboxes();
        let one = address("10.0.0.2");
        sandboxes.set(&id(1), &[one], domains(&["*.example"]));
        let sandbox = sandboxes.at(one).unwrap();
        let host: HostName = "a.example".parse().unwrap();
        let waiting = {
            let (sandbox, host) = (sandbox.clone(), host.clone());
            tokio::spawn(async move {
                sandbox.until_refused(one, || Some(host.clone())).await;
            })
        };
        sandboxes.set(&id(1), &[one], domains(&["a.example"]));
        sandboxes.set(&id(1), &[one], Policy::Open);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        sandboxes.set(&id(1), &[one], domains(&["b.example"]));
        waiting.await.unwrap();
        sandboxes.set(&id(1), &[one], Policy::Open);
        sandboxes.remove(&[one]);
        sandbox.until_refused(one, || Some(host.clone())).await;
    }
}
