//! Three network namespaces in a row, sandbox, host and internet, with the program on the host.

use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use stacyvm_egress::{
    EgressHandle, Identity, Limits, Notice, Notices, Policy, Program, Reason, Settings,
};
pub(crate) use stacyvm_testing::wait_until as eventually;
use stacyvm_testing::{NetworkNamespace, programs_or_skip, root_or_skip};
use stacyvm_types::SandboxId;

/// How long any wait may take. It only decides how long a failing test takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(40);
/// The addresses that the sandbox is known by.
pub(crate) const SANDBOX: &str = "10.88.0.2";
pub(crate) const SANDBOX_V6: &str = "fd88::2";
/// An address on the sandbox's side that belongs to no sandbox.
pub(crate) const STRANGER: &str = "10.88.0.3";
/// The host, as the sandbox sees it.
pub(crate) const GATEWAY: &str = "10.88.0.1";
/// The host's address in the internet.
pub(crate) const HOST_OUTSIDE: &str = "20.0.0.1";
/// The addresses of servers in the internet.
pub(crate) const SITE: &str = "20.0.0.10";
pub(crate) const SITE_V6: &str = "2a10::10";
pub(crate) const OTHER_SITE: &str = "20.0.0.11";
/// An address in the internet where nothing answers, for clients that want to go astray.
pub(crate) const ASTRAY: &str = "20.0.0.99";
/// A private network that the host reaches.
pub(crate) const PRIVATE: &str = "10.99.0.10";
/// The user and group that the program changes to.
pub(crate) const NOBODY: u32 = 65_534;

/// Runs a script in a namespace. In it `NS0`, `NS1` and so on are the files of `others`.
fn run(place: &NetworkNamespace, script: &str, others: &[&NetworkNamespace]) {
    let mut text = script.to_owned();
    for (number, other) in others.iter().enumerate() {
        text = text.replace(&format!("NS{number}"), &other.path());
    }
    place.inside(|| {
        let mut shell = Command::new("sh")
            .args(["-eu"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        shell
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        assert!(shell.wait().unwrap().success(), "{text}");
    });
}

/// The namespaces and the program, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) sandbox: NetworkNamespace,
    pub(crate) host: NetworkNamespace,
    pub(crate) internet: NetworkNamespace,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) egress: Option<EgressHandle>,
    notices: Mutex<Option<Notices>>,
}

impl World {
    /// Namespaces and the program with these limits; none, and the test is skipped, where they cannot
    /// be made.
    pub(crate) fn with(limits: Limits) -> Option<Self> {
        let mut world = Self::without_program()?;
        world.start(&settings(limits));
        Some(world)
    }

    pub(crate) fn new() -> Option<Self> {
        Self::with(generous_limits())
    }

    pub(crate) fn without_program() -> Option<Self> {
        if !root_or_skip() || !programs_or_skip(&["ip", "nft", "unshare"]) {
            return None;
        }
        let [sandbox, host, internet] = [(); 3].map(|()| NetworkNamespace::make());
        run(&host, LINKS, &[&sandbox, &internet]);
        run(&sandbox, SANDBOX_SIDE, &[]);
        run(&internet, INTERNET_SIDE, &[]);
        run(&host, REDIRECT, &[]);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Some(Self {
            sandbox,
            host,
            internet,
            runtime,
            egress: None,
            notices: Mutex::new(None),
        })
    }

    /// Starts the program on the host.
    pub(crate) fn start(&mut self, settings: &Settings) {
        let runtime = self.runtime.handle().clone();
        let started = self
            .host
            .inside(|| runtime.block_on(EgressHandle::start(&program(), settings)));
        let (handle, notices) = started.unwrap();
        self.egress = Some(handle);
        *self.notices.lock().unwrap() = Some(notices);
    }

    pub(crate) fn egress(&self) -> &EgressHandle {
        self.egress.as_ref().unwrap()
    }

    /// Gives the sandbox a list of domains.
    pub(crate) fn allow(&self, domains: &[&str]) {
        let list = domains.iter().map(|text| text.parse().unwrap()).collect();
        self.set(&Policy::Domains(list));
    }

