//! A small internet: network namespaces that play the host, the world outside and a network behind
//! the host, so that no test touches the network of the machine it runs on.
//!
//! ```text
//!  INTERNET 11.22.33.1, 2600:1234::1      ┐
//!           192.168.77.1, fd00:77::1      ├─ up0 ─ HOST 11.22.33.2, 192.168.77.2, …
//!           169.254.169.254, fd00:ec2::254┘          │
//!                                                  back0 192.168.88.2
//!                                                    │
//!                                                 BEHIND 192.168.88.1
//! ```
//! The public addresses exist outside, but nothing leaves these namespaces. They end with
//! the test: the listeners in them do when their standard input closes.

use std::cell::RefCell;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use stacyvm_testing::{Entered, NetworkNamespace, programs_or_skip, root_or_skip};

use super::server::{Finished, finish};
use super::{SOON, eventually};

/// Where everything outside listens: `hello` and who is seen on TCP and UDP.
pub(crate) const PORT: u16 = 7000;
/// Where the outside tells what has arrived by UDP.
const HEARD: u16 = 7001;

/// Listens on every address, says who is seen, and remembers what came by UDP. With a second
/// argument it also resolves a few names and serves a page.
const LISTENER: &str = r#"
import os, socket, sys, threading
port, heard = int(sys.argv[1]), []
def tcp(family, port, text):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(('', port)); s.listen(64)
    while True:
        c, who = s.accept()
        try: c.sendall(text(who).encode())
        except OSError: pass
        c.close()
def udp(family):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind(('', port))
    while True:
        data, who = s.recvfrom(2000)
        heard.append(data.decode())
        try: s.sendto(('hello ' + who[0]).encode(), who)
        except OSError: pass
NAMES = {'outside.example': ('11.22.33.1', '2600:1234::1'), 'other.test': ('11.22.33.1', None),
         'inside.example': ('192.168.77.1', 'fd00:77::1'), 'metadata.example': ('169.254.169.254', None)}
def names():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(('', 53))
    while True:
        data, who = s.recvfrom(2000)
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1:at + 1 + data[at]].decode()); at += data[at] + 1
        kind = int.from_bytes(data[at + 1:at + 3], 'big')
        found = NAMES.get('.'.join(labels).lower())
        address = found and {1: found[0], 28: found[1]}.get(kind)
        answer = b''
        if address:
            packed = socket.inet_pton(socket.AF_INET6 if ':' in address else socket.AF_INET, address)
            answer = b'\xc0\x0c' + data[at + 1:at + 5] + b'\0\0\0\x05' + len(packed).to_bytes(2, 'big') + packed
        head = data[:2] + (b'\x81\x80' if found else b'\x81\x83') + b'\0\1' + (b'\0\1' if answer else b'\0\0') + b'\0\0\0\0'
        s.sendto(head + data[12:at + 5] + answer, who)
def web():
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', 80)); s.listen(64)
    while True:
        c, who = s.accept()
        threading.Thread(target=page, args=(c,), daemon=True).start()
def page(c):
    try:
        asked = b''
        while b'\r\n\r\n' not in asked:
            more = c.recv(4096)
            if not more: return
            asked += more
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello')
    except OSError: pass
    finally: c.close()
if len(sys.argv) > 2:
    for work in names, web: threading.Thread(target=work, daemon=True).start()
for family in socket.AF_INET, socket.AF_INET6:
    for work in ((tcp, family, port, lambda who: 'hello ' + who[0]), (udp, family)):
        threading.Thread(target=work[0], args=work[1:], daemon=True).start()
threading.Thread(target=tcp, args=(socket.AF_INET, port + 1, lambda who: ' '.join(heard)), daemon=True).start()
while os.read(0, 100): pass
"#;

/// Asks each target, `tcp ADDRESS PORT` or `udp ADDRESS PORT` a line, and says what came of it. All are
/// asked at once.
pub(crate) const ASK: &str = r#"
import concurrent.futures, socket, sys
def ask(line):
    kind, address, port = line.split()
    try:
        if kind == 'tcp':
            s = socket.create_connection((address, int(port)), 4)
        else:
            s = socket.socket(socket.AF_INET6 if ':' in address else socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(4); s.connect((address, int(port))); s.send(b'ask')
        s.settimeout(4)
        answer = s.recv(200).decode()
        return line + ' = ' + (answer or 'closed')
    except OSError as error:
        return line + ' = ' + ('refused' if not isinstance(error, TimeoutError) else 'silence')
with concurrent.futures.ThreadPoolExecutor(24) as pool:
    print('\n'.join(pool.map(ask, sys.argv[1].splitlines())))
"#;

/// A network namespace and what tests do in it.
#[derive(Debug)]
pub(crate) struct Namespace(NetworkNamespace);

impl Namespace {
    pub(crate) fn new() -> Self {
        let namespace = Self(NetworkNamespace::make());
        namespace.ip("link set lo up");
        namespace
    }

    /// The file that names it.
    pub(crate) fn path(&self) -> String {
        self.0.path()
    }

    /// A program that runs in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        self.0.command(program)
    }

    /// Runs `ip` in it.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        finish(self.command("ip").args(arguments.split(' '))).ok()
    }

    /// Runs `nft` in it.
    #[track_caller]
    pub(crate) fn nft(&self, commands: &str) -> String {
        finish(self.command("nft").arg(commands)).ok()
    }

    /// A veth pair from here to another namespace.
    fn connect(&self, here: &str, other: &Self, there: &str) {
        self.ip(&format!(
            "link add {here} type veth peer name {there} netns {}",
            other.path()
        ));
        for (namespace, name) in [(self, here), (other, there)] {
            namespace.ip(&format!("link set {name} up"));
        }
    }

    fn addresses(&self, device: &str, addresses: &[&str]) {
        for address in addresses {
            let more = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("addr add {address} dev {device}{more}"));
        }
    }

    /// What became of each target, asked from here; the same form as [`ask`](super::super).
    pub(crate) fn ask(&self, targets: &str) -> String {
        finish(self.command("python3").args(["-c", ASK, targets])).ok()
    }
}

