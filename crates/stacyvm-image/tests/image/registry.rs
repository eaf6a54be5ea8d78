//! A real registry on the loopback, and putting images into it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use stacyvm_image::{Credentials, Digest, PullOptions, Reference, Registries};
use tempfile::TempDir;
use ureq::Agent;
use ureq::http::Request;

use crate::builder::Image;
use crate::fixture::have;

const PROGRAM: &str = "docker-registry";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How a registry is set up.
#[derive(Debug, Default)]
pub(crate) struct Setup<'a> {
    /// A file of `htpasswd`.
    pub(crate) passwords: Option<&'a Path>,
    /// Certificate and key.
    pub(crate) tls: Option<(&'a Path, &'a Path)>,
    /// Name and password for putting images in.
    pub(crate) login: Option<(&'a str, &'a str)>,
    /// The files of another registry.
    pub(crate) data: Option<PathBuf>,
}

/// A registry that ends with this.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: SocketAddr,
    authorization: Option<String>,
    agent: Agent,
    tls: bool,
    place: TempDir,
}

impl Registry {
    /// Starts a registry without logins; none when its program is not installed, which is reported.
    pub(crate) fn start() -> Option<Self> {
        Self::with(&Setup::default())
    }

    pub(crate) fn with(setup: &Setup<'_>) -> Option<Self> {
        if !have(PROGRAM) {
            return None;
        }
        let place = tempfile::tempdir().unwrap();
        let mut http = json!({"addr": "127.0.0.1:0"});
        if let Some((certificate, key)) = setup.tls {
            http["tls"] = json!({"certificate": certificate, "key": key});
        }
        let own = || place.path().join("data");
        let data = setup.data.clone().unwrap_or_else(own);
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": data}},
            "http": http,
        });
        if let Some(passwords) = setup.passwords {
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": passwords}});
        }
        let path = place.path().join("config.yml");
        // JSON is YAML.
        fs::write(&path, config.to_string()).unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (send, receive) = mpsc::channel();
        // Reads on to the end: a full pipe would stop the registry.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let after = line.split("listening on ").nth(1);
                let address = after.and_then(|rest| rest.split(['"', ',', ' ']).next());
                if let Some(address) = address.and_then(|text| text.parse().ok()) {
                    let _ = send.send(address);
                }
            }
        });
        let address = receive
            .recv_timeout(Duration::from_secs(60))
            .expect("the registry says where it listens");
        let authorization = setup.login.map(|(user, password)| {
            use base64::Engine;
            let pair = format!("{user}:{password}");
            format!(
                "Basic {}",
                base64::engine::general_purpose::STANDARD.encode(pair)
            )
        });
        Some(Self {
            child,
            address,
            authorization,
            agent: Agent::config_builder()
                .http_status_as_error(false)
                .proxy(None)
                .build()
                .new_agent(),
            tls: setup.tls.is_some(),
            place,
        })
    }

    /// `HOST:PORT`.
    pub(crate) fn name(&self) -> String {
        self.address.to_string()
    }

    /// A reference to an image of this registry.
    pub(crate) fn reference(&self, image: &str) -> Reference {
        reference(self.address, image)
    }

    /// Puts an image in under `repository:tag`. Answers the digest of its manifest.
    pub(crate) fn put(&self, image: &Image, repository: &str, tag: &str) -> Digest {
        self.put_blobs(image, repository);
        self.put_manifest(repository, tag, MANIFEST, &image.manifest())
    }

    pub(crate) fn put_blobs(&self, image: &Image, repository: &str) {
        let mut blobs: Vec<_> = image
            .layers
            .iter()
            .map(|layer| layer.blob.clone())
            .collect();
        blobs.push(image.config_bytes());
        for blob in blobs {
            let digest = Digest::of(&blob);
            let start = self.send("POST", &format!("{repository}/blobs/uploads/"), "", vec![]);
            let place = start.1.expect("a place for the upload");
            let join = if place.contains('?') { '&' } else { '?' };
            let place = format!(
                "{place}{join}digest={}",
                digest.to_string().replace(':', "%3A")
            );
            let (status, _) = self.send("PUT", &place, "application/octet-stream", blob);
            assert_eq!(status, 201);
        }
    }

    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        kind: &str,
        manifest: &Value,
    ) -> Digest {
        let text = serde_json::to_vec(manifest).unwrap();
        let digest = Digest::of(&text);
        let (status, _) = self.send("PUT", &format!("{repository}/manifests/{tag}"), kind, text);
        assert_eq!(status, 201);
        digest
    }

    fn send(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> (u16, Option<String>) {
        assert!(!self.tls, "a registry with TLS is filled before");
        let address = match path.starts_with("http") {
            true => path.to_owned(),
            false => format!("http://{}/v2/{path}", self.address),
        };
        let mut request = Request::builder().method(method).uri(address);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let answer = self.agent.run(request.body(body).unwrap()).unwrap();
        let place = answer.headers().get("location");
        let place = place.map(|place| place.to_str().unwrap().to_owned());
        (answer.status().as_u16(), place)
    }

    /// Where its files are, for another registry on the same files.
    pub(crate) fn data(&self) -> PathBuf {
        self.place.path().join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reference to an image at an address.
pub(crate) fn reference(address: SocketAddr, image: &str) -> Reference {
    Reference::parse(&format!("{address}/{image}")).unwrap()
}

/// Options that read no configuration and wait briefly.
pub(crate) fn options() -> PullOptions {
    PullOptions {
        platform: "linux/amd64".parse().unwrap(),
        registries: Registries {
            credentials: Credentials::anonymous(),
            // The registries of the tests are on this machine.
            private: ["127.0.0.0/8".to_owned()].into(),
            ..Registries::default()
        },
        ..PullOptions::default()
    }
}
