#![allow(clippy::unwrap_used)]

use std::os::unix::fs::MetadataExt;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use super::*;

/// A server that says `hello` on each connection, for as long as the test runs.
async fn serve(tls: Tls) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = tls.accept(stream).await {
                if matches!(stream, Either::Left(_)) {
                    // What is not read when a connection ends cuts off what was sent.
                    stream.read_exact(&mut [0]).await.unwrap();
                }
                stream.write_all(b"hello").await.unwrap();
                let _ = stream.shutdown().await;
            }
        }
    });
    address
}

/// What a client that trusts `root` agrees on with the server under this name.
async fn connect(
    address: std::net::SocketAddr,
    root: &str,
    name: &str,
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> io::Result<(Option<Vec<u8>>, Option<ProtocolVersion>)> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(root.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|one| one.to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await?;
    assert_eq!(said, b"hello");
    let (_, session) = stream.get_ref();
    let alpn = session.alpn_protocol().map(<[u8]>::to_vec);
    Ok((alpn, session.protocol_version()))
}

const BOTH: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test]
async fn files_serve_a_wildcard_to_both_protocols() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert"), directory.path().join("key"));
    let pair = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["*.box.example.org".to_owned()]).unwrap();
    let root = params.self_signed(&pair).unwrap().pem();
    std::fs::write(&cert, &root).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let tls = Tls::new(Source::Files { cert, key }).unwrap();
    let address = serve(tls).await;
    let name = "3000-sb-0123abcd.box.example.org";
    for (alpn, versions, agreed, version) in [
        (
            &[&b"h2"[..], b"http/1.1"][..],
            BOTH,
            Some(&b"h2"[..]),
            ProtocolVersion::TLSv1_3,
        ),
        (
            &[b"http/1.1"],
            BOTH,
            Some(b"http/1.1"),
            ProtocolVersion::TLSv1_3,
        ),
        (
            &[],
            &[&rustls::version::TLS12],
            None,
            ProtocolVersion::TLSv1_2,
        ),
    ] {
        let got = connect(address, &root, name, alpn, versions).await.unwrap();
        assert_eq!(got, (agreed.map(<[u8]>::to_vec), Some(version)));
    }
    let other = connect(address, &root, "a.b.box.example.org", &[], BOTH).await;
    assert!(other.is_err());
    // A protocol that we do not speak is refused, not ignored.
    let other = connect(address, &root, name, &[b"spdy/3"], BOTH).await;
    assert!(other.is_err());
}

#[tokio::test]
async fn one_port_serves_the_clear_too() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_make(directory.path(), "localhost").unwrap();
    let address = serve(Tls::new(Source::Authority(Box::new(authority))).unwrap()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"G").await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"hello");
}

#[test]
fn files_that_do_not_work_stop_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = (directory.path().join("cert"), directory.path().join("key"));
    let error = Tls::new(Source::Files { cert, key }).unwrap_err();
    assert!(matches!(error, TlsError::Certificate { .. }), "{error}");
}

#[tokio::test]
async fn the_authority_vouches_for_each_name_below_its_domain() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Authority::open_or_make(directory.path(), "Localhost:7423").unwrap();
    let first = open();
    let root = first.certificate().to_owned();
    assert_eq!(first.domain(), "localhost");
    // It is the same one after a restart.
    let second = open();
    assert_eq!(second.certificate(), root);
    let key = second.path().with_extension("key");
    assert_eq!(std::fs::metadata(key).unwrap().mode() & 0o777, 0o600);
    let address = serve(Tls::new(Source::Authority(Box::new(second))).unwrap()).await;
    for name in [
        "localhost",
        "3000-sb-0123abcd.localhost",
        "3001-sb-0123abcd.localhost",
        "3000-sb-0123abcd.localhost",
    ] {
        let got = connect(address, &root, name, &[b"h2"], BOTH).await.unwrap();
        assert_eq!(got.0.as_deref(), Some(&b"h2"[..]), "{name}");
    }
    for name in ["example.org", "evillocalhost", "127.0.0.1"] {
        assert!(
            connect(address, &root, name, &[], BOTH).await.is_err(),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_authority_can_vouch_for_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_make(directory.path(), "box.example.org").unwrap();
    let root = authority.certificate().to_owned();
    let leaves = authority.issuer().unwrap();
    for (name, trusted) in [
        ("3000-sb-0123abcd.box.example.org", true),
        ("www.example.org", false),
        ("box.example.org.evil.example", false),
        ("127.0.0.1", false),
    ] {
        // As a thief of its key would.
        let stolen = leaves.issue(name).unwrap();
        let current = Arc::new(CurrentCertificate::new(Some((*stolen).clone())));
        let mut config = ServerConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(BOTH)
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(current);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = Tls {
            config: Arc::new(config),
            renewal: Renewal::Authority,
        };
        let got = connect(serve(tls).await, &root, name, &[], BOTH).await;
        assert_eq!(got.is_ok(), trusted, "{name}: {got:?}");
    }
}

#[test]
fn an_authority_is_for_a_host_name() {
    let directory = tempfile::tempdir().unwrap();
    for domain in [
        "",
        "..",
        "../x",
        "a/b",
        "a b",
        "127.0.0.1",
        "-a",
        "x.-",
        "a..b",
    ] {
        let made = Authority::open_or_make(directory.path(), domain);
        assert!(matches!(made, Err(AuthorityError::Domain(_))), "{domain}");
    }
    let missing = Authority::open(directory.path(), "localhost").unwrap_err();
    assert!(
        matches!(missing, AuthorityError::Missing { .. }),
        "{missing}"
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}
