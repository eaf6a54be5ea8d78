//! The process: settings in, sockets bound, privileges given up, then everything served.

use std::fmt;
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::control::{MAX_LINE, Order, Ready, Report, Settings, line};
use crate::dial::Dialer;
use crate::dns::Dns;
use crate::doors::Doors;
use crate::judge::Judge;
use crate::members::Members;
use crate::notices::Notices;
use crate::proxy::Proxy;
use crate::resolver::Resolver;
use crate::{confine, listeners};

/// How long the settings may take to come.
const SETTINGS_LIMIT: Duration = Duration::from_secs(30);
/// Reports that wait to be read by the provider.
const REPORTS: usize = 1024;

/// Why the process does not serve. Its text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Names the step that failed.
pub(crate) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure(format!("cannot {step}: {error}")))
    }
}

/// Serves until the control socket, which is standard input, closes. For a process with one thread,
/// which it takes over: afterwards it may do nothing but end.
///
/// # Errors
/// The step that failed; whoever holds the other end has been told, too.
pub fn run() -> Result<(), Failure> {
    let control = stacyvm_sys::spawn::inherited(0).step("take over the control socket")?;
    let control = UnixStream::from(control);
    let started = start(&control);
    let (served, ready) = match started {
        Ok(started) => started,
        Err(failure) => {
            // When nobody listens there, standard error says it.
            let _ = (&control).write_all(&line(&Report::Failed(failure.0.clone())));
            return Err(failure);
        }
    };
    served.run(control, ready)
}

/// All that is needed to serve, made while it could still be made.
struct Served {
    settings: Settings,
    sockets: Sockets,
    runtime: tokio::runtime::Runtime,
}

struct Sockets {
    dns_udp: Vec<std::net::UdpSocket>,
    dns_tcp: Vec<std::net::TcpListener>,
    proxy: Vec<std::net::TcpListener>,
}

fn start(control: &UnixStream) -> Result<(Served, Ready), Failure> {
    let settings = read_settings(control)?;
    confine::part()?;
    let mut sockets = Sockets {
        dns_udp: Vec::new(),
        dns_tcp: Vec::new(),
        proxy: Vec::new(),
    };
    let mut dns = Vec::new();
    for address in &settings.dns {
        let (udp, tcp) = listeners::both(*address)?;
        dns.push(udp.local_addr().step("ask for the port")?);
        sockets.dns_udp.push(udp);
        sockets.dns_tcp.push(tcp);
    }
    for address in &settings.proxy {
        sockets.proxy.push(listeners::tcp(*address)?);
    }
    let proxy: Result<Vec<SocketAddr>, _> = sockets
        .proxy
        .iter()
        .map(std::net::TcpListener::local_addr)
        .collect();
    // It makes descriptors of its own that the filter would refuse.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .step("start the runtime")?;
    let landlock = confine::confine(settings.identity, &settings.limits)?;
    let ready = Ready {
        dns,
        proxy: proxy.step("ask for the port")?,
        landlock,
    };
    let served = Served {
        settings,
        sockets,
        runtime,
    };
    Ok((served, ready))
}

/// The first line. The provider sends no second one before it has an answer.
fn read_settings(control: &UnixStream) -> Result<Settings, Failure> {
    const STEP: &str = "read the settings";
    control.set_read_timeout(Some(SETTINGS_LIMIT)).step(STEP)?;
    let mut text = Vec::new();
    let limited = control.take(MAX_LINE as u64);
    std::io::BufReader::new(limited)
        .read_until(b'\n', &mut text)
        .step(STEP)?;
    let settings: Settings = serde_json::from_slice(&text).step(STEP)?;
    if settings.upstreams.is_empty() {
        return Err(Failure(
            "there is no name server to ask: name one".to_owned(),
        ));
    }
    control.set_nonblocking(true).step(STEP)?;
    Ok(settings)
}

