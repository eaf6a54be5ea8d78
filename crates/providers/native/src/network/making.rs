//! Networks made ahead: a namespace with one end of a cable in it, addresses, routes.
//!
//! A thread of its own makes them, because it moves between namespaces. A network belongs to
//! whoever holds its descriptor: when that is closed and no process is in it, the kernel takes
//! everything back, the host's end of the cable included. So nothing leaks, whoever is killed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use stacyvm_firewall::FirewallError;
use stacyvm_sys::namespaces;
use stacyvm_sys::netlink::{LinkSettings, Netlink, Route, VethPair};
use stacyvm_sys::netns;
use tokio::sync::oneshot;

use super::Site;
use super::addresses::Numbers;
use super::error::NetworkError;
use super::uplinks;

/// How long to rest after a failure that nobody waits to hear of.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to rest when a name was taken, so that a full range keeps nobody busy.
const TAKEN_PAUSE: Duration = Duration::from_millis(1);
/// The address of both ends of every cable; only bit 1 of the first byte means something: it is
/// nobody's but ours.
const HARDWARE_ADDRESS: [u8; 6] = [0x02, b's', b't', b'a', b'c', b'y'];
/// Inside, as every program expects it.
const INNER: &str = "eth0";

/// One network that nobody has yet.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) number: u32,
    /// The host's end of the cable.
    pub(crate) interface: String,
    /// Its number, while it is there.
    pub(crate) device: u32,
    pub(crate) namespace: OwnedFd,
}

type Answer = Result<Made, NetworkError>;

/// The thread and what it has made.
#[derive(Debug)]
pub(crate) struct Maker {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// How many are kept ready.
    wanted: usize,
    /// Something may be to do for the thread.
    work: Condvar,
}

#[derive(Debug)]
struct State {
    numbers: Numbers,
    ready: VecDeque<Made>,
    waiting: VecDeque<oneshot::Sender<Answer>>,
    stopping: bool,
}

