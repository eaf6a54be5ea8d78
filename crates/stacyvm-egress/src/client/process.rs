//! Starts the process and watches it to its end.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PendingOrders, Program};

/// How long the process may take to end once its socket is closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts the program with the socket as its standard input, an empty environment, and a process
/// group of its own, so that a key typed at the server's terminal does not reach it.
pub(super) fn spawn(program: &Program, control: UnixStream) -> io::Result<Child> {
    let control = control.into_std()?;
    control.set_nonblocking(false)?;
    let mut command = std::process::Command::new(&program.path);
    command
        // The name that the process is listed under.
        .arg0("stacyvm")
        .args(&program.arguments)
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(OwnedFd::from(control))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    Command::from(command).kill_on_drop(true).spawn()
}

/// Watches the process to its end. `reading` ends when its socket does, `writing` when the provider
/// drops its handle or the socket is closed.
pub(super) fn supervise(
    mut child: Child,
    reading: impl Future<Output = ()> + Send + 'static,
    mut writing: JoinHandle<()>,
    pending: Arc<PendingOrders>,
) -> watch::Receiver<bool> {
    let (ended, watched) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            () = reading => {}
            _ = child.wait() => {}
            _ = &mut writing => {}
        }
        // Both halves of the socket must be dropped for the process to see its end.
        writing.abort();
        if timeout(EXIT_TIMEOUT, child.wait()).await.is_err() {
            // It was asked to end and did not.
            let _ = child.kill().await;
        }
        pending.lock().take();
        ended.send_replace(true);
    });
    watched
}
