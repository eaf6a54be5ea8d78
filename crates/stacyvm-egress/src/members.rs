//! Which sandboxes there are, what each may reach, and how much each has in hand.
//!
//! A sandbox is known by the address that it sends from; whoever has no row is nobody. A change of
//! policy is seen by every connection that is open.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use stacyvm_types::{HostName, SandboxId};
use tokio::sync::{Semaphore, watch};

use crate::control::{Limits, Policy};
use crate::rate::{Bucket, Throttle};

/// One sandbox.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: SandboxId,
    state: watch::Sender<State>,
    /// Connections that it may still open.
    pub(crate) connections: Arc<Semaphore>,
    /// Questions that it may still ask before one of them is answered.
    pub(crate) queries: Arc<Semaphore>,
    query_rate: Mutex<Bucket>,
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

impl Member {
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
            query_rate: Mutex::new(Bucket::new(limits.queries_per_second)),
            notices: Mutex::new(Throttle::new()),
        }
    }

    /// Whether it may reach what has this name.
    pub(crate) fn allows(&self, source: IpAddr, host: &HostName) -> bool {
        self.state.borrow().allows(source, host)
    }

    /// Whether it may reach everything, and so has no business with the proxy.
    pub(crate) fn is_open(&self, source: IpAddr) -> bool {
        let state = self.state.borrow();
        state.addresses.contains(&source.to_canonical()) && state.policy == Policy::Open
    }

    /// Resolves once it may no longer reach the host that `current` says.
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

    /// Whether it may ask one more question now.
    pub(crate) fn take_query(&self) -> bool {
        locked(&self.query_rate).take()
    }

    pub(crate) fn notices(&self) -> MutexGuard<'_, Throttle> {
        locked(&self.notices)
    }
}

/// All sandboxes.
#[derive(Debug)]
pub(crate) struct Members {
    limits: Limits,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_address: HashMap<IpAddr, Arc<Member>>,
    by_id: HashMap<SandboxId, Arc<Member>>,
}

impl Members {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            table: Mutex::default(),
        }
    }

    /// Who sends from this address.
    pub(crate) fn at(&self, address: IpAddr) -> Option<Arc<Member>> {
        locked(&self.table)
            .by_address
            .get(&address.to_canonical())
            .cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Member>> {
        locked(&self.table).by_id.values().cloned().collect()
    }

    /// Gives a sandbox exactly these addresses and this policy. An address that was another's is
    /// taken from that one.
    pub(crate) fn set(&self, id: &SandboxId, addresses: &[IpAddr], policy: Policy) {
        let addresses: Vec<IpAddr> = addresses.iter().map(IpAddr::to_canonical).collect();
        let mut table = locked(&self.table);
        let member = table
            .by_id
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Member::new(id.clone(), policy.clone(), &self.limits)))
            .clone();
        let former = member.state.borrow().addresses.clone();
        let gone = former
            .iter()
            .filter(|address| !addresses.contains(address))
            .copied();
        let taken = addresses
            .iter()
            .filter(|address| !former.contains(address))
            .copied();
        for address in gone.chain(taken).collect::<Vec<_>>() {
            // Its own row too, with everything in it: what follows makes it anew.
            table.take_away(address, Some(id));
        }
        if addresses.is_empty() {
            table.by_id.remove(id);
        }
        for address in &addresses {
            table.by_address.insert(*address, member.clone());
        }
        let wanted = State { addresses, policy };
        member.state.send_if_modified(|state| {
            let changed = *state != wanted;
            *state = wanted;
            changed
        });
    }

    /// Forgets addresses, and the sandboxes that have no other.
    pub(crate) fn remove(&self, addresses: &[IpAddr]) {
        let mut table = locked(&self.table);
        for address in addresses {
            table.take_away(address.to_canonical(), None);
        }
    }
}

impl Table {
    /// Takes an address from whoever has it; a sandbox left without any is forgotten, but `kept`.
    fn take_away(&mut self, address: IpAddr, kept: Option<&SandboxId>) {
        let Some(member) = self.by_address.remove(&address) else {
            return;
        };
        member
            .state
            .send_modify(|state| state.addresses.retain(|other| *other != address));
        let is_bare = member.state.borrow().addresses.is_empty();
        if is_bare && kept != Some(&member.id) {
            self.by_id.remove(&member.id);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
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

    fn members() -> Members {
        Members::new(Limits::default())
    }

    #[test]
    fn who_is_not_set_is_nobody() {
        let members = members();
        let (one, two) = (address("10.0.0.2"), address("10.0.0.3"));
        assert!(members.at(one).is_none());
        members.set(&id(1), &[one], Policy::Open);
        assert_eq!(members.at(address("::ffff:10.0.0.2")).unwrap().id, id(1));
        assert!(members.at(two).is_none());
        members.remove(&[one, two]);
        assert!(members.at(one).is_none() && members.all().is_empty());
    }

    #[test]
    fn setting_again_replaces_everything() {
        let members = members();
        let (one, two, six) = (address("10.0.0.2"), address("10.0.0.3"), address("fd00::2"));
        members.set(&id(1), &[one, six], domains(&["a.example"]));
        let member = members.at(six).unwrap();
        members.set(&id(1), &[one, six], domains(&["a.example"]));
        assert!(Arc::ptr_eq(&member, &members.at(one).unwrap()));
        members.set(&id(1), &[two], domains(&["b.example"]));
        assert!(members.at(one).is_none() && members.at(six).is_none());
        let host = "b.example".parse().unwrap();
        assert!(Arc::ptr_eq(&member, &members.at(two).unwrap()));
        assert!(member.allows(two, &host));
        assert!(
            !member.allows(one, &host),
            "the address is no longer its own"
        );
        assert!(!member.allows(two, &"a.example".parse().unwrap()));
    }

    #[test]
    fn an_address_has_one_owner() {
        let members = members();
        let (one, two) = (address("10.0.0.2"), address("10.0.0.3"));
        members.set(&id(1), &[one, two], Policy::Open);
        let first = members.at(one).unwrap();
        members.set(&id(2), &[one], domains(&[]));
        assert_eq!(members.at(one).unwrap().id, id(2));
        assert_eq!(members.at(two).unwrap().id, id(1));
        assert!(!first.allows(one, &"a.example".parse().unwrap()));
        members.set(&id(2), &[one, two], domains(&[]));
        assert_eq!(members.all().len(), 1, "the first has nothing left");
    }

    #[tokio::test]
    async fn a_change_is_seen_by_what_is_open() {
        let members = members();
        let one = address("10.0.0.2");
        members.set(&id(1), &[one], domains(&["*.example"]));
        let member = members.at(one).unwrap();
        let host: HostName = "a.example".parse().unwrap();
        let waiting = {
            let (member, host) = (member.clone(), host.clone());
            tokio::spawn(async move {
                member.until_refused(one, || Some(host.clone())).await;
            })
        };
        members.set(&id(1), &[one], domains(&["a.example"]));
        members.set(&id(1), &[one], Policy::Open);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        members.set(&id(1), &[one], domains(&["b.example"]));
        waiting.await.unwrap();
        members.set(&id(1), &[one], Policy::Open);
        members.remove(&[one]);
        member.until_refused(one, || Some(host.clone())).await;
    }
}
