//! Servers in the internet: a name server, web servers, a TLS server. They run on threads and are
//! simple, so that their answers can be trusted.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype, Ttl};
use domain::rdata::{A, Aaaa, Txt};

use stacyvm_testing::NetworkNamespace;

/// A name server that knows a few names, and records its questions.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameServer {
    names: Arc<Mutex<HashMap<String, Vec<IpAddr>>>>,
    asked: Arc<Mutex<Vec<(String, Rtype)>>>,
}

impl NameServer {
    /// Serves at port 53 of an address in a namespace, UDP and TCP.
    pub(crate) fn start(
        place: &NetworkNamespace,
        address: &str,
        names: &[(&str, &[&str])],
    ) -> Self {
        let server = Self::default();
        for (name, addresses) in names {
            server.knows(name, addresses);
        }
        let address = SocketAddr::new(address.parse().unwrap(), 53);
        let (udp, tcp) = place.inside(|| {
            (
                UdpSocket::bind(address).unwrap(),
                TcpListener::bind(address).unwrap(),
            )
        });
        let own = server.clone();
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                if let Some(answer) = own.answer(&buffer[..length], Some(1232)) {
                    let _ = udp.send_to(&answer, peer);
                }
            }
        });
        let own = server.clone();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let (Ok(mut stream), own) = (stream, own.clone()) else {
                    return;
                };
                thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut question = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut question).unwrap();
                        let answer = own.answer(&question, None).unwrap();
                        let length = u16::try_from(answer.len()).unwrap();
                        stream.write_all(&length.to_be_bytes()).unwrap();
                        stream.write_all(&answer).unwrap();
                    }
                });
            }
        });
        server
    }

    /// From now on this name has these addresses.
    pub(crate) fn knows(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.names
            .lock()
            .unwrap()
            .insert(name.to_owned(), addresses);
    }

    /// Every question so far.
    pub(crate) fn asked(&self) -> Vec<(String, Rtype)> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, question: &[u8], max_length: Option<usize>) -> Option<Vec<u8>> {
        let query = Message::from_octets(question).ok()?;
        let asked = query.sole_question().ok()?;
        let name = asked.qname().to_string().to_ascii_lowercase();
        self.asked
            .lock()
            .unwrap()
            .push((name.clone(), asked.qtype()));
        let known = self.names.lock().unwrap().get(&name).cloned();
        let code = match known {
            Some(_) => Rcode::NOERROR,
            None if name == "broken.example" => Rcode::SERVFAIL,
            None => Rcode::NXDOMAIN,
        };
        let mut builder = MessageBuilder::new_vec()
            .start_answer(&query, code)
            .unwrap();
        let owner: Name<Vec<u8>> = name.parse().unwrap();
        let ttl = Ttl::from_secs(60);
        for address in known.iter().flatten() {
            match (address, asked.qtype()) {
                (IpAddr::V4(address), Rtype::A) => {
                    builder.push((&owner, ttl, A::new(*address))).unwrap();
                }
                (IpAddr::V6(address), Rtype::AAAA) => {
                    builder.push((&owner, ttl, Aaaa::new(*address))).unwrap();
                }
                _ => {}
            }
        }
        if known.is_some() && asked.qtype() == Rtype::TXT {
            let text = Txt::<Vec<u8>>::build_from_slice(b"some text").unwrap();
            builder.push((&owner, ttl, text)).unwrap();
        }
        let answer = builder.into_message();
        if max_length.is_some_and(|max| answer.as_slice().len() > max) {
            let builder = MessageBuilder::new_vec();
            let mut builder = builder.start_answer(&query, code).unwrap();
            builder.header_mut().set_tc(true);
            return Some(builder.finish());
        }
        Some(answer.into_octets())
    }
}

/// A web server that answers every request with its own name and the request's line and host, and
/// keeps connections open.
pub(crate) fn web(place: &NetworkNamespace, address: &str, port: u16, name: &'static str) {
    let listener = listen(place, address, port);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || while web_request(&mut stream, name).is_some() {});
        }
    });
}

/// One request; none when the connection is to end.
fn web_request(stream: &mut TcpStream, name: &str) -> Option<()> {
    let head = read_head(stream)?;
    let mut lines = head.lines();
    let first = lines.next()?.to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    if headers.contains_key("upgrade") {
        let switch =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch.as_bytes()).ok()?;
        let mut buffer = [0; 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(length) => stream.write_all(&buffer[..length]).ok()?,
            }
        }
    }
    let mut body = Vec::new();
    if let Some(length) = headers.get("content-length") {
        body = vec![0; length.parse().ok()?];
        stream.read_exact(&mut body).ok()?;
    } else if headers.contains_key("transfer-encoding") {
        let mut byte = [0];
        while !body.ends_with(b"0\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            body.extend(byte);
        }
    }
    let host = headers.get("host").map_or("-", String::as_str);
    let text = format!("{name}|{first}|{host}|{}\n", body.len());
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).ok()
}

/// Reads up to the empty line.
pub(crate) fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    String::from_utf8(head).ok()
}

/// A TLS server that sends its own name and the one it was called by, then sends back what it
/// receives.
pub(crate) fn tls(place: &NetworkNamespace, address: &str, port: u16, name: &'static str) {
    let listener = listen(place, address, port);
    let key = rcgen::generate_simple_self_signed(vec!["test.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into(),
        )
        .unwrap();
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), config) = (stream, config.clone()) else {
                return;
            };
            thread::spawn(move || {
                let session = rustls::ServerConnection::new(config).unwrap();
                let mut stream = rustls::StreamOwned::new(session, stream);
                let mut buffer = [0; 16 * 1024];
                let Ok(mut length) = stream.read(&mut buffer) else {
                    return;
                };
                let called = stream.conn.server_name().unwrap_or("-").to_owned();
                let _ = stream.write_all(format!("{name}|{called}\n").as_bytes());
                while length > 0 && stream.write_all(&buffer[..length]).is_ok() {
                    length = stream.read(&mut buffer).unwrap_or(0);
                }
            });
        }
    });
}

/// Listens in a namespace.
pub(crate) fn listen(place: &NetworkNamespace, address: &str, port: u16) -> TcpListener {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    place.inside(|| TcpListener::bind(address).unwrap())
}
