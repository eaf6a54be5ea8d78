//! TLS through the proxy, by the name in its first message.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, StreamOwned,
};
use stacyvm_egress::{Policy, Reason};

use crate::servers::{self, NameServer};
use crate::world::{
    ASTRAY, HOST_OUTSIDE, OTHER_SITE, PRIVATE, SITE, SITE_V6, World, ends, generous_limits,
    is_late, settings,
};

type Session = StreamOwned<ClientConnection, TcpStream>;

/// Accepts every certificate: the servers are told apart by what they send.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn client(name: &str) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    // With an address it names no host.
    let name = ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// Speaks TLS to an address under a name. Returns the first line that the server sends.
fn talk(world: &World, address: &str, name: &str) -> std::io::Result<(Session, String)> {
    let stream = world.try_connect(address, 443)?;
    let mut session = StreamOwned::new(client(name), stream);
    session.write_all(b"hello")?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        session.read_exact(&mut byte)?;
        line.extend(byte);
    }
    Ok((session, String::from_utf8(line).unwrap()))
}

fn line(world: &World, address: &str, name: &str) -> String {
    talk(world, address, name).unwrap().1
}

/// The alert that a refused client gets.
fn alert(world: &World, address: &str, name: &str) -> AlertDescription {
    let talked = talk(world, address, name).map(|(_, line)| line);
    let error = talked.expect_err("it is refused");
    let cause = error.get_ref().expect("TLS says why");
    match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("{other:?}"),
    }
}

/// Whether the proxy closes a connection without an answer.
fn is_dropped(world: &World) -> bool {
    let talked = talk(world, SITE, "site.example");
    talked.is_err_and(|error| !is_late(&error))
}

/// Name server and two TLS servers.
fn internet(world: &World) -> NameServer {
    servers::tls(&world.internet, SITE, 443, "site");
    servers::tls(&world.internet, OTHER_SITE, 443, "other");
    servers::tls(&world.internet, SITE_V6, 443, "six");
    servers::tls(&world.internet, PRIVATE, 443, "private");
    NameServer::start(
        &world.host,
        "127.0.0.53",
        &[
            ("site.example", &[SITE]),
            ("a.b.site.example", &[SITE]),
            ("other.example", &[OTHER_SITE]),
            ("six.example", &[SITE_V6]),
            ("private.example", &[PRIVATE]),
            ("loopback.example", &["127.0.0.1", "::1"]),
            ("metadata.example", &["169.254.169.254"]),
            ("unique.example", &["fd00::8", "::ffff:127.0.0.1"]),
            ("host.example", &[HOST_OUTSIDE]),
            ("partly.example", &["127.0.0.1", SITE]),
            ("closed.example", &["20.0.0.1", "20.0.0.12"]),
        ],
    )
}

#[test]
fn a_connection_goes_where_its_name_leads() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&[
        "site.example",
        "*.site.example",
        "six.example",
        "partly.example",
    ]);
    assert_eq!(line(&world, SITE, "site.example"), "site|site.example\n");
    assert_eq!(line(&world, SITE, "SITE.example"), "site|site.example\n");
    assert_eq!(
        line(&world, SITE, "a.b.site.example"),
        "site|a.b.site.example\n"
    );
    // The address that the client connects to does not matter, nor does its family.
    assert_eq!(
        line(&world, OTHER_SITE, "site.example"),
        "site|site.example\n"
    );
    assert_eq!(line(&world, ASTRAY, "site.example"), "site|site.example\n");
    assert_eq!(line(&world, SITE_V6, "site.example"), "site|site.example\n");
    assert_eq!(line(&world, SITE, "six.example"), "six|six.example\n");
    // Only the addresses that may be reached are tried.
    assert_eq!(
        line(&world, SITE, "partly.example"),
        "site|partly.example\n"
    );
}

#[test]
fn other_names_are_refused_in_words_that_tls_has() {
    let Some(world) = World::new() else {
        return;
    };
    let names = internet(&world);
    world.allow(&["site.example", "*.b.site.example"]);
    for name in [
        "other.example",
        "b.site.example",
        "notsite.example",
        "site.example.evil.example",
        "x.site.example",
    ] {
        assert_eq!(
            alert(&world, SITE, name),
            AlertDescription::AccessDenied,
            "{name}"
        );
        let told = (name.to_owned(), Some(443), Reason::NotAllowed);
        assert_eq!(world.notice(), told);
    }
    // No name at all, although the address is that of an allowed one.
    assert_eq!(
        alert(&world, SITE, SITE),
        AlertDescription::UnrecognisedName
    );
    assert_eq!(world.notice(), (SITE.to_owned(), Some(443), Reason::NoName));
    assert_eq!(names.asked(), Vec::new(), "nothing of it was asked outside");
    // A name on the list that does not exist.
    world.allow(&["missing.example"]);
    let alert = alert(&world, SITE, "missing.example");
    assert_eq!(alert, AlertDescription::UnrecognisedName);
}

#[test]
fn an_allowed_name_does_not_lead_inside() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    // The host's own services, on loopback and at its address in the internet.
    servers::tls(&world.host, "127.0.0.1", 443, "loopback");
    servers::tls(&world.host, HOST_OUTSIDE, 443, "host");
    world.allow(&["*.example"]);
    for name in [
        "loopback.example",
        "metadata.example",
        "unique.example",
        "private.example",
        "host.example",
    ] {
        assert_eq!(
            alert(&world, SITE, name),
            AlertDescription::AccessDenied,
            "{name}"
        );
        assert_eq!(
            world.notice(),
            (name.to_owned(), Some(443), Reason::Address)
        );
    }
}

