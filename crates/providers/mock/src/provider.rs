//! The provider itself, over directories and agents.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use stacyvm_provider::ops::Configure;
use stacyvm_provider::{
    AgentSandbox, BoxInfo, BoxMonitor, BoxSpec, BoxState, Boxes, Capability, Health, ImageHold,
    ImageOps, ImageSource, NetworkMode, Networks, Notice, Provider, ProviderError, ProviderInfo,
    SandboxOps, UnixConnector, bind_unix,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats};
use tokio::sync::mpsc;

use crate::directory::SandboxDirectory;
use crate::process::{self, Identity};
use crate::{leftovers, reference};

/// How long an agent may take to answer for the first time.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How long processes have between SIGTERM and SIGKILL when their sandbox is destroyed.
const SIGTERM_TIMEOUT: Duration = Duration::ZERO;
/// How long an agent may take to end all processes before it is killed itself.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Sandboxes without isolation.
#[derive(Debug)]
pub struct MockProvider {
    directory: PathBuf,
    agent: PathBuf,
    /// Connections to the agents of sandboxes, which exist as long as their directories do.
    connections: Mutex<HashMap<SandboxId, Arc<AgentSandbox>>>,
}

impl MockProvider {
    /// Keeps its sandboxes in `directory`, which is made when it is missing, and starts `agent` for
    /// each of them.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(
        directory: impl Into<PathBuf>,
        agent: impl Into<PathBuf>,
    ) -> Result<Self, ProviderError> {
        let step = "open the data directory";
        let directory = directory.into();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .and_then(|()| {
                Ok(Self {
                    // Compared with paths from the kernel, which have no links in them.
                    directory: fs::canonicalize(directory)?,
                    agent: agent.into(),
                    connections: Mutex::default(),
                })
            })
            .map_err(|error| failed(step, error))
    }

    fn directory(&self, id: &SandboxId) -> SandboxDirectory {
        SandboxDirectory::new(&self.directory, id)
    }

    /// Fills the directory and starts the agent in it.
    async fn start(
        &self,
        spec: &BoxSpec,
        directory: &SandboxDirectory,
    ) -> Result<Arc<AgentSandbox>, ProviderError> {
        let (agent, filled) = (self.agent.clone(), directory.clone());
        blocking(move || {
            filled
                .fill()
                .map_err(|error| failed("make the sandbox's files", error))?;
            let listener = bind_unix(&filled.socket())
                .map_err(|error| failed("make the agent's socket", error))?;
            let process = process::start(&agent, &filled.root(), listener.into())
                .map_err(|error| failed("start the agent", error))?;
            filled.write_process(process).map_err(|error| {
                // A later server could not find it.
                let _ = process.kill();
                failed("write down the agent's process", error)
            })
        })
        .await?;
        let configure = Configure {
            env: spec.env.clone(),
            user: spec.user.clone(),
            workdir: spec.workdir.clone(),
        };
        let sandbox = AgentSandbox::new(UnixConnector::new(directory.socket()), Some(configure));
        match tokio::time::timeout(START_TIMEOUT, sandbox.connect()).await {
            Ok(Ok(())) => Ok(Arc::new(sandbox)),
            Ok(Err(error)) => Err(backend("reach the agent", error)),
            Err(_) => Err(backend(
                "reach the agent",
                io::Error::from(io::ErrorKind::TimedOut),
            )),
        }
    }

    /// Ends the sandbox's processes and removes its directory.
    async fn end(&self, id: &SandboxId) -> Result<(), ProviderError> {
        let directory = self.directory(id);
        let known = self.connections.lock().remove(id);
        if !directory.exists() {
            return Ok(());
        }
        let sandbox = known.unwrap_or_else(|| connection(&directory));
        // The agent ends its processes most exactly; the kill below is for one that does not answer.
        let asked = async { sandbox.agent().await?.shutdown(SIGTERM_TIMEOUT).await };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, asked).await.is_err() {
            tracing::warn!(sandbox = %id, "agent did not end its processes in time, killing it");
        }
        sandbox.disconnect();
        let process = agent_process(&directory).await?;
        if let Some(process) = process {
            process
                .kill()
                .map_err(|error| failed("kill the agent", error))?;
            process
                .wait()
                .await
                .map_err(|error| failed("wait for the agent's end", error))?;
        }
        blocking(move || {
            if !leftovers::kill(directory.path(), &directory.root()) {
                return Err(ProviderError::Backend {
                    step: "kill the sandbox's processes",
                    message: "some do not end".to_owned(),
                    source: None,
                });
            }
            directory
                .remove()
                .map_err(|error| failed("remove the sandbox's directory", error))
        })
        .await
    }
}

