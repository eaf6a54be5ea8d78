//! An engine that does not see our files: reached over a port, in the clear and over TLS.

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

/// A port of this machine that leads to the tests' engine, for those whom `door` lets in.
async fn port_to(engine: &str, door: Option<TlsAcceptor>) -> SocketAddr {
    let path = PathBuf::from(engine.strip_prefix("unix://").unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let (path, door) = (path.clone(), door.clone());
            tokio::spawn(async move {
                let mut engine = UnixStream::connect(path).await.unwrap();
                let Some(door) = door else {
                    let _ = copy_bidirectional(&mut peer, &mut engine).await;
                    return;
                };
                // Who has no certificate is left outside.
                if let Ok(mut peer) = door.accept(peer).await {
                    let _ = copy_bidirectional(&mut peer, &mut engine).await;
                }
            });
        }
    });
    address
}

async fn over_a_port(test: &str, change: impl FnOnce(&mut DockerSettings)) -> Option<World> {
    let surroundings = Surroundings::find(test)?;
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
    let world = over_a_port("the_agent_comes_in_a_volume", |settings| {
        settings.attach_only = true
    });
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

/// An authority, and certificates that it gives away.
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

    fn give(&self) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// What an engine's port asks for.
    fn door(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut trusted = rustls::RootCertStore::empty();
        trusted.add(self.certificate.der().clone()).unwrap();
        let (trusted, ring) = (Arc::new(trusted), provider.clone());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(trusted, ring);
        let (certificate, key) = self.give();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![CertificateDer::from(certificate)], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// What a client of that port has.
    fn files(&self, place: &Path) -> TlsFiles {
        let (certificate, key) = self.give();
        let write = |name: &str, label: &str, der: &[u8]| {
            let path = place.join(name);
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
    let Some(surroundings) = Surroundings::find("a_port_with_tls") else {
        return;
    };
    let authority = Authority::new();
    let port = port_to(&surroundings.engine, Some(authority.door())).await;
    let address = format!("https://localhost:{}", port.port());
    let place = tempfile::tempdir().unwrap();
    let files = authority.files(place.path());
    let provider = |files: TlsFiles| {
        let address = EngineAddress::parse(&address, Some(files)).unwrap();
        let settings = DockerSettings::new(address, "test-tls", &surroundings.agent);
        DockerProvider::new(settings).unwrap()
    };
    assert_eq!(provider(files.clone()).list().await.unwrap(), []);

    let strangers = tempfile::tempdir().unwrap();
    let theirs = Authority::new().files(strangers.path());
    // A certificate of somebody else's, and an engine that somebody else vouches for.
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
            key: place.path().join("missing.pem"),
            ..files
        },
    ] {
        let refused = provider(wrong.clone()).list().await;
        assert!(refused.is_err(), "{wrong:?}");
    }
}
