//! A real registry on the loopback, filled by `skopeo`, with a storage of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use super::oci::Image;
use super::server::finish;
use super::{SOON, eventually, http, skip};

const PROGRAM: &str = "docker-registry";
const FILLER: &str = "skopeo";
/// What the registry logs in front of its address once it listens.
const LISTENS: &str = "listening on ";

/// Who may use a locked registry, and the entry of an htpasswd file for it.
pub(crate) const LOGIN: (&str, &str) = ("keeper", "open-sesame");
const ENTRY: &str = "keeper:$2y$05$abcdefghijklmnopqrstuutXu9KzOt.1yBoZUeFWoT/914/JfszCO\n";

/// A registry, ended with this.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Option<Child>,
    address: SocketAddr,
    locked: bool,
    place: TempDir,
}

impl Registry {
    /// One without a login; none, and the test is skipped, where the programs are missing.
    pub(crate) fn start() -> Option<Self> {
        Self::with(false)
    }

    /// One that wants a login.
    pub(crate) fn locked() -> Option<Self> {
        Self::with(true)
    }

    fn with(locked: bool) -> Option<Self> {
        for program in [PROGRAM, FILLER] {
            if !on_the_path(program) {
                skip(format!("needs the package {program}"));
                return None;
            }
        }
        let place = tempfile::Builder::new()
            .prefix("stacyvm-registry-")
            .tempdir()
            .unwrap();
        let mut registry = Self {
            child: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            locked,
            place,
        };
        registry.launch();
        Some(registry)
    }

    fn launch(&mut self) {
        let passwords = self.path("passwords");
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": false}},
            "storage": {"filesystem": {"rootdirectory": self.path("data")}},
            "http": {"addr": self.address},
        });
        if self.locked {
            fs::write(&passwords, ENTRY).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": passwords}});
        }
        // What is JSON is YAML too.
        fs::write(self.path("config.yml"), config.to_string()).unwrap();
        let log = File::create(self.path("log")).unwrap();
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(self.path("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        eventually("the registry answers", SOON, || {
            let status = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(status.is_none(), "the registry ended: {}", self.log());
            let Some(address) = listens_on(&self.log()) else {
                return false;
            };
            self.address = address;
            http::request(address, "GET", "/v2/", &[], &[]).is_ok()
        });
    }

    /// Ends it; its images stay.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The reference of one of its images.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Takes an image over; answers the digest of its manifest.
    pub(crate) fn push(&self, image: &Image, name: &str) -> String {
        let archive = image.archive();
        let digest = self.path("digest");
        let mut command = Command::new(FILLER);
        command
            .args([
                "--insecure-policy",
                "copy",
                "--quiet",
                "--dest-tls-verify=false",
            ])
            .arg("--digestfile")
            .arg(&digest);
        if self.locked {
            command.args(["--dest-creds", &format!("{}:{}", LOGIN.0, LOGIN.1)]);
        }
        command
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://{}", self.image(name)));
        finish(&mut command).ok();
        fs::read_to_string(&digest).unwrap().trim().to_owned()
    }

    /// What was downloaded, by its digest, and how often.
    pub(crate) fn all_downloads(&self) -> BTreeMap<String, usize> {
        let mut downloads = BTreeMap::new();
        for line in self.log().lines().filter(|line| line.contains("\"GET ")) {
            let blob = line.split("/blobs/").nth(1);
            if let Some(digest) = blob.and_then(|rest| rest.split([' ', '?']).next()) {
                *downloads.entry(digest.to_owned()).or_default() += 1;
            }
        }
        downloads
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(3000);
            eprintln!(
                "--- end of the registry's log\n{}",
                log.get(start..).unwrap_or(&log)
            );
        }
        self.stop();
    }
}

fn listens_on(log: &str) -> Option<SocketAddr> {
    let rest = log.split(LISTENS).nth(1)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
    rest[..end].parse().ok()
}

/// Whether a program is there.
pub(crate) fn on_the_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|place| place.join(program).is_file())
}
