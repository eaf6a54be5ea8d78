//! Against Pebble, the ACME server that is made for tests, with its own server of names.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rcgen::{CertificateParams, KeyPair};

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);

/// KilledOnDrop with the test.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An ACME server whose names are managed at `names`.
struct Pebble {
    directory: String,
    names: String,
    root: PathBuf,
    _processes: [KilledOnDrop; 2],
}

/// Ports that were free a moment ago.
fn ports() -> [u16; 4] {
    let taken: [TcpListener; 4] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    taken.map(|listener| listener.local_addr().unwrap().port())
}

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

impl Pebble {
    /// Starts the server, again if another process has taken one of its ports meanwhile.
    fn start(directory: &Path) -> Self {
        (0..10)
            .find_map(|_| Self::try_start(directory))
            .expect("pebble does not start")
    }

    fn try_start(directory: &Path) -> Option<Self> {
        let [api, management, dns, names] = ports();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let path = |name: &str| directory.join(name);
        std::fs::write(path("pebble.pem"), certificate.pem()).unwrap();
        std::fs::write(path("pebble.key"), key.serialize_pem()).unwrap();
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{api}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("pebble.pem"),
            "privateKey": path("pebble.key"),
            "httpPort": 1,
            "tlsPort": 1,
        }});
        std::fs::write(path("pebble.json"), config.to_string()).unwrap();
        let quiet = |name: &str| Stdio::from(File::create(path(name)).unwrap());
        let mut resolver = Command::new("pebble-challtestsrv");
        resolver
            .args(["-dns01", &format!("127.0.0.1:{dns}")])
            .args(["-management", &format!("127.0.0.1:{names}")])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .stdout(quiet("names.log"))
            .stderr(quiet("names.err"));
        let mut server = Command::new("pebble");
        server
            .arg("-config")
            .arg(path("pebble.json"))
            .args(["-dnsserver", &format!("127.0.0.1:{dns}")])
            // No pauses before it looks at a record, and no refused nonces for practice.
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "0")
            .stdout(quiet("pebble.log"))
            .stderr(quiet("pebble.err"));
        let mut processes = [resolver, server].map(|mut one| KilledOnDrop(one.spawn().unwrap()));
        let deadline = Instant::now() + DEADLINE;
        while !(listens(api) && listens(names)) {
            let ended = |one: &mut KilledOnDrop| one.0.try_wait().unwrap().is_some();
            if processes.iter_mut().any(ended) {
                return None;
            }
            assert!(Instant::now() < deadline, "pebble does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self {
            directory: format!("https://localhost:{api}/dir"),
            names: format!("http://127.0.0.1:{names}"),
            root: path("pebble.pem"),
            _processes: processes,
        })
    }
}

/// What an operator would write: it puts a record into the server of names, and notes the call.
fn hook(directory: &Path, names: &str) -> PathBuf {
    let path = directory.join("hook");
    let aside = directory.join("hook.new");
    let script = format!(
        r#"#!/usr/bin/env python3
import json, sys, urllib.request
verb, name, value = sys.argv[1:]
open({calls:?}, "a").write(f"{{verb}} {{name}}\n")
action = {{"present": "set-txt", "cleanup": "clear-txt"}}[verb]
body = json.dumps({{"host": name + ".", "value": value}}).encode()
urllib.request.urlopen("{names}/" + action, body, timeout=30)
"#,
        calls = directory.join("calls").display().to_string(),
    );
    std::fs::write(&aside, script).unwrap();
    std::fs::set_permissions(&aside, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wildcard_is_obtained_kept_and_obtained_again() {
    if !stacyvm_testing::programs_or_skip(&["pebble", "pebble-challtestsrv", "python3"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let pebble = Pebble::start(directory.path());
    let settings = AcmeSettings {
        directory: pebble.directory.clone(),
        email: "operator@example.org".to_owned(),
        domains: vec!["*.box.example.org".to_owned(), "box.example.org".to_owned()],
        hook: hook(directory.path(), &pebble.names),
        hook_timeout: DEADLINE,
        root: Some(pebble.root.clone()),
        storage: directory.path().join("kept"),
    };
    let acme = Acme::new(settings.clone());
    assert!(acme.stored().is_none() && acme.due().is_none());
    let pair = acme.obtain().await.unwrap();
    let names = String::from_utf8_lossy(&pair.cert[0]).into_owned();
    assert!(names.contains("*.box.example.org"), "{names}");

    // Two names, one record name, each put and taken away.
    let mut calls: Vec<_> = std::fs::read_to_string(directory.path().join("calls"))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    calls.sort();
    let call = |verb: &str| format!("{verb} _acme-challenge.box.example.org");
    let (cleanup, present) = (call("cleanup"), call("present"));
    assert_eq!(calls, [cleanup.clone(), cleanup, present.clone(), present]);

    // A restart finds it, and knows when the next one is due.
    let again = Acme::new(settings.clone());
    assert_eq!(again.stored().unwrap().cert, pair.cert);
    assert!(again.due().unwrap() > Timestamp::now());
    let mut files = 0;
    for entry in std::fs::read_dir(&settings.storage).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
        files += 1;
    }
    assert_eq!(files, 2);

    // Other names need another one, with the same account.
    let other = Acme::new(AcmeSettings {
        domains: vec!["*.other.example.org".to_owned()],
        ..settings.clone()
    });
    assert!(other.stored().is_none());
    other.obtain().await.unwrap();
    assert_eq!(std::fs::read_dir(&settings.storage).unwrap().count(), 2);

    // What the hook says goes into the error.
    let refused = Acme::new(AcmeSettings {
        domains: vec!["*.third.example.org".to_owned()],
        hook: "/bin/false".into(),
        ..settings
    });
    let error = refused.obtain().await.unwrap_err();
    assert!(matches!(error, AcmeError::Hook(_)), "{error}");
}
