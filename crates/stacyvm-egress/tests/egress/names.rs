//! Name resolution.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::AllRecordData;
use stacyvm_egress::{Limits, Policy, Reason};

use crate::servers::NameServer;
use crate::world::{
    DEADLINE, GATEWAY, PRIVATE, SANDBOX, SANDBOX_V6, SITE, SITE_V6, STRANGER, World,
    generous_limits, settings,
};

type Answer = (Rcode, Vec<String>);

fn question(name: &str, kind: Rtype, room: Option<u16>) -> Vec<u8> {
    let name: Name<Vec<u8>> = name.parse().unwrap();
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(4711);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name, kind)).unwrap();
    let mut builder = builder.additional();
    if let Some(room) = room {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(room);
                Ok(())
            })
            .unwrap();
    }
    builder.finish()
}

fn read(bytes: &[u8]) -> (Answer, bool) {
    let message = Message::from_octets(bytes).unwrap();
    assert_eq!(message.header().id(), 4711);
    assert!(message.header().qr() && message.header().ra());
    let records = message
        .answer()
        .unwrap()
        .map(|record| {
            let record = record.unwrap();
            let record = record.to_any_record::<AllRecordData<_, _>>().unwrap();
            record.data().to_string()
        })
        .collect();
    let header = message.header();
    ((header.rcode(), records), header.tc())
}

fn socket(world: &World, from: &str, to: &str) -> UdpSocket {
    let from = SocketAddr::new(from.parse().unwrap(), 0);
    let to = SocketAddr::new(to.parse().unwrap(), 53);
    let socket = world.sandbox.inside(|| UdpSocket::bind(from).unwrap());
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn ask_with(world: &World, name: &str, kind: Rtype, room: Option<u16>) -> (Answer, bool) {
    let socket = socket(world, SANDBOX, GATEWAY);
    socket.send(&question(name, kind, room)).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    read(&buffer[..length])
}

fn ask(world: &World, name: &str, kind: Rtype) -> Answer {
    let (answer, cut) = ask_with(world, name, kind, None);
    assert!(!cut);
    answer
}

/// Asks over TCP; none when the connection ends instead.
fn ask_over(stream: &mut TcpStream, name: &str) -> Option<(Answer, bool)> {
    let message = question(name, Rtype::A, None);
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &message].concat()).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).ok()?;
    Some(read(&answer))
}

fn found(addresses: &[&str]) -> Answer {
    let addresses = addresses.iter().map(|text| (*text).to_owned()).collect();
    (Rcode::NOERROR, addresses)
}

fn refused() -> Answer {
    (Rcode::REFUSED, Vec::new())
}

fn name_server(world: &World) -> NameServer {
    NameServer::start(
        &world.host,
        "127.0.0.53",
        &[
            ("site.example", &[SITE, SITE_V6]),
            ("a.site.example", &[SITE]),
            ("twice.example", &["10.1.2.3", SITE, "127.0.0.1"]),
            ("private.example", &[PRIVATE]),
            ("loopback.example", &["127.0.0.1", "::1"]),
            ("metadata.example", &["169.254.169.254", "fd00:ec2::254"]),
        ],
    )
}

#[test]
fn everything_public_is_resolved_for_the_open() {
    let Some(world) = World::new() else {
        return;
    };
    let names = name_server(&world);
    world.set(&Policy::Open);
    assert_eq!(ask(&world, "Site.Example", Rtype::A), found(&[SITE]));
    assert_eq!(ask(&world, "site.example", Rtype::AAAA), found(&[SITE_V6]));
    assert_eq!(
        ask(&world, "site.example", Rtype::TXT),
        found(&["\"some text\""])
    );
    assert_eq!(ask(&world, "site.example", Rtype::HTTPS), found(&[]));
    assert_eq!(
        ask(&world, "missing.example", Rtype::A),
        (Rcode::NXDOMAIN, Vec::new())
    );
    assert_eq!(
        ask(&world, "site.example", Rtype::ANY),
        (Rcode::NOTIMP, Vec::new())
    );
    assert!(names.asked().iter().all(|(_, kind)| *kind != Rtype::HTTPS));
    // Over IPv6 too.
    let socket = socket(&world, SANDBOX_V6, "fd88::1");
    socket
        .send(&question("site.example", Rtype::A, None))
        .unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(read(&buffer[..length]).0, found(&[SITE]));
}

