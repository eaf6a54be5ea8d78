//! The provider over directories and agents.

use std::collections::HashMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use stacyvm_provider::ops::Configure;
use stacyvm_provider::{
    AgentSandbox, BoxInfo, BoxMonitor, BoxSpec, BoxState, Boxes, Capability, Health, ImageHold,
    ImageOps, ImageSource, NetworkMode, Networks, Notice, Provider, ProviderError, ProviderInfo,
    SandboxOps, UnixConnector, bind_unix,
};
use stacyvm_types::{Isolation, SandboxId, SandboxStats};
use tokio::sync::mpsc;

use crate::home::Home;
use crate::process::{self, Identity};
use crate::{leftovers, reference};

/// How long an agent may take to answer for the first time.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long processes have between SIGTERM and SIGKILL when their sandbox is destroyed.
const GRACE: Duration = Duration::ZERO;
/// How long an agent may take to end everything before it is ended itself.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

/// Sandboxes without isolation.
#[derive(Debug)]
pub struct MockProvider {
    directory: PathBuf,
    agent: PathBuf,
    /// Connections that stand; what exists is on disk.
    open: Mutex<HashMap<SandboxId, Arc<AgentSandbox>>>,
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
                    // Compared with paths that the kernel tells.
                    directory: fs::canonicalize(directory)?,
                    agent: agent.into(),
                    open: Mutex::default(),
                })
            })
            .map_err(|error| failed(step, error))
    }

    fn home(&self, id: &SandboxId) -> Home {
        Home::of(&self.directory, id)
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxId, Arc<AgentSandbox>>> {
        // Holders only look up, add and take out.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills the directory and starts the agent in it.
    async fn start(&self, spec: &BoxSpec, home: &Home) -> Result<Arc<AgentSandbox>, ProviderError> {
        let (agent, place) = (self.agent.clone(), home.clone());
        blocking(move || {
            place
                .fill()
                .map_err(|error| failed("make the sandbox's files", error))?;
            let listener = bind_unix(&place.socket())
                .map_err(|error| failed("make the agent's socket", error))?;
            let process = process::start(&agent, &place.root(), listener.into())
                .map_err(|error| failed("start the agent", error))?;
            place.record(process).map_err(|error| {
                // Nobody would find it again.
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
        let sandbox = AgentSandbox::new(UnixConnector::new(home.socket()), Some(configure));
        match tokio::time::timeout(START_WITHIN, sandbox.connect()).await {
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
        let home = self.home(id);
        let known = self.opened().remove(id);
        if !home.exists() {
            return Ok(());
        }
        let sandbox = known.unwrap_or_else(|| connection(&home));
        // The agent knows its processes best; when it does not answer, the rest has to do.
        let told = async { sandbox.agent().await?.shutdown(GRACE).await };
        if tokio::time::timeout(SHUTDOWN_WITHIN, told).await.is_err() {
            tracing::warn!(sandbox = %id, "agent did not end its processes in time, killing it");
        }
        sandbox.disconnect();
        let process = recorded(&home).await?;
        if let Some(process) = process {
            process
                .kill()
                .map_err(|error| failed("kill the agent", error))?;
            process
                .ended()
                .await
                .map_err(|error| failed("wait for the agent's end", error))?;
        }
        blocking(move || {
            if !leftovers::kill(home.path(), &home.root()) {
                return Err(ProviderError::Backend {
                    step: "kill the sandbox's processes",
                    message: "some do not end".to_owned(),
                    source: None,
                });
            }
            home.remove()
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
            // Asking for its version runs it, which is what a spawn will do.
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
        let home = self.home(&spec.id);
        let place = home.clone();
        // Failing here, nothing has been made, and what is there belongs to another.
        blocking(move || {
            place.claim().map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    ProviderError::Invalid("a sandbox of this id exists already".to_owned())
                }
                _ => failed("make the sandbox's directory", error),
            })
        })
        .await?;
        match self.start(spec, &home).await {
            Ok(sandbox) => {
                self.opened().insert(spec.id.clone(), sandbox.clone());
                Ok(sandbox)
            }
            Err(error) => {
                if let Err(again) = self.end(&spec.id).await {
                    // It shows in the list, so the next reconciliation tries again.
                    tracing::warn!(sandbox = %spec.id, error = %again, "half-made sandbox left behind");
                }
                Err(error)
            }
        }
    }

    async fn open(&self, id: &SandboxId) -> Result<Arc<dyn SandboxOps>, ProviderError> {
        let home = self.home(id);
        if !home.exists() {
            return Err(unknown(id));
        }
        let known = self.opened().get(id).cloned();
        let sandbox = known.unwrap_or_else(|| connection(&home));
        sandbox
            .connect()
            .await
            .map_err(|error| backend("reach the agent", error))?;
        Ok(self.opened().entry(id.clone()).or_insert(sandbox).clone())
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
                let state = match Home::of(&directory, &id).recorded() {
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
        match self.home(id).exists() {
            true => Ok(SandboxStats::default()),
            false => Err(unknown(id)),
        }
    }

    async fn wait_exit(&self, id: &SandboxId) {
        loop {
            match recorded(&self.home(id)).await {
                Ok(Some(process)) => match process.ended().await {
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
            // Not to know is not the end: a sandbox must not pass for stopped because a server
            // that shuts down could not look.
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

/// A connection to the agent of a sandbox that stands; its agent keeps the defaults that it has.
fn connection(home: &Home) -> Arc<AgentSandbox> {
    Arc::new(AgentSandbox::new(UnixConnector::new(home.socket()), None))
}

async fn recorded(home: &Home) -> Result<Option<Identity>, ProviderError> {
    let home = home.clone();
    blocking(move || {
        home.recorded()
            .map_err(|error| failed("read the agent's process", error))
    })
    .await
}

/// Does work that blocks on a thread for it.
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

/// A failed step of ours: the kind goes to the client, the rest to the log.
fn failed(step: &'static str, error: io::Error) -> ProviderError {
    ProviderError::backend(step, error.kind().to_string(), error)
}

fn backend(
    step: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> ProviderError {
    ProviderError::backend(step, error.to_string(), error)
}
