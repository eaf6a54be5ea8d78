//! Two network namespaces that play the host and the internet, with an engine in the host's, so that
//! no test touches the network of the machine it runs on. The test's thread runs in the host's too.
//!
//! ```text
//!  OUTSIDE 11.22.33.1, 192.168.77.1, 169.254.169.254 ─ up1 ═ up0 ─ HOST 11.22.33.2, 192.168.77.2
//!                                                                   engine, bridges
//! ```
//! No packet leaves these namespaces, so any address may play a public one. Everything in them ends
//! with the thread of its test, also when the test fails.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use stacyvm_testing::{
    Entered, NetworkNamespace, programs_or_skip, root_or_skip, wait_until as wait,
};
use tempfile::TempDir;

use crate::support::Surroundings;

/// The port on which every listener answers `hello`, on TCP and UDP.
pub(crate) const PORT: u16 = 7000;
/// The port on which the outside reports what it has received by UDP.
const HEARD: u16 = 7001;

/// A Python program that listens until its input closes; with a second argument it also answers DNS.
pub(crate) const LISTEN: &str = r#"
import os, socket, sys, threading
heard = []
def tcp(port, text):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('', port)); s.listen(64)
    while True:
        c, who = s.accept()
        try: c.sendall(text().encode())
        except OSError: pass
        c.close()
def udp(port, answer):
    # 8 is IP_PKTINFO: the answer comes from the address that was asked.
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(0, 8, 1); s.bind(('', port))
    while True:
        data, asked, _, who = s.recvmsg(2000, 100)
        try: s.sendmsg([answer(data)], asked, 0, who)
        except OSError: pass
def hello(data):
    heard.append(data.decode()); return b'hello'
def name(data):
    end = data.index(b'\0', 12) + 5
    return data[:2] + b'\x81\x80\0\1\0\1\0\0\0\0' + data[12:end] + b'\xc0\x0c\0\1\0\1\0\0\0\x05\0\4' + socket.inet_aton('11.22.33.1')
port = int(sys.argv[1])
works = [(tcp, port, lambda: 'hello'), (tcp, port + 1, lambda: ' '.join(heard) or 'nothing'), (udp, port, hello), (tcp, port + 2, lambda: 'hello')]
if len(sys.argv) > 2: works.append((udp, 53, name))
for work in works: threading.Thread(target=work[0], args=work[1:], daemon=True).start()
while os.read(0, 100): pass
"#;

/// A Python program that connects to targets, a line `tcp ADDRESS PORT` or `udp ADDRESS PORT` each, all
/// at once, and prints a line for each: `hello`, or how the connection failed.
pub(crate) const ASK: &str = r#"
import socket, sys, threading
def ask(line):
    kind, address, port = line.split()
    try:
        if kind == 'tcp': s = socket.create_connection((address, int(port)), 4)
        else:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.settimeout(4); s.connect((address, int(port))); s.send(b'ask')
        s.settimeout(4)
        return line + ' = ' + (s.recv(200).decode() or 'closed')
    except OSError as error:
        return line + ' = ' + ('silence' if isinstance(error, TimeoutError) else 'refused')
said = {}
def note(line): said[line] = ask(line)
lines = sys.argv[1].splitlines()
threads = [threading.Thread(target=note, args=(line,)) for line in lines]
for thread in threads: thread.start()
for thread in threads: thread.join()
print('\n'.join(said[line] for line in lines))
"#;

/// A network namespace and what tests do in it.
#[derive(Debug)]
pub(crate) struct Namespace(NetworkNamespace);

impl Namespace {
    fn new() -> Self {
        let namespace = Self(NetworkNamespace::make());
        namespace.run("ip link set lo up");
        namespace
    }

    pub(crate) fn path(&self) -> String {
        self.0.path()
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        self.0.command(program)
    }

