//! Start and end of the agent, signals, and the one place that waits for processes.
//!
//! Every process whose parent dies comes to the agent, as the first process of its namespace or as
//! a subreaper, and every wait happens here: a second waiter would steal exit codes.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::{Signal, WaitOptions, WaitStatus, wait};
use stacyvm_sys::signals;
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::AgentOptions;
use crate::agent::{Agent, Doors, lock};
use crate::links;
use crate::processes::{Process, scan, with_descendants};
use crate::serve;
use crate::tree::{end_all, signal};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

/// How long processes have between SIGTERM and SIGKILL when the agent itself gets a SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// A process that somebody waits for.
#[derive(Debug)]
struct Awaited {
    /// Set to 0 when the number is free for others.
    leader: Arc<AtomicI32>,
    tell: oneshot::Sender<WaitStatus>,
}

/// Who waits for which process.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    awaited: Mutex<HashMap<i32, Awaited>>,
}

impl Reaper {
    /// Waits for a process that has just been started; to be called before anything else is awaited.
    pub(crate) fn expect(&self, pid: i32) -> (Arc<AtomicI32>, oneshot::Receiver<WaitStatus>) {
        let leader = Arc::new(AtomicI32::new(pid));
        let (tell, ended) = oneshot::channel();
        let awaited = Awaited {
            leader: leader.clone(),
            tell,
        };
        lock(&self.awaited).insert(pid, awaited);
        (leader, ended)
    }

    /// How many commands run.
    fn expected(&self) -> usize {
        lock(&self.awaited).len()
    }

    /// Reaps everything that has ended.
    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(awaited) = lock(&self.awaited).remove(&pid.as_raw_nonzero().get()) {
                awaited.leader.store(0, Ordering::Release);
                // A command that nobody follows any more.
                let _ = awaited.tell.send(status);
            }
        }
    }
}

/// What has to happen before there is a runtime, because threads inherit it.
pub(crate) fn prepare(options: AgentOptions) -> io::Result<(Arc<Agent>, Doors, OwnedFd)> {
    signals::reset_dispositions();
    let signals = signals::descriptor(&[SIGCHLD, SIGTERM, SIGINT])?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if !options.init {
        let own = rustix::process::getpid();
        // Without it, orphans go to the machine's init, and only the marks find them.
        let _ = rustix::process::set_child_subreaper(Some(own));
    }
    let (uid, gid) = (options.uid, options.gid);
    let (agent, doors) = Agent::new(options)?;
    signals::set_file_ids(uid, gid);
    Ok((agent, doors, signals))
}

/// Serves at every door until a signal or a peer tells the agent to end.
pub(crate) fn serve_until_told(
    (agent, doors, signals): (Arc<Agent>, Doors, OwnedFd),
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let served = runtime.block_on(async {
        if let Some(listener) = doors.listener {
            let listener = StdListener::from(listener);
            listener.set_nonblocking(true)?;
            let listener = UnixListener::from_std(listener)?;
            tokio::spawn(serve::accept(agent.clone(), listener));
        }
        if let Some([input, output]) = doors.stdio {
            tokio::spawn(links::serve(agent.clone(), links::open(input, output)?));
        }
        // The runtime watches any readable descriptor as if it were a pipe.
        let signals = pipe::Receiver::from_owned_fd_unchecked(signals)?;
        tokio::spawn(follow_signals(agent.clone(), signals));
        agent.ended.notified().await;
        Ok(())
    });
    // A thread in the middle of long work must not hold the end up.
    runtime.shutdown_background();
    served
}

async fn follow_signals(agent: Arc<Agent>, signals: pipe::Receiver) {
    // Something may have ended before the descriptor was watched.
    agent.reaper.reap();
    let mut record = [0; signals::RECORD];
    while signals.readable().await.is_ok() {
        while let Ok(signals::RECORD) = signals.try_read(&mut record) {
            match signals::number(&record) {
                SIGCHLD => agent.reaper.reap(),
                SIGTERM | SIGINT => {
                    let agent = agent.clone();
                    tokio::spawn(async move {
                        end(&agent, GRACE).await;
                        agent.ended.notify_one();
                    });
                }
                _ => {}
            }
        }
    }
}

/// Ends every process that the agent looks after: SIGTERM, then after `grace` SIGKILL. Returns when
/// they are gone and those who followed commands have heard of it.
pub(crate) async fn end(agent: &Agent, grace: Duration) {
    agent.ending.store(true, Ordering::Release);
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let init = agent.init;
    let all = move || -> Vec<Process> {
        let all = scan();
        let mut found = if init {
            all
        } else {
            with_descendants(&all, |process| process.parent == own)
        };
        found.retain(|process| process.pid != own && process.alive());
        found
    };
    let deadline = Instant::now() + grace;
    let mut left = all();
    signal(&left, Signal::TERM);
    while !left.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
        left = all();
    }
    end_all(all).await;
    let patience = Instant::now() + Duration::from_secs(1);
    while agent.reaper.expected() > 0 && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
