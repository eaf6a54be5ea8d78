//! What an answer may hold, and how it is sent.
//!
//! An answer is never handed on as it came: it is made anew from the records of its answer section
//! alone, without the addresses that a sandbox may not reach.

use std::net::IpAddr;

use bytes::Bytes;
use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, ParsedName, Record, StaticCompressor, StreamTarget};
use domain::rdata::AllRecordData;

use crate::resolver::{Answer, MAX_DATAGRAM};

/// Without options, a client takes this much in one datagram (RFC 1035, 4.2.1).
const PLAIN_DATAGRAM: u16 = 512;
/// The most records of an answer that are handed on.
const MAX_RECORDS: usize = 256;

type AnswerRecord = Record<ParsedName<Bytes>, AllRecordData<Bytes, ParsedName<Bytes>>>;

/// How a question is answered.
#[derive(Debug)]
pub(super) enum Verdict {
    /// With this code and no records.
    Code(Rcode),
    /// The name exists, without records of this type.
    Empty,
    /// With these records.
    Records(FilteredAnswer),
}

/// An answer without the records that a sandbox may not have.
#[derive(Debug)]
pub(super) struct FilteredAnswer {
    code: Rcode,
    records: Vec<AnswerRecord>,
    /// Whether there were addresses, and all of them were refused.
    pub(super) only_refused: bool,
}

/// Keeps the records that a sandbox may have; none when the answer is malformed.
pub(super) fn filter(answer: &Answer, permits: impl Fn(IpAddr) -> bool) -> Option<FilteredAnswer> {
    let mut records = Vec::new();
    let (mut kept, mut refused) = (0, 0);
    for record in answer.answer().ok()? {
        let record = record.ok()?;
        let record: AnswerRecord = record.to_any_record().ok()?;
        let address: Option<IpAddr> = match record.data() {
            AllRecordData::A(data) => Some(data.addr().into()),
            AllRecordData::Aaaa(data) => Some(data.addr().into()),
            // Their hints are addresses, too.
            AllRecordData::Svcb(_) | AllRecordData::Https(_) => continue,
            _ => None,
        };
        match address {
            Some(address) if !permits(address) => {
                refused += 1;
                continue;
            }
            Some(_) => kept += 1,
            None => {}
        }
        records.push(record);
        if records.len() > MAX_RECORDS {
            return None;
        }
    }
    Some(FilteredAnswer {
        code: answer.header().rcode(),
        records,
        only_refused: refused > 0 && kept == 0,
    })
}

/// An answer to one question, in the two forms in which it is sent.
#[derive(Debug)]
pub(super) struct Reply {
    message: Vec<u8>,
    /// The same without records, marked as truncated.
    truncated: Vec<u8>,
    /// The longest datagram that the client takes, in bytes.
    max_datagram: usize,
}

impl Reply {
    /// Builds the reply; none when it does not fit into a message.
    pub(super) fn new(query: &Message<Bytes>, verdict: Verdict) -> Option<Self> {
        let (code, records) = match verdict {
            Verdict::Code(code) => (code, Vec::new()),
            Verdict::Empty => (Rcode::NOERROR, Vec::new()),
            Verdict::Records(found) => (found.code, found.records),
        };
        let option = query.opt();
        let max_datagram = option.as_ref().map_or(PLAIN_DATAGRAM, |option| {
            option
                .udp_payload_size()
                .clamp(PLAIN_DATAGRAM, MAX_DATAGRAM)
        });
        let build = |records: &[AnswerRecord], truncated: bool| {
            let target = StaticCompressor::new(StreamTarget::new_vec());
            let builder = MessageBuilder::from_target(target).ok()?;
            let mut builder = builder.start_answer(query, code).ok()?;
            builder.header_mut().set_ra(true);
            builder.header_mut().set_tc(truncated);
            for record in records {
                builder.push(record).ok()?;
            }
            let mut builder = builder.additional();
            if option.is_some() {
                builder
                    .opt(|opt| {
                        opt.set_udp_payload_size(MAX_DATAGRAM);
                        Ok(())
                    })
                    .ok()?;
            }
            Some(builder.finish().as_target().as_stream_slice().to_vec())
        };
        Some(Self {
            message: build(&records, false)?,
            truncated: build(&[], true)?,
            max_datagram: max_datagram.into(),
        })
    }

