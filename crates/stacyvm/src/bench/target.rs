//! The server that is measured: one that runs already, or one of our own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stacyvm_client::Client;

/// How long our own server may take to listen, and to stop.
const SERVER_TIMEOUT: Duration = Duration::from_secs(60);

/// What is measured.
pub(crate) struct Target {
    pub(crate) url: String,
    /// A server of our own, when none was named.
    pub(crate) own: Option<OwnServer>,
}

/// A server process of this program, on a free port of loopback, with a directory that vanishes.
pub(crate) struct OwnServer {
    child: Child,
    directory: PathBuf,
    pub(crate) url: String,
    /// From the start of the process to its first answer.
    pub(crate) first_answer: Duration,
}

impl OwnServer {
    /// Starts it and waits for its first answer.
    pub(crate) async fn start(provider: Option<&str>, network: bool) -> Result<Self> {
        let directory = private_directory("server")?;
        let result = Self::start_in(&directory, provider, network).await;
        if result.is_err() {
            remove(&directory);
        }
        result
    }

    async fn start_in(directory: &Path, provider: Option<&str>, network: bool) -> Result<Self> {
        // A file of its own keeps the operator's configuration out of the measurement, and without a
        // word the host's network as it is.
        let config = directory.join("stacyvm.yaml");
        let network = if network { "bridge" } else { "none" };
        let text = format!("providers:\n  native:\n    network: {network}\n");
        std::fs::write(&config, text).context("cannot write the server's configuration")?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(&config)
            .args(["serve", "--host", "127.0.0.1", "--port", "0"])
            .args(["--log-level", "error", "--log-format", "pretty"])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(provider) = provider {
            command.args(["--provider", provider]);
        }
        for (name, _) in std::env::vars_os() {
            if let Some(name) = name.to_str()
                && name.starts_with("STACYVM_")
                && !name.ends_with("_BIN")
            {
                command.env_remove(name);
            }
        }
        let begin = Instant::now();
        let mut child = command.spawn().context("cannot start the server")?;
        let output = child.stdout.take().context("the server has no output")?;
        let reading = tokio::task::spawn_blocking(move || url_of(BufReader::new(output)));
        let url = match tokio::time::timeout(SERVER_TIMEOUT, reading).await {
            Ok(Ok(Ok(url))) => url,
            other => {
                end(&mut child);
                match other {
                    Ok(Ok(Err(error))) => return Err(error),
                    _ => bail!("the server did not listen in time"),
                }
            }
        };
        let client = Client::new(&url, None, None)?;
        if let Err(error) = client.health().await {
            end(&mut child);
            return Err(error).context("the server does not answer");
        }
        Ok(Self {
            child,
            directory: directory.to_owned(),
            url,
            first_answer: begin.elapsed(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it and removes its directory.
    pub(crate) fn stop(mut self) {
        end(&mut self.child);
        remove(&self.directory);
    }
}

/// The address in the server's first line of output; keeps the pipe open until the server ends.
fn url_of(mut output: impl BufRead + Send + 'static) -> Result<String> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    let url = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .map(str::to_owned);
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    url.context("the server stopped before it listened")
}

/// Asks the process to end, and makes it end when it does not.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let begin = Instant::now();
    while begin.elapsed() < SERVER_TIMEOUT {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A new directory that no other user may enter.
pub(crate) fn private_directory(what: &str) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let stamp = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    let path = std::env::temp_dir().join(format!(
        "stacyvm-bench-{what}-{}-{stamp}",
        std::process::id()
    ));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

pub(crate) fn remove(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        eprintln!("warning: cannot remove {}: {error}", directory.display());
    }
}