    /// Runs a command of words without quotes, and returns its output.
    #[track_caller]
    pub(crate) fn run(&self, words: &str) -> String {
        let mut words = words.split(' ');
        let output = self
            .command(words.next().unwrap())
            .args(words)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs [`ASK`] in this namespace.
    pub(crate) fn ask(&self, targets: &str) -> String {
        let output = self.command("python3").args(["-c", ASK, targets]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }
}

/// The namespaces, the listeners in them, and the engine.
pub(crate) struct IsolatedNetwork {
    pub(crate) host: Namespace,
    pub(crate) outside: Namespace,
    listeners: Vec<Child>,
    engine: Option<Child>,
    directory: TempDir,
    entered: Option<Entered>,
}

impl IsolatedNetwork {
    /// Creates the namespaces, with an engine that takes its networks from `pools`, and moves the
    /// calling thread into the host's; none, and the test is skipped, where that is impossible.
    pub(crate) fn enter(pools: &str) -> Option<(Self, Surroundings)> {
        let mut surroundings = Surroundings::find()?;
        let programs = [
            "nft", "ip", "nsenter", "unshare", "setpriv", "python3", "dockerd",
        ];
        if !root_or_skip() || !programs_or_skip(&programs) {
            return None;
        }
        let mut network = Self {
            host: Namespace::new(),
            outside: Namespace::new(),
            listeners: Vec::new(),
            engine: None,
            directory: TempDir::with_prefix("svm-network-").unwrap(),
            entered: None,
        };
        network.lay_out();
        network.start_engine(pools);
        let from = std::mem::replace(&mut surroundings.engine, network.address());
        let images = [&surroundings.image];
        let copy = format!(
            "docker --host {from} save {} | docker --host {} load",
            images[0], surroundings.engine
        );
        let copied = Command::new("sh").args(["-c", &copy]).output().unwrap();
        assert!(copied.status.success(), "{copied:?}");
        network.entered = Some(network.host.0.enter());
        Some((network, surroundings))
    }

    fn lay_out(&mut self) {
        let Self { host, outside, .. } = self;
        let there = outside.path();
        host.run(&format!(
            "ip link add up0 type veth peer name up1 netns {there}"
        ));
        for (namespace, device, addresses) in [
            (&*host, "up0", &["11.22.33.2/24", "192.168.77.2/24"][..]),
            (
                &*outside,
                "up1",
                &["11.22.33.1/24", "192.168.77.1/24", "169.254.169.254/32"],
            ),
        ] {
            namespace.run(&format!("ip link set {device} up"));
            for address in addresses {
                namespace.run(&format!("ip addr add {address} dev {device}"));
            }
        }
        host.run("ip route add default via 11.22.33.1");
        host.run("ip route add 169.254.0.0/16 dev up0");
        // Forged packets must be dropped by the rules, not by the kernel's own check.
        for which in ["all", "default"] {
            let words = format!("sysctl -qw net.ipv4.conf.{which}.rp_filter=0");
            host.run(&words);
        }
        for (namespace, more) in [(&*host, None), (&*outside, Some("names"))] {
            let listener = namespace
                .command("python3")
                .args(["-c", LISTEN, &PORT.to_string()])
                .args(more)
                .stdin(Stdio::piped())
                .spawn();
            self.listeners.push(listener.unwrap());
        }
        for address in [
            "11.22.33.1",
            "11.22.33.2",
            "192.168.77.1",
            "169.254.169.254",
        ] {
            wait("the listeners answer", || {
                let targets = format!("tcp {address} {PORT}\nudp {address} {PORT}");
                self.host.ask(&targets).matches("hello").count() == 2
            });
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn address(&self) -> String {
        format!("unix://{}", self.path("engine.sock").display())
    }

    /// Starts the engine and waits until it answers.
    pub(crate) fn start_engine(&mut self, pools: &str) {
        let config = format!(
            r#"{{"live-restore":true,"features":{{"buildkit":false}},"default-address-pools":[{pools}]}}"#
        );
        std::fs::write(self.path("daemon.json"), config).unwrap();
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = self.host.command("setpriv");
        // The engine ends with this thread.
        command.args(["--pdeathsig", "KILL", "dockerd"]);
        for (flag, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        let address = self.address();
        command.args(["--host", &address]);
        let log = log.try_clone().map(|more| (log, more)).unwrap();
        command.stdin(Stdio::null()).stdout(log.0).stderr(log.1);
        self.engine = Some(command.spawn().unwrap());
        wait("the engine answers", || {
            Command::new("docker")
                .args(["--host", &address, "version"])
                .output()
                .is_ok_and(|output| output.status.success())
        });
    }

    /// Kills the engine; its containers keep running.
    pub(crate) fn kill_engine(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            engine.kill().unwrap();
            engine.wait().unwrap();
        }
    }

    /// Everything that the outside has received by UDP.
    pub(crate) fn heard(&self) -> String {
        self.outside.ask(&format!("tcp 127.0.0.1 {HEARD}"))
    }
}

impl Drop for IsolatedNetwork {
    fn drop(&mut self) {
        let address = self.address();
        let docker = |words: &str| {
            let script = words.replace("DOCKER", &format!("docker --host {address}"));
            let _ = Command::new("sh").args(["-c", &script]).output();
        };
        docker("DOCKER rm --force $(DOCKER ps --all --quiet)");
        if let Some(mut engine) = self.engine.take() {
            // A graceful end, so that the engine removes its own mounts and processes.
            let pid = rustix::process::Pid::from_child(&engine);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(30);
            while engine.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = engine.kill();
            let _ = engine.wait();
        }
        // A killed engine has left its mount, and the next engine has added another one.
        let unmounted = |path: &PathBuf| {
            let output = Command::new("umount").arg("--lazy").arg(path).output();
            output.is_ok_and(|output| output.status.success())
        };
        while unmounted(&self.path("data")) {}
        for listener in &mut self.listeners {
            let _ = listener.kill();
            let _ = listener.wait();
        }
        drop(self.entered.take());
    }
}