    /// The reply with its length before it.
    pub(super) fn for_stream(self) -> Vec<u8> {
        self.message
    }

    /// The reply alone; without records when they do not fit into a datagram, so that the client asks
    /// again over TCP.
    pub(super) fn for_datagram(self) -> Vec<u8> {
        const LENGTH: usize = 2;
        let mut message = if self.message.len() - LENGTH > self.max_datagram {
            self.truncated
        } else {
            self.message
        };
        message.drain(..LENGTH);
        message
    }
}

#[cfg(test)]
mod tests {
    use domain::base::{Name, Rtype, Ttl};
    use domain::rdata::{A, Aaaa, Cname};
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: Rtype) -> Message<Bytes> {
        let mut builder = MessageBuilder::new_bytes().question();
        let name: Name<Vec<u8>> = name.parse().unwrap();
        builder.push((name, kind)).unwrap();
        Message::from_octets(builder.finish().freeze()).unwrap()
    }

    /// An alias, an address of each kind for the name behind it, and one beside the answer.
    fn answer() -> Answer {
        let asked = query("a.example", Rtype::A);
        let builder = MessageBuilder::new_bytes();
        let mut builder = builder.start_answer(&asked, Rcode::NOERROR).unwrap();
        let name = |text: &str| text.parse::<Name<Vec<u8>>>().unwrap();
        let (first, behind) = (name("a.example"), name("b.example"));
        let ttl = Ttl::from_secs(1);
        builder.push((&first, ttl, Cname::new(&behind))).unwrap();
        builder
            .push((&behind, ttl, A::from_octets(1, 1, 1, 1)))
            .unwrap();
        builder
            .push((&behind, ttl, A::from_octets(10, 0, 0, 1)))
            .unwrap();
        builder
            .push((&behind, ttl, Aaaa::new("fd00::1".parse().unwrap())))
            .unwrap();
        let mut builder = builder.additional();
        builder
            .push((&behind, ttl, A::from_octets(10, 0, 0, 2)))
            .unwrap();
        Message::from_octets(builder.finish().freeze()).unwrap()
    }

    fn sent(found: FilteredAnswer) -> Vec<String> {
        let asked = query("a.example", Rtype::A);
        let reply = Reply::new(&asked, Verdict::Records(found)).unwrap();
        let message = Message::from_octets(reply.for_datagram()).unwrap();
        assert_eq!(message.header_counts().arcount(), 0);
        let records = message.answer().unwrap();
        records
            .map(|record| {
                let record = record.unwrap();
                let record = record.to_any_record::<AllRecordData<_, _>>().unwrap();
                record.data().to_string()
            })
            .collect()
    }

    #[test]
    fn only_what_is_permitted_is_handed_on() {
        let public = |address: IpAddr| address == IpAddr::from([1, 1, 1, 1]);
        let some = filter(&answer(), public).unwrap();
        assert!(!some.only_refused);
        assert_eq!(sent(some), ["b.example.", "1.1.1.1"]);
        let none = filter(&answer(), |_| false).unwrap();
        assert!(none.only_refused);
        assert_eq!(sent(none), ["b.example."]);
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_stumble(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            places in prop::collection::vec((0..200_usize, any::<u8>()), 0..4),
        ) {
            let mut nearly = answer().as_slice().to_vec();
            for (place, value) in places {
                let place = place % nearly.len();
                nearly[place] = value;
            }
            for bytes in [bytes, nearly] {
                let Ok(message) = Message::from_octets(Bytes::from(bytes)) else {
                    continue;
                };
                let found = filter(&message, |_| false);
                for record in found.iter().flat_map(|found| &found.records) {
                    prop_assert!(!matches!(
                        record.data(),
                        AllRecordData::A(_) | AllRecordData::Aaaa(_)
                    ));
                }
                if let Some(found) = found {
                    Reply::new(&message, Verdict::Records(found));
                }
                Reply::new(&message, Verdict::Empty);
            }
        }
    }
}