impl ProviderInfo for MockProvider {
    fn name(&self) -> &'static str {
        "mock"
    }

    fn isolation(&self) -> Isolation {
        Isolation::None
    }

    fn isolations(&self) -> Vec<Isolation> {
        vec![self.isolation()]
    }

    fn capabilities(&self) -> Vec<Capability> {
        vec![
            Capability::Exec,
            Capability::Files,
            Capability::Pty,
            Capability::DetachedExec,
            Capability::Forward,
        ]
    }

    fn default_image(&self) -> &str {
        "host"
    }

    fn default_network(&self) -> NetworkMode {
        NetworkMode::None
    }

    fn degradations(&self) -> Vec<String> {
        vec![
            "sandboxes of the provider mock are plain processes of this machine and are isolated \
             by nothing; use native for code that you do not trust"
                .to_owned(),
            "memory, cpu and process limits are not enforced by the provider mock".to_owned(),
            "sandboxes of the provider mock share the machine's network and run as the server's \
             own user"
                .to_owned(),
        ]
    }
}

#[async_trait]
impl Provider for MockProvider {
    async fn health(&self) -> Health {
        let start = Instant::now();
        let (directory, agent) = (self.directory.clone(), self.agent.clone());
        let checked = blocking(move || {
            let probe = directory.join(".health");
            fs::write(&probe, b"")
                .and_then(|()| fs::remove_file(&probe))
                .map_err(|error| failed("write to the data directory", error))?;
            // Running it is what a spawn will do.
            match std::process::Command::new(&agent).arg("--version").output() {
                Ok(output) if output.status.success() => Ok(()),
                Ok(_) => Err(ProviderError::Unavailable(
                    "the agent program does not run here".to_owned(),
                )),
                Err(error) => Err(ProviderError::Unavailable(format!(
                    "the agent program cannot be started: {}, build it with \"cargo xtask agent\"",
                    error.kind()
                ))),
            }
        })
        .await;
        Health {
            healthy: checked.is_ok(),
            error: checked.err().map(|error| error.to_string()),
            latency: start.elapsed(),
        }
    }

    fn images(&self) -> Option<Arc<dyn ImageOps>> {
        None
    }

    fn networks(&self) -> Option<&dyn Networks> {
        None
    }

    async fn close(&self) {}
}