    pub(crate) fn set(&self, policy: &Policy) {
        let addresses = [SANDBOX, SANDBOX_V6].map(|text| text.parse::<IpAddr>().unwrap());
        let id = id();
        let set = self.egress().set(&id, &addresses, policy);
        self.runtime.block_on(set).unwrap();
    }

    /// Connects from inside the sandbox.
    pub(crate) fn connect(&self, address: &str, port: u16) -> TcpStream {
        self.try_connect(address, port).unwrap()
    }

    pub(crate) fn try_connect(&self, address: &str, port: u16) -> std::io::Result<TcpStream> {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let stream = self
            .sandbox
            .inside(|| TcpStream::connect_timeout(&address, DEADLINE))?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Ok(stream)
    }

    /// The next refusal: target, port, reason.
    pub(crate) fn notice(&self) -> (String, Option<u16>, Reason) {
        match self.any_notice() {
            Notice::Refused {
                sandbox,
                target,
                port,
                reason,
            } => {
                assert_eq!(sandbox, id());
                (target, port, reason)
            }
            other @ Notice::LeftOut { .. } => panic!("{other:?}"),
        }
    }

    pub(crate) fn any_notice(&self) -> Notice {
        let mut notices = self.notices.lock().unwrap();
        let next = notices.as_mut().unwrap().next();
        self.runtime
            .block_on(async { tokio::time::timeout(DEADLINE, next).await })
            .expect("a notice comes")
            .expect("the program runs")
    }
}

/// Limits that a busy machine does not reach.
pub(crate) fn generous_limits() -> Limits {
    Limits {
        head_ms: 120_000,
        connect_ms: 30_000,
        upstream_ms: 10_000,
        ..Limits::default()
    }
}

pub(crate) fn id() -> SandboxId {
    SandboxId::from_u32(0x5a)
}

pub(crate) fn program() -> Program {
    Program {
        path: env!("CARGO_BIN_EXE_stacyvm-egress").into(),
        arguments: Vec::new(),
    }
}

pub(crate) fn settings(limits: Limits) -> Settings {
    let all = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    Settings {
        dns: all(&["10.88.0.1:53", "[fd88::1]:53"]),
        proxy: all(&["10.88.0.1:3128", "[fd88::1]:3128"]),
        // The address of the local name server of many hosts, which no sandbox could reach.
        upstreams: all(&["127.0.0.53:53"]),
        allow_cidrs: Vec::new(),
        ipv6: true,
        identity: Some(Identity {
            uid: NOBODY,
            gid: NOBODY,
        }),
        limits,
    }
}

/// Whether the other side ends the connection. One that only sends nothing has not ended.
pub(crate) fn ends(stream: &mut impl Read) -> bool {
    loop {
        match stream.read(&mut [0; 256]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return !is_late(&error),
        }
    }
}

/// Whether a read has waited too long.
pub(crate) fn is_late(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}

const LINKS: &str = "
ip link set lo up
ip link add s0 type veth peer name e0 netns NS0
ip link add w0 type veth peer name e0 netns NS1
ip addr add 10.88.0.1/24 dev s0
ip addr add fd88::1/64 dev s0 nodad
ip addr add 20.0.0.1/24 dev w0
ip addr add 10.99.0.1/24 dev w0
ip addr add 2a10::1/64 dev w0 nodad
ip link set s0 up
ip link set w0 up
";

const SANDBOX_SIDE: &str = "
ip link set lo up
ip addr add 10.88.0.2/24 dev e0
ip addr add 10.88.0.3/24 dev e0
ip addr add fd88::2/64 dev e0 nodad
ip link set e0 up
ip route add default via 10.88.0.1
ip -6 route add default via fd88::1
";

const INTERNET_SIDE: &str = "
ip link set lo up
ip addr add 20.0.0.10/24 dev e0
ip addr add 20.0.0.11/24 dev e0
ip addr add 10.99.0.10/24 dev e0
ip addr add 2a10::10/64 dev e0 nodad
ip link set e0 up
";

/// Redirects as a provider does. Other connections lead nowhere, because the host does not forward.
const REDIRECT: &str = "
nft -f - <<'END'
table inet egress {
  chain arriving {
    type nat hook prerouting priority dstnat
    iifname s0 meta l4proto tcp tcp dport != { 53, 3128 } redirect to :3128
  }
}
END
";
