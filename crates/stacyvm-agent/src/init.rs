//! Start and end of the agent, and its signals.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use stacyvm_sys::signals;
use tokio::net::UnixListener;
use tokio::net::unix::pipe;

use crate::agent::{Agent, PeerSockets};
use crate::options::AgentOptions;
use crate::serve;
use crate::shutdown::end_processes;
use crate::stdio;

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// How long processes have between SIGTERM and SIGKILL when the agent itself gets a SIGTERM.
const SIGTERM_TIMEOUT: Duration = Duration::from_secs(2);

/// Does what has to happen before there is a runtime, because threads inherit it.
pub(crate) fn prepare(options: AgentOptions) -> io::Result<(Arc<Agent>, PeerSockets, OwnedFd)> {
    signals::reset_dispositions();
    let signals = signals::descriptor(&[SIGCHLD, SIGTERM, SIGINT])?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if !options.init {
        let own = rustix::process::getpid();
        // Without it, orphans become children of the machine's init, and only their marks tell
        // that they belong to a command.
        let _ = rustix::process::set_child_subreaper(Some(own));
    }
    let (uid, gid) = (options.uid, options.gid);
    let (agent, sockets) = Agent::new(options)?;
    signals::set_file_ids(uid, gid);
    Ok((agent, sockets, signals))
}

/// Serves on every socket until a signal or a peer asks for the end.
pub(crate) fn serve_until_shutdown(
    (agent, sockets, signals): (Arc<Agent>, PeerSockets, OwnedFd),
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let served = runtime.block_on(async {
        if let Some(listener) = sockets.listener {
            let listener = StdListener::from(listener);
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            tokio::spawn(serve::accept(agent.clone(), listener));
        }
        if let Some([input, output]) = sockets.stdio {
            tokio::spawn(stdio::serve(agent.clone(), stdio::open(input, output)?));
        }
        // The runtime watches any readable descriptor as if it were a pipe.
        let signals = pipe::Receiver::from_owned_fd_unchecked(signals)?;
        tokio::spawn(handle_signals(agent.clone(), signals));
        agent.ended.notified().await;
        Ok(())
    });
    // A thread in the middle of long work must not delay the end.
    runtime.shutdown_background();
    served
}

async fn handle_signals(agent: Arc<Agent>, signals: pipe::Receiver) {
    // A child may have ended before the descriptor was watched.
    agent.reaper.reap();
    let mut record = [0; signals::RECORD];
    while signals.readable().await.is_ok() {
        while let Ok(signals::RECORD) = signals.try_read(&mut record) {
            match signals::number(&record) {
                SIGCHLD => agent.reaper.reap(),
                SIGTERM | SIGINT => {
                    let agent = agent.clone();
                    tokio::spawn(async move {
                        end_processes(&agent, SIGTERM_TIMEOUT).await;
                        agent.ended.notify_one();
                    });
                }
                _ => {}
            }
        }
    }
}
