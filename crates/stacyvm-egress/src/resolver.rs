//! Questions to the upstream name servers.
//!
//! Every question is asked anew, with a number and a source port of its own, and an answer counts
//! only when it answers that question. Nothing is cached: one sandbox could tell from the time that
//! an answer takes what another one has asked for.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr as _;
use std::time::Duration;

use bytes::Bytes;
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::{A, Aaaa};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// The longest answer over UDP, in bytes: one that crosses every network in one packet.
pub(crate) const MAX_DATAGRAM: u16 = 1232;
/// How often every server is asked.
const ROUNDS: usize = 2;
/// Addresses that are taken from one answer.
const MAX_ADDRESSES: usize = 32;

/// An answer as the server sent it.
pub(crate) type Answer = Message<Bytes>;

/// No upstream server had an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no name server answered")]
pub(crate) struct Unanswered;

/// Asks the upstream name servers.
#[derive(Debug)]
pub(crate) struct Resolver {
    upstreams: Vec<SocketAddr>,
    query_timeout: Duration,
}

impl Resolver {
    pub(crate) fn new(upstreams: &[SocketAddr], query_timeout: Duration) -> Self {
        Self {
            upstreams: upstreams.to_vec(),
            query_timeout,
        }
    }

    /// Asks one server after the other until one has an answer; "there is no such name" is one.
    pub(crate) async fn ask(&self, name: &Name<Bytes>, kind: Rtype) -> Result<Answer, Unanswered> {
        for upstream in self
            .upstreams
            .iter()
            .cycle()
            .take(ROUNDS * self.upstreams.len())
        {
            let asked = timeout(self.query_timeout, ask_one(*upstream, name, kind)).await;
            if let Ok(Ok(answer)) = asked
                && matches!(answer.header().rcode(), Rcode::NOERROR | Rcode::NXDOMAIN)
            {
                return Ok(answer);
            }
        }
        Err(Unanswered)
    }

    /// The addresses that a name has.
    pub(crate) async fn addresses(
        &self,
        name: &str,
        ipv6: bool,
    ) -> Result<Vec<IpAddr>, Unanswered> {
        let name = Name::<Bytes>::from_str(name).map_err(|_| Unanswered)?;
        let four = async {
            let answer = self.ask(&name, Rtype::A).await?;
            Ok(read::<A>(&answer, |data| data.addr().into()))
        };
        let six = async {
            if !ipv6 {
                return Ok(Vec::new());
            }
            let answer = self.ask(&name, Rtype::AAAA).await?;
            Ok(read::<Aaaa>(&answer, |data| data.addr().into()))
        };
        // A name may be resolved for one family although the other cannot be.
        match tokio::join!(four, six) {
            (Err(Unanswered), Err(Unanswered)) => Err(Unanswered),
            (four, six) => Ok([four, six].into_iter().flatten().flatten().collect()),
        }
    }
}

/// The addresses of one kind in an answer, of any name, because the name asked for may be an alias.
fn read<D>(answer: &Answer, address: impl Fn(&D) -> IpAddr) -> Vec<IpAddr>
where
    D: for<'a> domain::base::ParseRecordData<'a, Bytes>,
{
    let Ok(section) = answer.answer() else {
        return Vec::new();
    };
    section
        .limit_to_in::<D>()
        .filter_map(Result::ok)
        .map(|record| address(record.data()))
        .take(MAX_ADDRESSES)
        .collect()
}

async fn ask_one(upstream: SocketAddr, name: &Name<Bytes>, kind: Rtype) -> io::Result<Answer> {
    let question = question(name, kind).ok_or(io::ErrorKind::InvalidInput)?;
    let answer = over_udp(upstream, &question).await?;
    if answer.header().tc() {
        return over_tcp(upstream, &question).await;
    }
    Ok(answer)
}

fn question(name: &Name<Bytes>, kind: Rtype) -> Option<Message<Vec<u8>>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(random_id()?);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, kind)).ok()?;
    let mut builder = builder.additional();
    builder
        .opt(|opt| {
            opt.set_udp_payload_size(MAX_DATAGRAM);
            Ok(())
        })
        .ok()?;
    Some(builder.into_message())
}

fn random_id() -> Option<u16> {
    let mut bytes = [0; 2];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    (filled == Ok(2)).then(|| u16::from_ne_bytes(bytes))
}

/// Asks over a connected socket, so that the kernel drops what other addresses send.
async fn over_udp(upstream: SocketAddr, question: &Message<Vec<u8>>) -> io::Result<Answer> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(question.as_slice()).await?;
    let mut buffer = vec![0; MAX_DATAGRAM.into()];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = answer_to(question, &buffer[..length]) {
            return Ok(answer);
        }
    }
}

async fn over_tcp(upstream: SocketAddr, question: &Message<Vec<u8>>) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(upstream).await?;
    let bytes = question.as_slice();
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream
        .write_all(&[&length.to_be_bytes()[..], bytes].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    answer_to(question, &buffer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The message, if it is an answer to this very question.
fn answer_to(question: &Message<Vec<u8>>, bytes: &[u8]) -> Option<Answer> {
    let answer = Message::from_octets(Bytes::copy_from_slice(bytes)).ok()?;
    answer.is_answer(question).then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let name = Name::from_str("a.example").unwrap();
        let asked = question(&name, Rtype::A).unwrap();
        let reply = |change: fn(&mut Message<Vec<u8>>)| {
            let mut bytes = asked.clone();
            bytes.header_mut().set_qr(true);
            change(&mut bytes);
            answer_to(&asked, bytes.as_slice()).is_some()
        };
        assert!(reply(|_| {}));
        assert!(!reply(|message| message.header_mut().set_qr(false)));
        assert!(!reply(|message| {
            let id = message.header().id();
            message.header_mut().set_id(id.wrapping_add(1));
        }));
        let other = Name::from_str("b.example").unwrap();
        let mut other = question(&other, Rtype::A).unwrap();
        other.header_mut().set_qr(true);
        other.header_mut().set_id(asked.header().id());
        assert!(answer_to(&asked, other.as_slice()).is_none());
        assert!(answer_to(&asked, b"short").is_none());
    }
}