#[test]
fn a_name_does_not_lead_inside() {
    let Some(mut world) = World::without_program() else {
        return;
    };
    let mut settings = settings(generous_limits());
    settings.allow_cidrs = vec!["10.1.0.0/16".parse().unwrap()];
    world.start(&settings);
    name_server(&world);
    world.set(&Policy::Open);
    for (name, kind) in [
        ("private.example", Rtype::A),
        ("loopback.example", Rtype::A),
        ("loopback.example", Rtype::AAAA),
        ("metadata.example", Rtype::A),
        ("metadata.example", Rtype::AAAA),
    ] {
        assert_eq!(ask(&world, name, kind), refused(), "{name} {kind}");
        let counted = (name.to_owned(), None, Reason::Address);
        assert_eq!(world.notice(), counted);
    }
    // An address that the operator opened, one that is public, and one that is neither.
    assert_eq!(
        ask(&world, "twice.example", Rtype::A),
        found(&["10.1.2.3", SITE])
    );
}

#[test]
fn only_listed_names_are_resolved_and_nothing_is_carried_out() {
    let Some(world) = World::new() else {
        return;
    };
    let names = name_server(&world);
    world.allow(&["*.site.example"]);
    assert_eq!(ask(&world, "a.site.example", Rtype::A), found(&[SITE]));
    assert_eq!(ask(&world, "a.site.example", Rtype::TXT), found(&[]));
    for name in [
        "site.example",
        "asite.example",
        "a.site.example.evil.example",
        "secret.evil.example",
        "with\\.dot.site.example",
    ] {
        assert_eq!(ask(&world, name, Rtype::A), refused(), "{name}");
        let (target, port, reason) = world.notice();
        assert_eq!((port, reason), (None, Reason::NotAllowed), "{target}");
    }
    // None of the names was asked upstream.
    assert!(
        names
            .asked()
            .iter()
            .all(|(name, _)| name == "a.site.example")
    );
    world.allow(&["site.example"]);
    assert_eq!(ask(&world, "a.site.example", Rtype::A), refused());
    assert_eq!(ask(&world, "site.example", Rtype::A), found(&[SITE]));
}

#[test]
fn who_is_not_set_hears_nothing() {
    let Some(world) = World::new() else {
        return;
    };
    let names = name_server(&world);
    world.set(&Policy::Open);
    let stranger = socket(&world, STRANGER, GATEWAY);
    stranger
        .send(&question("a.site.example", Rtype::A, None))
        .unwrap();
    // This question came long after the stranger's and is answered, so the stranger's was dropped.
    for _ in 0..3 {
        assert_eq!(ask(&world, "site.example", Rtype::A), found(&[SITE]));
    }
    stranger.set_nonblocking(true).unwrap();
    assert!(stranger.recv(&mut [0; 64]).is_err());
    assert!(names.asked().iter().all(|(name, _)| name == "site.example"));
    // A sandbox that is forgotten between its connection and its question.
    let mut stream = world.connect(GATEWAY, 53);
    assert_eq!(
        ask_over(&mut stream, "site.example").unwrap().0,
        found(&[SITE])
    );
    let remove = [SANDBOX.parse().unwrap()];
    let removed = world.runtime.block_on(world.egress().remove(&remove));
    removed.unwrap();
    let answer = ask_over(&mut stream, "site.example");
    assert!(answer.is_none_or(|(answer, _)| answer == refused()));
}

