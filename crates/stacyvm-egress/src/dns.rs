//! Name resolution for sandboxes: who asks, whether they may, and how often.
//!
//! Owns the listeners and the verdicts; what an answer may hold is [`answer`]'s, where it comes
//! from the resolver's. Who has no row gets no answer at all.

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

use crate::control::{Limits, Reason};
use crate::doors::Doors;
use crate::judge::Judge;
use crate::members::{Member, Members};
use crate::notices::Notices;
use crate::resolver::Resolver;

/// The longest question, in bytes: a name, its type, and a few options.
const MAX_QUESTION: usize = 1024;
/// Questions of all sandboxes that wait for an answer at the same moment, over UDP.
pub(crate) const MAX_WAITING: usize = 2048;

/// What the listeners share.
#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) members: Arc<Members>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) judge: Judge,
    pub(crate) notices: Notices,
    pub(crate) doors: Arc<Doors>,
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
                // What a former answer met, or memory that is short.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let Some(member) = self.members.at(source.ip()) else {
                continue;
            };
            let Ok(permit) = self.doors.questions.clone().try_acquire_owned() else {
                continue;
            };
            let question = Bytes::copy_from_slice(&buffer[..length]);
            let (dns, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                let reply = dns.reply(&member, source.ip(), question).await;
                if let Some(reply) = reply {
                    // Who does not hear it asks again.
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
            let Some(member) = self.members.at(peer.ip()) else {
                continue;
            };
            let Some(permits) = self.doors.enter(&member) else {
                continue;
            };
            let dns = self.clone();
            tokio::spawn(async move {
                let _ = dns.talk(stream, &member, peer.ip()).await;
                drop(permits);
            });
        }
    }

    /// One question after the other, each with two bytes of length before it.
    async fn talk(
        &self,
        mut stream: TcpStream,
        member: &Member,
        source: IpAddr,
    ) -> std::io::Result<()> {
        let patience = Duration::from_millis(self.limits.head_ms);
        loop {
            let question = timeout(patience, read_question(&mut stream)).await??;
            let Some(reply) = self.reply(member, source, question).await else {
                return Ok(());
            };
            timeout(patience, stream.write_all(&reply.for_stream())).await??;
        }
    }

    /// None for what deserves no answer.
    async fn reply(
        &self,
        member: &Member,
        source: IpAddr,
        question: Bytes,
    ) -> Option<answer::Reply> {
        let query = Message::from_octets(question).ok()?;
        if query.header().qr() {
            return None;
        }
        let verdict = self.verdict(member, source, &query).await;
        answer::Reply::new(&query, verdict)
    }

    async fn verdict(
        &self,
        member: &Member,
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
            self.notices.refused(member, &text, None, reason);
            Code(Rcode::REFUSED)
        };
        if question.qclass() != Class::IN {
            return Code(Rcode::REFUSED);
        }
        if !member.take_query() {
            return refuse(Reason::Limit);
        }
        let host = text.parse::<HostName>().ok();
        let host = host.filter(|host| host.name().is_some());
        let allowed = match &host {
            Some(host) => member.allows(source, host),
            // Other names than those of hosts are for those who may ask for everything.
            None => member.is_open(source),
        };
        if !allowed {
            return refuse(Reason::NotAllowed);
        }
        match kind {
            Rtype::A => {}
            Rtype::AAAA if self.ipv6 => {}
            // They hold addresses and keys for a connection that would not show its name.
            Rtype::AAAA | Rtype::HTTPS | Rtype::SVCB => return Empty,
            Rtype::ANY | Rtype::AXFR | Rtype::IXFR => return Code(Rcode::NOTIMP),
            // Whatever else a list of domains is for, it is not for carrying data in and out.
            _ if !member.is_open(source) => return Empty,
            _ => {}
        }
        let Ok(_permit) = member.queries.try_acquire() else {
            return refuse(Reason::Limit);
        };
        let Ok(found) = self.resolver.ask(&name, kind).await else {
            return Code(Rcode::SERVFAIL);
        };
        // A list that has become shorter meanwhile counts.
        let allowed = host.is_none_or(|host| member.allows(source, &host));
        if !allowed {
            return refuse(Reason::NotAllowed);
        }
        let permits =
            |address| (self.ipv6 || address_is_v4(address)) && self.judge.permits(address);
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
