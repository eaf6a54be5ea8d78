//! What all parts of one agent share.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use stacyvm_proto::MAX_CHUNK;
use stacyvm_proto::message::Configure;
use stacyvm_sys::spawn::Spawner;
use tokio::sync::Notify;

use crate::AgentOptions;
use crate::blocking::Blocking;
use crate::exec::table::Table;
use crate::files::FileService;
use crate::init::Reaper;
use crate::logs::Logs;
use crate::preparation;
use crate::users::Users;

/// Marks of commands lie here, far above any limit that somebody sets in earnest.
const MARKS: u64 = 1 << 62;

/// Where peers come from.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) listener: Option<OwnedFd>,
    pub(crate) stdio: Option<[OwnedFd; 2]>,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The sandbox's `/`.
    pub(crate) root: OwnedFd,
    /// Where that is, unless it really is `/`.
    pub(crate) root_path: Option<PathBuf>,
    pub(crate) init: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Whether commands can be given another identity than the agent's own.
    pub(crate) can_switch: bool,
    /// What a command that runs as user 0 has.
    pub(crate) root_capabilities: CapabilitySet,
    /// For commands without input.
    pub(crate) null: OwnedFd,
    pub(crate) files: FileService,
    pub(crate) blocking: Blocking,
    pub(crate) reaper: Reaper,
    pub(crate) spawner: Mutex<Spawner>,
    pub(crate) users: Mutex<Users>,
    pub(crate) logs: Mutex<Logs>,
    pub(crate) execs: Table,
    pub(crate) configure: Mutex<Configure>,
    /// Where output passes through; filled at first use.
    pub(crate) scratch: Mutex<Vec<u8>>,
    pub(crate) ending: AtomicBool,
    /// Told when the agent may exit.
    pub(crate) ended: Notify,
    memory_events: Option<OwnedFd>,
    salt: u64,
    next_exec: AtomicU64,
}

impl Agent {
    /// Takes the options over, but for where peers come from, which is given back.
    pub(crate) fn new(options: AgentOptions) -> io::Result<(Arc<Self>, Doors)> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&options.root, directory, Mode::empty())?;
        let root_capabilities = if options.prepare {
            preparation::prepare(root.as_fd(), &options)?
        } else {
            CapabilitySet::empty()
        };
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let able = rustix::thread::capabilities(None).is_ok_and(|sets| {
            sets.effective
                .contains(CapabilitySet::SETUID | CapabilitySet::SETGID)
        });
        // Outside a pid namespace of one's own, other agents mark processes too.
        let mut salt = [0; 4];
        if !options.init {
            rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
        }
        let agent = Self {
            files: FileService::new(root.as_fd().try_clone_to_owned()?),
            root,
            root_path: (options.root != *"/").then_some(options.root),
            init: options.init,
            uid: options.uid,
            gid: options.gid,
            can_switch: able,
            root_capabilities,
            null,
            blocking: Blocking::default(),
            reaper: Reaper::default(),
            spawner: Mutex::default(),
            users: Mutex::default(),
            logs: Mutex::default(),
            execs: Table::default(),
            configure: Mutex::default(),
            scratch: Mutex::default(),
            ending: AtomicBool::new(false),
            ended: Notify::new(),
            memory_events: options.memory_events,
            salt: u64::from(u32::from_ne_bytes(salt) >> 3),
            next_exec: AtomicU64::new(0),
        };
        let doors = Doors {
            listener: options.listener,
            stdio: options.stdio,
        };
        Ok((Arc::new(agent), doors))
    }

    /// The number of a new command.
    pub(crate) fn next_exec(&self) -> u64 {
        self.next_exec.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The mark of a command's tree: unique among all agents that can see each other's processes.
    pub(crate) fn mark(&self, exec: u64) -> u64 {
        MARKS | self.salt << 32 | (exec & 0xffff_ffff)
    }

    /// How many processes the memory limit has killed so far.
    pub(crate) fn oom_kills(&self) -> u64 {
        let mut buffer = [0; 512];
        let Some(events) = &self.memory_events else {
            return 0;
        };
        let Ok(count) = rustix::io::pread(events, &mut buffer, 0) else {
            return 0;
        };
        let text = String::from_utf8_lossy(&buffer[..count]);
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
            .unwrap_or(0)
    }

    /// Whether everything is coming to its end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

/// Locks what only this thread holds, and never across a wait.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shared buffer, at its full size.
pub(crate) fn scratch(mutex: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    let mut buffer = lock(mutex);
    if buffer.is_empty() {
        buffer.resize(MAX_CHUNK, 0);
    }
    buffer
}