impl Maker {
    /// Makes one network to see that it can be done, and starts the thread, which goes on.
    pub(crate) fn start(site: Site, numbers: Numbers, ready: usize) -> Result<Self, NetworkError> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                numbers,
                ready: VecDeque::new(),
                waiting: VecDeque::new(),
                stopping: false,
            }),
            wanted: ready.max(1),
            work: Condvar::new(),
        });
        let (sender, first) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("native-network".to_owned())
            .spawn({
                let shared = shared.clone();
                move || work(&site, &shared, &sender)
            })
            .map_err(|_| NetworkError::Closed)?;
        let maker = Self {
            shared,
            thread: Mutex::new(Some(thread)),
        };
        first.recv().unwrap_or(Err(NetworkError::Closed))?;
        Ok(maker)
    }

    /// Takes a network, a ready one if there is one.
    pub(crate) async fn take(&self) -> Answer {
        let waiting = {
            let mut state = self.shared.state();
            if let Some(made) = state.ready.pop_front() {
                self.shared.work.notify_one();
                return Ok(made);
            }
            if state.stopping {
                return Err(NetworkError::Closed);
            }
            let (sender, waiting) = oneshot::channel();
            state.waiting.push_back(sender);
            self.shared.work.notify_one();
            waiting
        };
        waiting.await.unwrap_or(Err(NetworkError::Closed))
    }

    /// Whether a network has this number.
    pub(crate) fn is_taken(&self, number: u32) -> bool {
        self.shared.state().numbers.is_taken(number)
    }

    /// Gives a number back, once nothing of its network is used.
    pub(crate) fn free(&self, number: u32) {
        self.shared.state().numbers.free(number);
    }

    /// Ends the thread; what it has ready goes.
    pub(crate) fn stop(&self) {
        {
            let mut state = self.shared.state();
            state.stopping = true;
            state.waiting.clear();
            state.ready.clear();
        }
        self.shared.work.notify_one();
        let thread = self
            .thread
            .lock()
            .expect("no holder of this lock panics")
            .take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

fn work(site: &Site, shared: &Shared, first: &std::sync::mpsc::Sender<Result<(), NetworkError>>) {
    let workshop = Workshop::open(site);
    let mut workshop = match workshop {
        Ok(workshop) => workshop,
        Err(errno) => {
            let _ = first.send(Err(NetworkError::at("open the host's network")(errno)));
            return;
        }
    };
    let mut first = Some(first);
    loop {
        let number = {
            let mut state = shared.state();
            while !state.stopping && state.ready.len() >= shared.wanted && state.waiting.is_empty()
            {
                state = shared
                    .work
                    .wait(state)
                    .expect("no holder of this lock panics");
            }
            if state.stopping {
                return;
            }
            state.numbers.take()
        };
        let made = match number {
            Some(number) => workshop.make(number),
            None => Err(NetworkError::Full),
        };
        let lost = matches!(
            &made,
            Err(NetworkError::Kernel {
                errno: Errno::NOTRECOVERABLE,
                ..
            })
        );
        let failed = made.is_err();
        if let (true, Some(number)) = (failed, number) {
            shared.state().numbers.free(number);
        }
        // The cable of whoever had the number before is not gone yet: the next one will do.
        if let Err(NetworkError::Kernel {
            errno: Errno::EXIST,
            ..
        }) = &made
        {
            std::thread::sleep(TAKEN_PAUSE);
            continue;
        }
        if let Some(first) = first.take() {
            match made {
                Ok(made) => {
                    shared.state().ready.push_back(made);
                    let _ = first.send(Ok(()));
                }
                Err(error) => {
                    let _ = first.send(Err(error));
                    return;
                }
            }
            continue;
        }
        shared.hand_out(made);
        if lost {
            // In the wrong namespace, where this thread must do nothing more.
            shared.state().stopping = true;
            return;
        }
        if failed {
            let state = shared.state();
            if state.waiting.is_empty() && !state.stopping {
                let _ = shared.work.wait_timeout(state, PAUSE);
            }
        }
    }
}

impl Shared {
    /// Gives it to the first who waits; a failure to everybody who waits.
    fn hand_out(&self, made: Answer) {
        let mut state = self.state();
        match made {
            Ok(made) => {
                let mut made = Ok(made);
                while let Some(waiting) = state.waiting.pop_front() {
                    match waiting.send(made) {
                        Ok(()) => return,
                        // Whoever asked has gone.
                        Err(back) => made = back,
                    }
                }
                if let Ok(made) = made
                    && !state.stopping
                {
                    state.ready.push_back(made);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a network could not be made");
                let text = error.to_string();
                let mut error = Some(error);
                for waiting in state.waiting.drain(..) {
                    let told = error
                        .take()
                        .unwrap_or_else(|| FirewallError::Refused(text.clone()).into());
                    let _ = waiting.send(Err(told));
                }
            }
        }
    }
}

/// What the thread works with.
struct Workshop<'a> {
    site: &'a Site,
    home: OwnedFd,
    host: Netlink,
}

impl<'a> Workshop<'a> {
    fn open(site: &'a Site) -> Result<Self, Errno> {
        Ok(Self {
            site,
            home: netns::of_thread()?,
            host: Netlink::open()?,
        })
    }

    fn make(&mut self, number: u32) -> Answer {
        let namespace =
            netns::make_on_thread().map_err(NetworkError::at("make a network namespace"))?;
        let mut inside = self.socket_in(&namespace)?;
        let interface = self.site.interface(number);
        let device = self
            .connect(number, &interface, &namespace)
            .map_err(NetworkError::at("connect a network"))?;
        if self.site.force_ipv6 {
            uplinks::pass_ipv6(&interface).map_err(|error| NetworkError::Kernel {
                step: "let IPv6 pass",
                errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            })?;
        }
        self.furnish(number, &mut inside)
            .map_err(NetworkError::at("give a network its addresses"))?;
        Ok(Made {
            number,
            interface,
            device,
            namespace,
        })
    }

    /// A route socket in a namespace; the thread comes back.
    fn socket_in(&self, namespace: &OwnedFd) -> Result<Netlink, NetworkError> {
        const STEP: &str = "enter a network namespace";
        namespaces::enter(namespace).map_err(NetworkError::at(STEP))?;
        let socket = Netlink::open();
        namespaces::enter(&self.home).map_err(|_| NetworkError::at(STEP)(Errno::NOTRECOVERABLE))?;
        socket.map_err(NetworkError::at(STEP))
    }

    /// Lays the cable, and routes the sandbox's addresses into it.
    fn connect(&mut self, number: u32, interface: &str, namespace: &OwnedFd) -> Result<u32, Errno> {
        self.host.make_veth_pair(&VethPair {
            outer: interface,
            inner: INNER,
            inner_namespace: namespace.as_fd(),
            hardware_address: HARDWARE_ADDRESS,
            mtu: self.site.mtu,
            group: self.site.group(false),
        })?;
        let device = self.host.link(interface)?.index;
        let settings = LinkSettings {
            forwarding: true,
            without_lookup: true,
        };
        self.host.set_up(device, settings)?;
        let subnet = self.site.subnet;
        let mut addresses: Vec<(IpAddr, Option<IpAddr>)> =
            vec![(subnet.address(number).into(), Some(subnet.gateway().into()))];
        if let Some(prefix) = self.site.prefix {
            addresses.push((prefix.address(number).into(), None));
        }
        for (address, source) in addresses {
            self.host.add_route(&Route {
                to: Some(address),
                prefix: if address.is_ipv4() { 32 } else { 128 },
                device,
                via: None,
                source,
            })?;
        }
        Ok(device)
    }

    /// Gives the inner end its addresses and its way out.
    fn furnish(&self, number: u32, inside: &mut Netlink) -> Result<(), Errno> {
        let device = inside.link(INNER)?.index;
        let settings = LinkSettings {
            forwarding: false,
            without_lookup: true,
        };
        inside.set_up(device, settings)?;
        let subnet = self.site.subnet;
        let mut ways: Vec<(IpAddr, IpAddr)> =
            vec![(subnet.address(number).into(), subnet.gateway().into())];
        if let Some(prefix) = self.site.prefix {
            ways.push((prefix.address(number).into(), prefix.gateway().into()));
        }
        for (address, gateway) in ways {
            inside.add_address(device, address)?;
            inside.add_route(&Route {
                to: None,
                prefix: 0,
                device,
                via: Some(gateway),
                source: None,
            })?;
        }
        Ok(())
    }
}