#[async_trait]
impl Boxes for MockProvider {
    async fn create(&self, spec: &BoxSpec) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        reference::check(&spec.image)?;
        if spec.read_only_rootfs {
            return Err(ProviderError::Unsupported(format!(
                "the provider mock has no {}",
                Capability::ReadOnlyRootfs.as_str()
            )));
        }
        let directory = self.directory(&spec.id);
        let claimed = directory.clone();
        // When this fails nothing was created, and an existing directory is another sandbox's.
        blocking(move || {
            claimed.claim().map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    ProviderError::Invalid("a sandbox of this id exists already".to_owned())
                }
                _ => failed("make the sandbox's directory", error),
            })
        })
        .await?;
        match self.start(spec, &directory).await {
            Ok(sandbox) => {
                self.connections
                    .lock()
                    .insert(spec.id.clone(), sandbox.clone());
                Ok(sandbox)
            }
            Err(error) => {
                if let Err(again) = self.end(&spec.id).await {
                    // `list` reports it, so the next reconciliation tries again.
                    tracing::warn!(sandbox = %spec.id, error = %again, "half-made sandbox left behind");
                }
                Err(error)
            }
        }
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let directory = self.directory(id);
        if !directory.exists() {
            return Err(unknown(id));
        }
        let known = self.connections.lock().get(id).cloned();
        let sandbox = known.unwrap_or_else(|| connection(&directory));
        sandbox
            .connect()
            .await
            .map_err(|error| backend("reach the agent", error))?;
        Ok(self
            .connections
            .lock()
            .entry(id.clone())
            .or_insert(sandbox)
            .clone())
    }

    async fn list(&self) -> Result<Vec<BoxInfo>, ProviderError> {
        let directory = self.directory.clone();
        blocking(move || {
            let failed = |error| failed("read the data directory", error);
            let mut found = Vec::new();
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                let Some(id) = name
                    .to_str()
                    .and_then(|name| name.parse::<SandboxId>().ok())
                else {
                    continue;
                };
                let state = match SandboxDirectory::new(&directory, &id).read_process() {
                    Ok(Some(process)) if process.lives() => BoxState::Running,
                    Ok(Some(_)) => BoxState::Dead,
                    Ok(None) | Err(_) => BoxState::Partial,
                };
                found.push(BoxInfo { id, state });
            }
            found.sort_by(|a, b| a.id.cmp(&b.id));
            Ok(found)
        })
        .await
    }

    async fn destroy(&self, id: &SandboxId) -> Result<(), ProviderError> {
        self.end(id).await
    }
}

#[async_trait]
impl BoxMonitor for MockProvider {
    async fn stats(&self, id: &SandboxId) -> Result<SandboxStats, ProviderError> {
        match self.directory(id).exists() {
            true => Ok(SandboxStats::default()),
            false => Err(unknown(id)),
        }
    }

    async fn wait_exit(&self, id: &SandboxId) {
        loop {
            match agent_process(&self.directory(id)).await {
                Ok(Some(process)) => match process.wait().await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(sandbox = %id, %error, "agent's process cannot be watched");
                    }
                },
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, "agent's process is not known");
                }
            }
            // An unknown state is not an end: a sandbox must not count as stopped because the
            // server could not look, for instance while it shuts down.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn cause_of_end(&self, _: &SandboxId) -> Option<&'static str> {
        None
    }

    fn notices(&self) -> Option<mpsc::Receiver<Notice>> {
        None
    }
}

#[async_trait]
impl ImageSource for MockProvider {
    async fn check_image(&self, image: &str) -> Result<(), ProviderError> {
        reference::check(image)
    }

    async fn prepare_image(&self, _: &str) -> Result<ImageHold, ProviderError> {
        Ok(ImageHold::default())
    }
}

/// A connection to the agent of an existing sandbox, which keeps its defaults for commands.
fn connection(directory: &SandboxDirectory) -> Arc<AgentSandbox> {
    Arc::new(AgentSandbox::new(
        UnixConnector::new(directory.socket()),
        None,
    ))
}

async fn agent_process(directory: &SandboxDirectory) -> Result<Option<Identity>, ProviderError> {
    let directory = directory.clone();
    blocking(move || {
        directory
            .read_process()
            .map_err(|error| failed("read the agent's process", error))
    })
    .await
}

/// Runs blocking work on a thread for such work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => Err(backend("work on the sandbox's files", error)),
    }
}

fn unknown(id: &SandboxId) -> ProviderError {
    ProviderError::NotFound(format!("the provider mock has no sandbox {id}"))
}

/// A failed step: the kind of the error goes to the client, the rest to the log.
fn failed(step: &'static str, error: io::Error) -> ProviderError {
    ProviderError::backend(step, error.kind().to_string(), error)
}

fn backend(
    step: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> ProviderError {
    ProviderError::backend(step, error.to_string(), error)
}
