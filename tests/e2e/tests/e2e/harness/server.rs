//! One `stacyvm serve` with a directory of its own, that can be stopped, killed and started again.
//!
//! It is ended by the process id of our own child only, and what its sandboxes leave behind when
//! a test fails is found through its own data directory.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{self, Response, Streaming};
use super::{SOON, eventually, host, is_root};

/// What the server prints before its address once it listens.
const LISTENS: &str = "StacyVM listens on http://";

/// What a test wants its server to be.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `native`, `mock` or `docker`.
    pub(crate) provider: &'static str,
    /// More of the configuration file, at its top level.
    pub(crate) more: String,
    /// Keys of the native provider, `key: value` each. By default its sandboxes have no network, so
    /// that no test touches the host's: one that wants networks makes a world of its own first.
    pub(crate) native: &'static [&'static str],
    /// Keys of the Docker provider; without any it is off, whatever engine the machine has.
    pub(crate) docker: Vec<String>,
    /// The key that requests carry.
    pub(crate) api_key: Option<&'static str>,
    /// A data directory that is a file system of this many bytes, in a mount namespace of its own.
    pub(crate) small_disk: Option<u64>,
    /// How long its end may wait for what is in flight.
    pub(crate) shutdown_timeout: &'static str,
    /// Where it serves previews beside its own address.
    pub(crate) preview_listen: Option<SocketAddr>,
}

impl Default for Options {
    /// The native provider where it has all that it wants, else the mock one.
    fn default() -> Self {
        Self {
            provider: if is_root() { "native" } else { "mock" },
            more: String::new(),
            native: &["network: none"],
            docker: Vec::new(),
            api_key: None,
            small_disk: None,
            shutdown_timeout: "2s",
            preview_listen: None,
        }
    }
}

/// A running server, or one that was killed and not started again.
#[derive(Debug)]
pub(crate) struct Server {
    child: Option<Child>,
    address: SocketAddr,
    directory: TempDir,
    options: Options,
}

impl Server {
    /// With the options most tests want.
    pub(crate) fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts a server and waits until it answers.
    pub(crate) fn with(options: Options) -> Self {
        let mut server = Self::prepared(options);
        server.resume();
        server
    }

