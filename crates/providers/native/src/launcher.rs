//! The launcher processes: starting them, sending them requests, restarting and ending them.
//!
//! Owns the processes and the wire; knows nothing of boxes. The rule: a launch is never sent twice.
//! When a launcher ends, every launch that it has not answered fails, and the caller removes the box,
//! because it is unknown how far the launch had come.

mod connection;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use stacyvm_launcher::control::{LaunchFailure, LaunchRequest, Launched};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use connection::{Connection, PendingLaunch};

/// First wait before a launcher that ended is started again; doubled up to `MAX_RESTART_DELAY`.
const MIN_RESTART_DELAY: Duration = Duration::from_millis(20);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);
/// After a life of this length a launcher is started again with the first wait.
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// How long a launch waits for a launcher that is being started again.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a launcher may take to end once its socket is closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a launch did not happen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// The launcher reported the step that failed.
    #[error(transparent)]
    Failed(#[from] LaunchFailure),
    /// The launcher ended before it answered; the launch may have happened or not.
    #[error("the launcher stopped before it answered")]
    Lost,
    /// No launcher runs.
    #[error("the launcher does not run")]
    NotRunning,
    /// The socket failed.
    #[error("the launcher's socket failed")]
    Socket(#[source] io::Error),
}

/// All launchers of one provider.
#[derive(Debug)]
pub(crate) struct Launchers {
    all: Vec<Supervised>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Supervised {
    current: watch::Receiver<State>,
    stop: watch::Sender<bool>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Debug)]
enum State {
    Running(Arc<Connection>),
    Starting,
    Stopped,
}

impl Launchers {
    /// Starts `count` launchers.
    ///
    /// # Errors
    /// When the program cannot be started at all.
    pub(crate) fn start(program: &Path, count: usize) -> io::Result<Self> {
        let all = (0..count.max(1))
            .map(|_| Supervised::start(program.to_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            all,
            next: AtomicUsize::new(0),
        })
    }

    /// Launches one sandbox. `descriptors` are the agent's listening socket, the write end of the status
    /// pipe, then its network's namespace and its disk where the request says that there is one.
    pub(crate) async fn launch(
        &self,
        mut request: Box<LaunchRequest>,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Launched, OwnedFd), LaunchError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        let (connection, pending) = self.all[turn].reserve().await?;
        request.seq = pending.seq;
        connection.launch(request, descriptors, pending).await
    }

    /// Process ids of the launchers that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let running = |one: &Supervised| match &*one.current.borrow() {
            State::Running(connection) => Some(connection.pid),
            State::Starting | State::Stopped => None,
        };
        self.all.iter().filter_map(running).collect()
    }

    /// Ends every launcher and waits for it; sandboxes live on.
    pub(crate) async fn close(&self) {
        for one in &self.all {
            let _ = one.stop.send(true);
        }
        for one in &self.all {
            let supervisor = one.supervisor.lock().take();
            if let Some(supervisor) = supervisor {
                let _ = supervisor.await;
            }
        }
    }
}

impl Supervised {
    fn start(program: PathBuf) -> io::Result<Self> {
        let (child, connection) = spawn(&program)?;
        let (state, current) = watch::channel(State::Running(connection.clone()));
        let (stop, stopped) = watch::channel(false);
        let supervisor = tokio::spawn(supervise(program, child, connection, state, stopped));
        Ok(Self {
            current,
            stop,
            supervisor: Mutex::new(Some(supervisor)),
        })
    }

    /// Reserves a number for a launch at the launcher that runs, or at the next one.
    async fn reserve(&self) -> Result<(Arc<Connection>, PendingLaunch), LaunchError> {
        let mut current = self.current.clone();
        let reserving = async {
            loop {
                let connection = match &*current.borrow_and_update() {
                    State::Running(connection) => Some(connection.clone()),
                    State::Starting => None,
                    State::Stopped => return Err(LaunchError::NotRunning),
                };
                // A launcher that has just ended takes no launch; the next one is being started.
                if let Some(connection) = connection
                    && let Some(pending) = connection.reserve()
                {
                    return Ok((connection, pending));
                }
                if current.changed().await.is_err() {
                    return Err(LaunchError::NotRunning);
                }
            }
        };
        tokio::time::timeout(RESTART_TIMEOUT, reserving)
            .await
            .unwrap_or(Err(LaunchError::NotRunning))
    }
}

/// Starts the program with one end of a socket pair as its standard input. Its name is its only
/// argument, its environment is empty, and it has a process group of its own, so that an interrupt
/// typed at the server's terminal does not reach it or the sandboxes that it made.
fn spawn(program: &Path) -> io::Result<(Child, Arc<Connection>)> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut command = std::process::Command::new(program);
    command
        .arg0("stacyvm-launcher")
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let child = Command::from(command).spawn()?;
    let pid = child.id().unwrap_or_default();
    Ok((child, Connection::start(ours, pid)?))
}

async fn supervise(
    program: PathBuf,
    mut child: Child,
    mut connection: Arc<Connection>,
    state: watch::Sender<State>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut delay = MIN_RESTART_DELAY;
    loop {
        let started = tokio::time::Instant::now();
        let asked_to_stop = tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => true,
            () = connection.closed() => false,
        };
        if asked_to_stop {
            state.send_replace(State::Stopped);
            end(&connection, &mut child).await;
            return;
        }
        state.send_replace(State::Starting);
        end(&connection, &mut child).await;
        if started.elapsed() >= STABLE_AFTER {
            delay = MIN_RESTART_DELAY;
        }
        (child, connection) = loop {
            tracing::warn!(
                pause_ms = delay.as_millis(),
                "the launcher stopped and is started again"
            );
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => {
                    state.send_replace(State::Stopped);
                    return;
                }
                () = tokio::time::sleep(delay) => {}
            }
            delay = (delay * 2).min(MAX_RESTART_DELAY);
            match spawn(&program) {
                Ok(new) => break new,
                Err(error) => tracing::error!(%error, "the launcher cannot be started"),
            }
        };
        state.send_replace(State::Running(connection.clone()));
    }
}

/// Closes the socket, which ends the launcher, and waits for its end.
async fn end(connection: &Connection, child: &mut Child) {
    connection.close();
    if tokio::time::timeout(EXIT_TIMEOUT, child.wait())
        .await
        .is_err()
    {
        tracing::warn!("the launcher did not end by itself and is killed");
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests;