/// The namespaces and who listens in them. The test's thread stands in the host's.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) host: Namespace,
    pub(crate) internet: Namespace,
    pub(crate) behind: Namespace,
    /// Listeners; they end when their input closes.
    listeners: RefCell<Vec<Child>>,
    entered: Option<Entered>,
}

impl World {
    /// Makes it and moves the calling thread in; none, and the test is skipped, where that cannot be.
    pub(crate) fn enter() -> Option<Self> {
        let programs = ["nft", "ip", "nsenter", "unshare", "python3"];
        if !root_or_skip() || !programs_or_skip(&programs) {
            return None;
        }
        let mut world = Self {
            host: Namespace::new(),
            internet: Namespace::new(),
            behind: Namespace::new(),
            listeners: RefCell::default(),
            entered: None,
        };
        world.lay_out();
        world.entered = Some(world.host.0.enter());
        Some(world)
    }

    fn lay_out(&self) {
        let Self {
            host,
            internet,
            behind,
            ..
        } = self;
        // The strictest setting of these two counts, and what stops a forged packet must be our rule.
        for which in ["all", "default"] {
            let write = format!("echo 0 > /proc/sys/net/ipv4/conf/{which}/rp_filter");
            finish(host.command("sh").args(["-c", &write])).ok();
        }
        host.connect("up0", internet, "up1");
        host.connect("back0", behind, "back1");
        internet.addresses(
            "up1",
            &[
                "11.22.33.1/24",
                "192.168.77.1/24",
                "169.254.169.254/32",
                "2600:1234::1/64",
                "fd00:77::1/64",
                "fd00:ec2::254/128",
            ],
        );
        host.addresses(
            "up0",
            &[
                "11.22.33.2/24",
                "192.168.77.2/24",
                "2600:1234::2/64",
                "fd00:77::2/64",
            ],
        );
        host.addresses("back0", &["192.168.88.2/24"]);
        behind.addresses("back1", &["192.168.88.1/24"]);
        host.ip("route add default via 11.22.33.1");
        host.ip("route add 169.254.0.0/16 dev up0");
        host.ip("-6 route add default via 2600:1234::1");
        behind.ip("route add default via 192.168.88.2");
        internet.ip("route add 192.168.88.0/24 via 11.22.33.2");
        self.listen(host, &[]);
        self.listen(behind, &[]);
        self.listen(internet, &["services"]);
        for target in ["11.22.33.1", "11.22.33.2", "192.168.88.1", "2600:1234::1"] {
            eventually("the listeners answer", SOON, || {
                host.ask(&format!("tcp {target} {PORT}\nudp {target} {PORT}"))
                    .matches("hello")
                    .count()
                    == 2
            });
        }
        eventually("the page is served", SOON, || {
            let page = "import urllib.request; print(urllib.request.urlopen('http://11.22.33.1', timeout=4).read())";
            finish(host.command("python3").args(["-c", page])).code == Some(0)
        });
    }

    fn listen(&self, namespace: &Namespace, more: &[&str]) {
        let child = namespace
            .command("python3")
            .args(["-c", LISTENER, &PORT.to_string()])
            .args(more)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        self.listeners.borrow_mut().push(child);
    }

    /// Everything that has arrived by UDP in one of the namespaces.
    pub(crate) fn heard(namespace: &Namespace) -> String {
        namespace.ask(&format!("tcp 127.0.0.1 {HEARD}"))
    }

    /// Interfaces of sandboxes on the host.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let text = self.host.ip("-o link show");
        let names = text.lines().filter_map(|line| line.split(": ").nth(1));
        names
            .map(|name| name.split('@').next().unwrap().to_owned())
            .filter(|name| name.starts_with("svm"))
            .collect()
    }

    /// A setting of the host.
    pub(crate) fn setting(&self, name: &str) -> String {
        let path = format!("/proc/sys/net/{name}");
        finish(self.host.command("cat").arg(path))
            .ok()
            .trim()
            .to_owned()
    }

    /// Runs a program in the network of a process, with all rights.
    pub(crate) fn inside(pid: i32, program: &str, arguments: &[&str]) -> Finished {
        finish(
            Command::new("nsenter")
                .arg(format!("--net=/proc/{pid}/ns/net"))
                .args(["--", program])
                .args(arguments),
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::io::stderr().flush();
        for child in self.listeners.borrow_mut().iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        drop(self.entered.take());
    }
}