impl Served {
    fn run(self, control: UnixStream, ready: Ready) -> Result<(), Failure> {
        let Self {
            settings,
            sockets,
            runtime,
        } = self;
        let served = runtime.block_on(async {
            let control =
                tokio::net::UnixStream::from_std(control).step("watch the control socket")?;
            let (orders, writer) = control.into_split();
            let (reports, outgoing) = mpsc::channel(REPORTS);
            let members = Arc::new(Members::new(settings.limits));
            serve_sandboxes(&settings, sockets, &members, &reports)?;
            let writing = tokio::spawn(write_reports(writer, outgoing));
            let _ = reports.send(Report::Ready(ready)).await;
            let ended = obey(orders, &members, &reports).await;
            writing.abort();
            ended
        });
        // Connections end with the sandboxes' way out; nobody waits for them.
        runtime.shutdown_background();
        served
    }
}

fn serve_sandboxes(
    settings: &Settings,
    sockets: Sockets,
    members: &Arc<Members>,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Failure> {
    const STEP: &str = "watch a listening socket";
    let limits = settings.limits;
    let judge = Judge::new(&settings.allow_cidrs);
    let patience = Duration::from_millis(limits.upstream_ms);
    let resolver = Arc::new(Resolver::new(&settings.upstreams, patience));
    let notices = Notices::new(reports.clone());
    let doors = Arc::new(Doors::new(&limits));
    let dns = Arc::new(Dns {
        members: members.clone(),
        resolver: resolver.clone(),
        judge: judge.clone(),
        notices: notices.clone(),
        doors: doors.clone(),
        ipv6: settings.ipv6,
        limits,
    });
    let proxy = Arc::new(Proxy {
        members: members.clone(),
        dialer: Dialer {
            resolver,
            judge,
            ipv6: settings.ipv6,
            patience: Duration::from_millis(limits.connect_ms),
        },
        notices: notices.clone(),
        doors,
        limits,
    });
    for socket in sockets.dns_udp {
        let socket = tokio::net::UdpSocket::from_std(socket).step(STEP)?;
        tokio::spawn(dns.clone().serve_udp(socket));
    }
    for listener in sockets.dns_tcp {
        let listener = tokio::net::TcpListener::from_std(listener).step(STEP)?;
        tokio::spawn(dns.clone().serve_tcp(listener));
    }
    for listener in sockets.proxy {
        let listener = tokio::net::TcpListener::from_std(listener).step(STEP)?;
        tokio::spawn(proxy.clone().serve(listener));
    }
    tokio::spawn(notices.tell_left_out(members.clone()));
    Ok(())
}

/// Does what the provider says until it is gone.
async fn obey(
    orders: tokio::net::unix::OwnedReadHalf,
    members: &Members,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Failure> {
    let mut orders = tokio::io::BufReader::new(orders);
    let mut text = Vec::new();
    loop {
        text.clear();
        let mut limited = (&mut orders).take(MAX_LINE as u64);
        let length = match limited.read_until(b'\n', &mut text).await {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => return Err(error).step("read from the control socket"),
        };
        // The end, or a line that was cut by it.
        if length == 0 || text.last() != Some(&b'\n') {
            return Ok(());
        }
        let seq = match serde_json::from_slice(&text).step("understand the provider")? {
            Order::Set {
                seq,
                sandbox,
                addresses,
                policy,
            } => {
                members.set(&sandbox, &addresses, policy);
                seq
            }
            Order::Remove { seq, addresses } => {
                members.remove(&addresses);
                seq
            }
        };
        if reports.send(Report::Done { seq }).await.is_err() {
            return Ok(());
        }
    }
}

async fn write_reports(
    mut writer: tokio::net::unix::OwnedWriteHalf,
    mut reports: mpsc::Receiver<Report>,
) {
    while let Some(report) = reports.recv().await {
        // A provider that is gone is seen by who reads from it.
        if writer.write_all(&line(&report)).await.is_err() {
            return;
        }
    }
}
