//! Name resolution for sandboxes: which sandbox asks, whether it may, and how often.
//!
//! Owns the listeners and the verdicts. [`answer`] decides what an answer may hold, and the resolver
//! asks the name servers. An address that belongs to no sandbox gets no answer at all.

mod answer;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::{Message, Name, Rtype};
use stacyvm_types::HostName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::address_filter::AddressFilter;
use crate::connection_limits::ConnectionLimits;
use crate::control::{Limits, Reason};
use crate::notices::NoticeSender;
use crate::resolver::Resolver;
use crate::sandboxes::{Sandbox, Sandboxes};

/// The longest question, in bytes: a name, its type, and a few options.
const MAX_QUESTION: usize = 1024;

/// Answers the questions of sandboxes over UDP and TCP.
#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) filter: AddressFilter,
    pub(crate) notices: NoticeSender,
    pub(crate) connection_limits: Arc<ConnectionLimits>,
    pub(crate) ipv6: bool,
    pub(crate) limits: Limits,
}

impl Dns {
    /// Answers datagrams for ever.
    pub(crate) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut buffer = [0; MAX_QUESTION];
        loop {
            let (length, source) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An earlier answer could not be delivered, or memory is short.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let Some(sandbox) = self.sandboxes.at(source.ip()) else {
                continue;
            };
            let Some(permit) = self.connection_limits.acquire_question() else {
                continue;
            };
            let question = Bytes::copy_from_slice(&buffer[..length]);
            let (dns, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                let reply = dns.reply(&sandbox, source.ip(), question).await;
                if let Some(reply) = reply {
                    // A client that does not receive it asks again.
                    let _ = socket.send_to(&reply.for_datagram(), source).await;
                }
                drop(permit);
            });
        }
    }

    /// Answers connections for ever.
    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok((stream, peer)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let Some(sandbox) = self.sandboxes.at(peer.ip()) else {
                continue;
            };
            let Some(permit) = self.connection_limits.acquire(&sandbox) else {
                continue;
            };
            let dns = self.clone();
            tokio::spawn(async move {
                let _ = dns.serve_connection(stream, &sandbox, peer.ip()).await;
                drop(permit);
            });
        }
    }

    /// Answers one question after the other, each with two bytes of length before it.
    async fn serve_connection(
        &self,
        mut stream: TcpStream,
        sandbox: &Sandbox,
        source: IpAddr,
    ) -> std::io::Result<()> {
        let head_timeout = Duration::from_millis(self.limits.head_ms);
        loop {
            let question = timeout(head_timeout, read_question(&mut stream)).await??;
            let Some(reply) = self.reply(sandbox, source, question).await else {
                return Ok(());
            };
            timeout(head_timeout, stream.write_all(&reply.for_stream())).await??;
        }
    }

    /// The reply to a question; none for a message that is no question.
    async fn reply(
        &self,
        sandbox: &Sandbox,
        source: IpAddr,
        question: Bytes,
    ) -> Option<answer::Reply> {
        let query = Message::from_octets(question).ok()?;
        if query.header().qr() {
            return None;
        }
        let verdict = self.verdict(sandbox, source, &query).await;
        answer::Reply::new(&query, verdict)
    }

    async fn verdict(
        &self,
        sandbox: &Sandbox,
        source: IpAddr,
        query: &Message<Bytes>,
    ) -> answer::Verdict {
        use answer::Verdict::{Code, Empty, Records};

        if query.header().opcode() != Opcode::QUERY {
            return Code(Rcode::NOTIMP);
        }
        let Ok(question) = query.sole_question() else {
            return Code(Rcode::FORMERR);
        };
        let name: Name<Bytes> = domain::base::ToName::to_name(question.qname());
        let text = name.to_string();
        let kind = question.qtype();
        let refuse = |reason| {
            self.notices.refused(sandbox, &text, None, reason);
            Code(Rcode::REFUSED)
        };
        if question.qclass() != Class::IN {
            return Code(Rcode::REFUSED);
        }
        if !sandbox.take_query() {
            return refuse(Reason::Limit);
        }
        let host = text.parse::<HostName>().ok();
        let host = host.filter(|host| host.name().is_some());
        let allowed = match &host {
            Some(host) => sandbox.allows(source, host),
            // A name that is no host name is only for sandboxes that may ask for everything.
            None => sandbox.is_open(source),
        };
        if !allowed {
            return refuse(Reason::NotAllowed);
        }
        match kind {
            Rtype::A => {}
            Rtype::AAAA if self.ipv6 => {}
            // These records hold addresses, and keys for connections that hide their name.
            Rtype::AAAA | Rtype::HTTPS | Rtype::SVCB => return Empty,
            Rtype::ANY | Rtype::AXFR | Rtype::IXFR => return Code(Rcode::NOTIMP),
            // Other records would let a sandbox with a list of domains carry data in and out.
            _ if !sandbox.is_open(source) => return Empty,
            _ => {}
        }
        let Ok(_permit) = sandbox.queries.try_acquire() else {
            return refuse(Reason::Limit);
        };
        let Ok(found) = self.resolver.ask(&name, kind).await else {
            return Code(Rcode::SERVFAIL);
        };
        // The policy may have become narrower meanwhile.
        let allowed = host.is_none_or(|host| sandbox.allows(source, &host));
        if !allowed {
            return refuse(Reason::NotAllowed);
        }
        let permits =
            |address| (self.ipv6 || address_is_v4(address)) && self.filter.permits(address);
        match answer::filter(&found, permits) {
            Some(filtered) if filtered.only_refused => refuse(Reason::Address),
            Some(filtered) => Records(filtered),
            None => Code(Rcode::SERVFAIL),
        }
    }
}

fn address_is_v4(address: IpAddr) -> bool {
    address.to_canonical().is_ipv4()
}

async fn read_question(stream: &mut TcpStream) -> std::io::Result<Bytes> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUESTION {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut buffer = vec![0; length];
    stream.read_exact(&mut buffer).await?;
    Ok(buffer.into())
}