    /// One that has its configuration and was not started.
    pub(crate) fn prepared(options: Options) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("stacyvm-e2e-")
            .tempdir()
            .unwrap();
        let server = Self {
            child: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            directory,
            options,
        };
        server.write_config();
        server
    }

    /// Starts one that has to give up by itself; what it said.
    #[track_caller]
    pub(crate) fn refused(options: Options) -> String {
        let mut server = Self::prepared(options);
        server.launch();
        let status = server.wait();
        assert_eq!(status.code(), Some(1), "{}", server.log());
        server.log()
    }

    /// Starts it again, with the same data. Its port is a new one: another process may have taken
    /// the old one meanwhile.
    pub(crate) fn resume(&mut self) {
        assert!(self.child.is_none(), "it is running");
        let logged = self.log().len();
        self.launch();
        eventually("the server is ready", SOON, || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("the server ended with {status}:\n{}", self.log());
            }
            let log = self.log();
            let Some(address) = log
                .get(logged..)
                .unwrap_or_default()
                .split(LISTENS)
                .nth(1)
                .and_then(first_word)
            else {
                return false;
            };
            self.address = address.parse().unwrap();
            self.try_request("GET", "/ready", None)
                .is_ok_and(|response| response.status == 200)
        });
    }

    fn launch(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = match self.options.small_disk {
            None => self.command(&["serve"]),
            Some(size) => self.behind_a_small_disk(size),
        };
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// The command line of the same binary, talking to this server, with nothing of our own
    /// environment that could change what it does.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = bare_command(self.directory.path());
        command
            .env_remove("STACYVM_PROVIDERS_NATIVE_NETWORK")
            .args(arguments)
            // The registries of the tests listen on the loopback.
            .env("STACYVM_IMAGES_PRIVATE_REGISTRIES", "127.0.0.0/8")
            .env("STACYVM_CONFIG", self.config_path())
            .env("STACYVM_SERVER", format!("http://{}", self.address));
        if let Some(key) = self.options.api_key {
            command.env("STACYVM_API_KEY", key);
        }
        command
    }

    /// Runs a command of the command line to its end.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Finished {
        finish(&mut self.command(arguments))
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it without a word.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it is running");
        let mut status = None;
        eventually("the server has ended", SOON, || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Waits for the end of a server that was killed from outside.
    pub(crate) fn reap(&mut self) {
        self.wait();
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it is running"))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its data is.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Its configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.path().join("stacyvm.yaml")
    }

    /// A place for files of the test.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        // It may be read in the middle of a character.
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A request that must be answered.
    #[track_caller]
    pub(crate) fn request(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        self.try_request(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error:#}"))
    }

    /// A request that may fail, because the server may be dying.
    pub(crate) fn try_request(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Response> {
        http::request(
            self.address,
            method,
            &format!("/api/v1{path}"),
            &self.headers(),
            &encode(body),
        )
    }

    /// A request whose answer is read piece by piece.
    pub(crate) fn open(&self, method: &str, path: &str, body: Option<Value>) -> Streaming {
        http::open(
            self.address,
            method,
            &format!("/api/v1{path}"),
            &self.headers(),
            &encode(body),
        )
        .unwrap_or_else(|error| panic!("{method} {path}: {error:#}"))
    }

    fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers = vec![("Content-Type", "application/json")];
        if let Some(key) = self.options.api_key {
            headers.push(("X-API-Key", key));
        }
        headers
    }

    /// Makes a sandbox and gives back its id.
    #[track_caller]
    pub(crate) fn spawn(&self, request: Value) -> String {
        let sandbox = self
            .request("POST", "/sandboxes", Some(request))
            .expect(201);
        assert_eq!(sandbox["state"], "running", "{sandbox}");
        sandbox["id"].as_str().unwrap().to_owned()
    }

    /// Runs a shell command to its end.
    #[track_caller]
    pub(crate) fn exec(&self, id: &str, command: &str) -> Value {
        self.exec_with(id, json!({ "command": command }))
            .expect(200)
    }

    /// Runs what the request says.
    #[track_caller]
    pub(crate) fn exec_with(&self, id: &str, request: Value) -> Response {
        self.request("POST", &format!("/sandboxes/{id}/exec"), Some(request))
    }

    /// The ids of the sandboxes it knows of.
    #[track_caller]
    pub(crate) fn list(&self) -> Vec<String> {
        self.request("GET", "/sandboxes", None)
            .expect(200)
            .as_array()
            .unwrap()
            .iter()
            .map(|sandbox| sandbox["id"].as_str().unwrap().to_owned())
            .collect()
    }

    fn write_config(&self) {
        let Options {
            provider,
            more,
            shutdown_timeout,
            native,
            docker,
            preview_listen,
            ..
        } = &self.options;
        let previews = preview_listen.map_or(String::new(), |address| {
            format!("  preview_listen: [\"{address}\"]\n")
        });
        let native: String = native.iter().map(|line| format!("    {line}\n")).collect();
        let docker: String = match &docker[..] {
            [] => "    enabled: false\n".to_owned(),
            keys => keys.iter().map(|line| format!("    {line}\n")).collect(),
        };
        let key = self.options.api_key.map_or(String::new(), |key| {
            // A key is asked for as soon as there is one, whatever the switch says.
            format!("auth:\n  enabled: false\n  api_key: {key}\n")
        });
        let text = format!(
            "server:\n  host: 127.0.0.1\n  port: 0\n  data_dir: {}\n  shutdown_timeout: {shutdown_timeout}\n{previews}providers:\n  default: {provider}\n  native:\n    enabled: true\n{native}  mock:\n    enabled: true\n  docker:\n{docker}{key}{more}",
            self.data_dir().display(),
        );
        fs::write(self.config_path(), text).unwrap();
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("server.log")
    }

    /// The server in a mount namespace of its own, with a small file system as its data directory.
    fn behind_a_small_disk(&self, size: u64) -> Command {
        fs::create_dir_all(self.data_dir()).unwrap();
        let plain = self.command(&["serve"]);
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg("mount -t tmpfs -o size=$SIZE,mode=0700 tmpfs \"$DATA\" && exec \"$@\"")
            .arg("sh")
            .arg(plain.get_program())
            .args(plain.get_args())
            .current_dir(self.directory.path());
        for (name, value) in plain.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .env("SIZE", size.to_string())
            .env("DATA", self.data_dir());
        command
    }
}

impl Drop for Server {
    /// Leaves nothing behind, also after a failed test.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let start = log.len().saturating_sub(6000);
            eprintln!(
                "--- end of the server's log\n{}",
                log.get(start..).unwrap_or(&log)
            );
        }
        if let Some(mut child) = self.child.take() {
            if let Ok(response) = self.try_request("GET", "/sandboxes", None) {
                for sandbox in response.json().as_array().into_iter().flatten() {
                    let id = sandbox["id"].as_str().unwrap_or_default();
                    let _ = self.try_request("DELETE", &format!("/sandboxes/{id}"), None);
                }
            }
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            for _ in 0..500 {
                if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        host::sweep(&self.data_dir());
    }
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// What it printed, when it went well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a command to its end.
pub(crate) fn finish(command: &mut Command) -> Finished {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The binary in `directory`, with an environment that holds nothing of ours.
pub(crate) fn bare_command(directory: &Path) -> Command {
    let mut command = Command::new(binary());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        // A binary that was handed to us has its programs inside, and is tested with those.
        let kept = std::env::var_os("STACYVM_BIN").is_none()
            && matches!(name.as_str(), "STACYVM_AGENT_BIN" | "STACYVM_LAUNCHER_BIN");
        if name.starts_with("STACYVM_") && !kept {
            command.env_remove(name);
        }
    }
    command
        .env("HOME", directory)
        .env("STACYVM_PROVIDERS_NATIVE_NETWORK", "none")
        .current_dir(directory);
    command
}

pub(crate) fn binary() -> PathBuf {
    let path = std::env::var_os("STACYVM_BIN").map_or_else(
        || {
            let test = std::env::current_exe().unwrap();
            test.parent().unwrap().parent().unwrap().join("stacyvm")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "there is no {}: these tests are run by `cargo xtask test`",
        path.display()
    );
    path
}

fn first_word(text: &str) -> Option<&str> {
    // Only a whole line has the whole address.
    text.contains('\n')
        .then(|| text.split_whitespace().next())?
}

fn encode(body: Option<Value>) -> Vec<u8> {
    body.map_or_else(Vec::new, |body| body.to_string().into_bytes())
}
