//! The process: it reads its settings, binds its sockets, gives up its privileges, and serves.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::address_filter::AddressFilter;
use crate::connection_limits::ConnectionLimits;
use crate::control::{MAX_LINE, Order, Ready, Report, Settings, line};
use crate::dial::Dialer;
use crate::dns::Dns;
use crate::failure::{Failure, Step as _};
use crate::notices::NoticeSender;
use crate::proxy::{Proxy, ProxyContext};
use crate::resolver::Resolver;
use crate::sandboxes::Sandboxes;
use crate::{confine, listeners};

/// How long the provider may take to send the settings.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(30);
/// Reports that wait for the provider to read them.
const REPORT_QUEUE: usize = 1024;

/// Serves until the control socket, which is standard input, closes. The process must have one
/// thread, and gives up its privileges: afterwards it can only exit.
///
/// # Errors
/// The step that failed, which is also reported over the control socket.
pub fn run() -> Result<(), Failure> {
    let control = stacyvm_sys::spawn::inherited(0).step("take over the control socket")?;
    let control = UnixStream::from(control);
    let started = start(&control);
    let (server, ready) = match started {
        Ok(started) => started,
        Err(failure) => {
            // Without a reader there, it is still printed to standard error.
            let _ = (&control).write_all(&line(&Report::Failed(failure.0.clone())));
            return Err(failure);
        }
    };
    server.run(control, ready)
}

/// Everything that serving needs and that can be made only before privileges are given up.
struct Server {
    settings: Settings,
    sockets: Sockets,
    runtime: tokio::runtime::Runtime,
}

struct Sockets {
    dns_udp: Vec<std::net::UdpSocket>,
    dns_tcp: Vec<std::net::TcpListener>,
    proxy: Vec<std::net::TcpListener>,
}

fn start(control: &UnixStream) -> Result<(Server, Ready), Failure> {
    let settings = read_settings(control)?;
    confine::detach()?;
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
    // It makes descriptors that the system call filter would refuse.
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
    let server = Server {
        settings,
        sockets,
        runtime,
    };
    Ok((server, ready))
}

/// Reads the first line. The provider sends no second one before it has an answer.
fn read_settings(control: &UnixStream) -> Result<Settings, Failure> {
    const STEP: &str = "read the settings";
    control
        .set_read_timeout(Some(SETTINGS_TIMEOUT))
        .step(STEP)?;
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

impl Server {
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
            let (reports, outgoing) = mpsc::channel(REPORT_QUEUE);
            let sandboxes = Arc::new(Sandboxes::new(settings.limits));
            serve_sandboxes(&settings, sockets, &sandboxes, &reports)?;
            let writing = tokio::spawn(write_reports(writer, outgoing));
            let _ = reports.send(Report::Ready(ready)).await;
            let ended = execute_orders(orders, &sandboxes, &reports).await;
            writing.abort();
            ended
        });
        // Open connections are cut, not waited for.
        runtime.shutdown_background();
        served
    }
}

fn serve_sandboxes(
    settings: &Settings,
    sockets: Sockets,
    sandboxes: &Arc<Sandboxes>,
    reports: &mpsc::Sender<Report>,
) -> Result<(), Failure> {
    const STEP: &str = "watch a listening socket";
    let limits = settings.limits;
    let filter = AddressFilter::new(&settings.allow_cidrs);
    let query_timeout = Duration::from_millis(limits.upstream_ms);
    let resolver = Arc::new(Resolver::new(&settings.upstreams, query_timeout));
    let notices = NoticeSender::new(reports.clone());
    let connection_limits = Arc::new(ConnectionLimits::new(&limits));
    let dns = Arc::new(Dns {
        sandboxes: sandboxes.clone(),
        resolver: resolver.clone(),
        filter: filter.clone(),
        notices: notices.clone(),
        connection_limits: connection_limits.clone(),
        ipv6: settings.ipv6,
        limits,
    });
    let context = ProxyContext {
        dialer: Dialer {
            resolver,
            filter,
            ipv6: settings.ipv6,
            connect_timeout: Duration::from_millis(limits.connect_ms),
        },
        notices: notices.clone(),
        limits,
    };
    let proxy = Arc::new(Proxy {
        sandboxes: sandboxes.clone(),
        connection_limits,
        context: Arc::new(context),
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
    tokio::spawn(notices.report_left_out(sandboxes.clone()));
    Ok(())
}

/// Executes the provider's orders until it closes the control socket.
async fn execute_orders(
    orders: tokio::net::unix::OwnedReadHalf,
    sandboxes: &Sandboxes,
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
        // The end of the socket, or a line that it cut.
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
                sandboxes.set(&sandbox, &addresses, policy);
                seq
            }
            Order::Remove { seq, addresses } => {
                sandboxes.remove(&addresses);
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
        // That the provider is gone is noticed where orders are read.
        if writer.write_all(&line(&report)).await.is_err() {
            return;
        }
    }
}