#[test]
fn what_the_operator_opened_can_be_reached() {
    let Some(mut world) = World::without_program() else {
        return;
    };
    let mut settings = settings(generous_limits());
    settings.allow_cidrs = vec!["10.99.0.0/24".parse().unwrap()];
    world.start(&settings);
    internet(&world);
    world.allow(&["private.example"]);
    assert_eq!(
        line(&world, SITE, "private.example"),
        "private|private.example\n"
    );
}

#[test]
fn a_name_that_changes_its_mind_is_judged_each_time() {
    let Some(world) = World::new() else {
        return;
    };
    let names = internet(&world);
    world.allow(&["fickle.example"]);
    names.knows("fickle.example", &[SITE]);
    assert_eq!(
        line(&world, SITE, "fickle.example"),
        "site|fickle.example\n"
    );
    names.knows("fickle.example", &["127.0.0.1"]);
    let alert = alert(&world, SITE, "fickle.example");
    assert_eq!(alert, AlertDescription::AccessDenied);
}

#[test]
fn who_has_no_list_has_no_business_here() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    // No sandbox has this address yet.
    assert!(is_dropped(&world));
    world.set(&Policy::Open);
    assert!(is_dropped(&world));
    assert_eq!(
        world.notice(),
        (SITE.to_owned(), Some(443), Reason::NotRedirected)
    );
    // The proxy itself cannot be connected to.
    world.allow(&["site.example"]);
    let direct = world.try_connect(crate::world::GATEWAY, 3128);
    assert!(direct.is_err() || ends(&mut direct.unwrap()));
    let (_, port, reason) = world.notice();
    assert_eq!((port, reason), (Some(3128), Reason::NotRedirected));
}

#[test]
fn a_narrower_policy_ends_what_is_open() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example", "other.example"]);
    let (mut kept, _) = talk(&world, SITE, "site.example").unwrap();
    let (mut ended, _) = talk(&world, SITE, "other.example").unwrap();
    let mut echo = [0; 5];
    for session in [&mut kept, &mut ended] {
        session.read_exact(&mut echo).unwrap();
    }
    // Setting the same policy again, or a wider one, changes nothing.
    world.allow(&["site.example", "other.example"]);
    world.allow(&["*.example"]);
    ended.write_all(b"still").unwrap();
    ended.read_exact(&mut echo).unwrap();
    world.allow(&["site.example"]);
    assert!(ends(&mut ended));
    kept.write_all(b"still").unwrap();
    kept.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"still");
    let remove = [crate::world::SANDBOX.parse().unwrap()];
    let removed = world.runtime.block_on(world.egress().remove(&remove));
    removed.unwrap();
    assert!(ends(&mut kept));
}

#[test]
fn a_hello_in_pieces_is_understood() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let mut hello = Vec::new();
    client("site.example").write_tls(&mut hello).unwrap();
    // Each byte of the message in a record of its own.
    let records: Vec<u8> = hello[5..]
        .iter()
        .flat_map(|byte| [22, 3, 1, 0, 1, *byte])
        .collect();
    let mut stream = world.connect(SITE, 443);
    for piece in records.chunks(7) {
        stream.write_all(piece).unwrap();
    }
    // A server's answer begins with its own handshake, or with an alert about the odd records.
    let mut answer = [0];
    stream.read_exact(&mut answer).unwrap();
    assert!(matches!(answer[0], 21 | 22));
}

#[test]
fn nonsense_is_refused() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let mut stream = world.connect(SITE, 443);
    stream.write_all(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);
    assert_eq!(
        world.notice(),
        (SITE.to_owned(), Some(443), Reason::Malformed)
    );
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.9\r\n"[..],
        b"\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\n",
    ] {
        let mut stream = world.connect(SITE, 443);
        stream.write_all(bytes).unwrap();
        assert!(ends(&mut stream));
        assert_eq!(world.notice(), (SITE.to_owned(), Some(443), Reason::NoName));
    }
}

#[test]
fn both_directions_end_on_their_own() {
    let Some(world) = World::new() else {
        return;
    };
    internet(&world);
    // Reads everything, and answers only once the client has ended its half.
    let listener = servers::listen(&world.internet, "20.0.0.10", 4443);
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream
            .write_all(&u32::try_from(all.len()).unwrap().to_be_bytes())
            .unwrap();
    });
    world.allow(&["site.example"]);
    let mut hello = Vec::new();
    client("site.example").write_tls(&mut hello).unwrap();
    hello.resize(hello.len() + 3_000_000, 7);
    let mut stream = world.connect(SITE, 4443);
    stream.write_all(&hello).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, u32::try_from(hello.len()).unwrap().to_be_bytes());
    server.join().unwrap();
}

#[test]
fn after_a_restart_policies_are_set_again() {
    let Some(mut world) = World::new() else {
        return;
    };
    internet(&world);
    world.allow(&["site.example"]);
    let (mut open, _) = talk(&world, SITE, "site.example").unwrap();
    let former = world.egress.take().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(former.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    world.runtime.block_on(former.ended());
    assert!(ends(&mut open));
    world.start(&settings(generous_limits()));
    assert!(is_dropped(&world));
    world.allow(&["site.example"]);
    assert_eq!(line(&world, SITE, "site.example"), "site|site.example\n");
}
