//! An engine that does not see the server's files: reached over a port, without and with TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use stacyvm_docker::{DockerProvider, DockerSettings, EngineAddress, TlsFiles};
use stacyvm_provider::conformance::{Sandbox, spec};
use stacyvm_provider::prelude::*;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::support::{Surroundings, World};

/// A port of this machine that leads to the tests' engine, behind `acceptor` where there is one.
async fn port_to(engine: &str, acceptor: Option<TlsAcceptor>) -> SocketAddr {
    let path = PathBuf::from(engine.strip_prefix("unix://").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let (path, acceptor) = (path.clone(), acceptor.clone());
            tokio::spawn(async move {
                let mut engine = UnixStream::connect(path).await.unwrap();
                let Some(acceptor) = acceptor else {
                    let _ = copy_bidirectional(&mut peer, &mut engine).await;
                    return;
                };
                // A client without a certificate is refused.
                if let Ok(mut peer) = acceptor.accept(peer).await {
                    let _ = copy_bidirectional(&mut peer, &mut engine).await;
                }
            });
        }
    });
    address
}

async fn over_a_port(change: impl FnOnce(&mut DockerSettings)) -> Option<World> {
    let surroundings = Surroundings::find()?;
    let port = port_to(&surroundings.engine, None).await;
    let address = EngineAddress::parse(&format!("tcp://{port}"), None).unwrap();
    let world = World::with(surroundings, |settings| {
        settings.address = address;
        change(settings);
    });
    Some(world.await)
}

#[tokio::test]
async fn the_agent_comes_in_a_volume_and_answers_over_the_attachment() {
    let world = over_a_port(|settings| settings.attach_only = true);
    let Some(world) = world.await else {
        return;
    };
    let spec = spec(&**world.provider());
    let ops = world.provider().create(&spec).await.unwrap();
    let sandbox = Sandbox { id: spec.id, ops };
    assert_eq!(sandbox.say("echo far away").await.unwrap(), "far away");
    let name = world.container(&sandbox.id);
    let mounts = [
        "inspect",
        "--format",
        "{{range .Mounts}}{{.Type}} {{.Name}} {{.RW}};{{end}}",
        &name,
    ];
    let mounts = world.surroundings.docker(&mounts);
    assert!(mounts.starts_with("volume stacyvm-agent-"), "{mounts}");
    assert!(mounts.ends_with(" false;"), "{mounts}");
    world.provider().destroy(&sandbox.id).await.unwrap();
    assert_eq!(world.remains(), Vec::<String>::new());
}

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn issue(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// The engine's side, which asks for a client's certificate.
    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut trusted = rustls::RootCertStore::empty();
        trusted.add(self.certificate.der().clone()).unwrap();
        let (trusted, ring) = (Arc::new(trusted), provider.clone());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(trusted, ring);
        let (certificate, key) = self.issue();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![CertificateDer::from(certificate)], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// The files of a client.
    fn files(&self, directory: &Path) -> TlsFiles {
        let (certificate, key) = self.issue();
        let write = |name: &str, label: &str, der: &[u8]| {
            let path = directory.join(name);
            let text = BASE64_STANDARD.encode(der);
            let text = format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n");
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            ca: write("ca.pem", "CERTIFICATE", self.certificate.der()),
            cert: write("cert.pem", "CERTIFICATE", certificate.der()),
            key: write("key.pem", "PRIVATE KEY", &key.serialize_der()),
        }
    }
}

#[tokio::test]
async fn a_port_with_tls_lets_in_whom_its_authority_knows() {
    let Some(surroundings) = Surroundings::find() else {
        return;
    };
    let authority = Authority::new();
    let port = port_to(&surroundings.engine, Some(authority.acceptor())).await;
    let address = format!("https://localhost:{}", port.port());
    let directory = tempfile::tempdir().unwrap();
    let files = authority.files(directory.path());
    let provider = |files: TlsFiles| {
        let address = EngineAddress::parse(&address, Some(files)).unwrap();
        let settings = DockerSettings::new(address, "test-tls", &surroundings.agent);
        DockerProvider::new(settings).unwrap()
    };
    assert_eq!(provider(files.clone()).list().await.unwrap(), []);

    let strangers = tempfile::tempdir().unwrap();
    let theirs = Authority::new().files(strangers.path());
    // A client's certificate of another authority, an engine's of another one, and no key at all.
    for wrong in [
        TlsFiles {
            ca: files.ca.clone(),
            ..theirs.clone()
        },
        TlsFiles {
            ca: theirs.ca,
            ..files.clone()
        },
        TlsFiles {
            key: directory.path().join("missing.pem"),
            ..files
        },
    ] {
        let refused = provider(wrong.clone()).list().await;
        assert!(refused.is_err(), "{wrong:?}");
    }
}