#[test]
fn long_answers_come_over_tcp() {
    let Some(world) = World::new() else {
        return;
    };
    let names = name_server(&world);
    let many: Vec<String> = (1..=120).map(|last| format!("20.0.1.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    names.knows("many.example", &many);
    names.knows("some.example", &many[..40]);
    world.set(&Policy::Open);
    let (answer, cut) = ask_with(&world, "some.example", Rtype::A, None);
    assert!(cut && answer.1.is_empty(), "more than 512 bytes");
    let (answer, cut) = ask_with(&world, "some.example", Rtype::A, Some(4096));
    assert!(!cut && answer.1.len() == 40);
    let (_, cut) = ask_with(&world, "many.example", Rtype::A, Some(4096));
    assert!(cut, "more than any network takes in one piece");
    let mut stream = world.connect(GATEWAY, 53);
    for name in ["many.example", "site.example"] {
        let ((code, records), cut) = ask_over(&mut stream, name).unwrap();
        assert!(!cut && code == Rcode::NOERROR);
        assert_eq!(records.len(), if name == "many.example" { 120 } else { 1 });
    }
}

#[test]
fn the_next_name_server_is_asked_when_one_is_silent() {
    let Some(mut world) = World::without_program() else {
        return;
    };
    let mut settings = settings(Limits {
        upstream_ms: 3000,
        ..Limits::default()
    });
    settings.upstreams = ["127.0.0.55:53", "127.0.0.54:53", "127.0.0.53:53"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    // The first upstream does not exist, and the second does not answer.
    let silent = world
        .host
        .inside(|| UdpSocket::bind("127.0.0.54:53").unwrap());
    settings.ipv6 = false;
    world.start(&settings);
    let names = name_server(&world);
    world.set(&Policy::Open);
    assert_eq!(ask(&world, "site.example", Rtype::A), found(&[SITE]));
    assert_eq!(
        ask(&world, "broken.example", Rtype::A),
        (Rcode::SERVFAIL, Vec::new())
    );
    assert_eq!(ask(&world, "site.example", Rtype::AAAA), found(&[]));
    assert!(names.asked().iter().all(|(_, kind)| *kind == Rtype::A));
    drop(silent);
}

#[test]
fn who_asks_too_fast_is_refused_and_told_of_in_a_count() {
    let limits = Limits {
        queries_per_second: 1,
        ..generous_limits()
    };
    let Some(world) = World::with(limits) else {
        return;
    };
    name_server(&world);
    world.set(&Policy::Open);
    let answers: Vec<Answer> = (0..200)
        .map(|_| ask(&world, "site.example", Rtype::A))
        .collect();
    let (good, bad): (Vec<&Answer>, Vec<&Answer>) = answers
        .iter()
        .partition(|answer| **answer == found(&[SITE]));
    assert!(
        good.len() >= 2 && !bad.is_empty(),
        "{} {}",
        good.len(),
        bad.len()
    );
    assert!(bad.iter().all(|answer| **answer == refused()));
    let mut counted = 0;
    while counted < bad.len() as u64 {
        counted += match world.any_notice() {
            stacyvm_egress::Notice::Refused { reason, .. } => {
                assert_eq!(reason, Reason::Limit);
                1
            }
            stacyvm_egress::Notice::LeftOut { count, .. } => count,
        };
    }
    assert_eq!(counted, bad.len() as u64);
}

#[test]
fn long_names_are_not_repeated_in_an_answer() {
    let Some(world) = World::new() else {
        return;
    };
    let names = name_server(&world);
    let name = format!("{}.{}.example", "a".repeat(60), "b".repeat(60));
    let many: Vec<String> = (1..=8).map(|last| format!("20.0.1.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    names.knows(&name, &many);
    world.set(&Policy::Open);
    // Eight copies of the name would be more than a client without options accepts.
    assert_eq!(ask(&world, &name, Rtype::A), found(&many));
}
